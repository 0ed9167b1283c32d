"""The input and output of the index package: the parent's index, and the finished one."""

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
        The parent's ``index.faiss``.
    sha256 : str
        Hash of that file in the parent's manifest, verified before the file is loaded.
    labels : (n,) ndarray of int64
        The parent's ``index_rows.npy``: row of the parent for each label, -1 for a dead label.
    row_map : (rows of the parent,) ndarray of int64
        Row of the new version for each row of the parent, -1 if the id is no longer live.
    report : IndexReport
        The parent's report.
    vectors : (rows of the parent, k) ndarray of float32, optional
        The parent's stable vectors, which show whether anything changed if the index does not store vectors exactly.
    damage : StoreError, optional
        Why the labels could not be read, which makes the index unusable.
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
        Row of each label, -1 for a dead label; the content of ``index_rows.npy``.
    report : IndexReport
    seconds : mapping
        Wall-clock seconds of the steps that were run: ``truth``, ``load``, ``rotate``, ``build``, ``gate``.
    damage : StoreError, optional
        Why the parent's index could not be read, for the journal; the index was rebuilt.
    """

    labels: Int64
    report: IndexReport
    index: Any = field(repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict)
    damage: StoreError | None = None

    def write(self, write: Callable[[bytes], object]) -> None:
        """Serialize the index through ``write``, chunk by chunk, without a second copy.

        Exceptions of ``write`` propagate unchanged, and nothing more is written.
        """
        stream_index(self.index, write)
