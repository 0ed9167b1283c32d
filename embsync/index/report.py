"""What the index package hands over: the finished index, and what it needs of the parent's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embsync.dtypes import Float32, Int64
from embsync.errors import StoreError
from embsync.index.files import stream_index
from embsync.manifest import IndexReport


@dataclass(frozen=True)
class ParentIndex:
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
