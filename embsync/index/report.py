"""What the index package hands over: the manifest's ``index`` object, the parent's index, and the finished one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from embsync.dtypes import Float32, Int64
from embsync.errors import StoreError
from embsync.index.files import stream_index

Action = Literal["rebuilt", "rotated", "reused"]


class IndexReport(msgspec.Struct, frozen=True):
    """The manifest's ``index`` object.

    Parameters
    ----------
    factory : str
        FAISS index_factory string the index was made from; never ``auto``.
    metric : str
        ``inner_product``, ``cosine`` or ``l2``.
    action : str
        ``rebuilt``, ``rotated`` or ``reused``.
    reason : str
        Why this action, for people.
    recall_at_10 : float or None
        Share of the exact best ``recall_at`` that the index returns with ``search``; the key keeps its name
        whatever ``recall_at`` is. None without queries.
    target_recall : float
        The configured target.
    search : dict
        Cheapest search parameters that reach the target, or that come within a hundredth of the best recall
        when nothing reaches it. Empty for an exact index.
    labels : int
        Vectors in the FAISS index.
    dead : int
        Those of them that belong to no live row.
    faiss : str
        The FAISS version that wrote the index.
    build : dict
        Build parameters that a factory string cannot say (``efConstruction``, ``keep_max_size_level0``).
    rebuilt_search : dict
        ``search`` as it was after the last rebuild: what ``max_search_cost_growth`` is measured against.
    rotations : int
        Versions since the last rebuild.
    """

    factory: str
    metric: str
    action: str
    reason: str
    recall_at_10: float | None
    target_recall: float
    search: dict[str, int]
    labels: int
    dead: int
    faiss: str
    build: dict[str, int] = {}
    rebuilt_search: dict[str, int] = {}
    rotations: int = 0


@dataclass(frozen=True)
class Previous:
    """The parent version's index.

    Parameters
    ----------
    path : path
        Its ``index.faiss``.
    sha256 : str
        Of that file, from the parent's manifest; verified before the file is loaded.
    labels : (n,) ndarray of int64
        Its ``index_rows.npy``: label to row of the parent, -1 for a dead label.
    row_map : (rows of the parent,) ndarray of int64
        Row of the parent to row of the new version, -1 where the id is not live now.
    report : IndexReport
        The parent's report.
    vectors : (rows of the parent, k) ndarray of float32, optional
        The parent's mapped vectors: what tells that nothing changed (``reused``) for an index that does not
        store vectors bit by bit.
    damage : StoreError, optional
        Why the labels could not be read: the index cannot be used.
    """

    path: Path
    sha256: str
    labels: Int64
    row_map: Int64
    report: IndexReport
    vectors: Float32 | None = None
    damage: StoreError | None = None


@dataclass(frozen=True)
class Built:
    """A finished index, in memory.

    Parameters
    ----------
    labels : (n,) ndarray of int64
        Label to row, -1 for a dead label: what ``index_rows.npy`` holds.
    report : IndexReport
    seconds : mapping
        Wall seconds by step, as far as taken: ``truth``, ``load``, ``rotate``, ``build``, ``gate``.
    damage : StoreError, optional
        Why the parent's index could not be read, for the journal; the index was rebuilt.
    """

    labels: Int64
    report: IndexReport
    index: Any = field(repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict)
    damage: StoreError | None = None

    def write(self, write: Callable[[bytes], object]) -> None:
        """Serialize the index through ``write``, a chunk at a time, without a second copy of it.

        An exception of ``write`` comes back unchanged; nothing is written after it.
        """
        stream_index(self.index, write)
