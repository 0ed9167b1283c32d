"""Operations on a side whose rows are elsewhere: a few sums, some rows, and one map over all of them.

No value here has one entry per row or depends on the method: the fit, the checks and the records are computed from
these values by the same code as for rows that are read in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from embsync.alignment.drift import RowChange
from embsync.dtypes import Array, Float32, Float64, Int64, UInt64
from embsync.manifest import RowCounts
from embsync.measurements import SideDrift
from embsync.sides import SideName
from embsync.snapshots.column_files import StoredColumns


@dataclass(frozen=True)
class SideTotals:
    """The sums of one pass over a snapshot's side.

    Attributes
    ----------
    rows : int
        Number of rows, t.
    gram : (e, e) float64
    zero_rows : int
        Rows in which every value is zero.
    digest : (2,) uint64
        Sums of :func:`embsync.snapshots.row_digest.row_sums`.
    """

    rows: int
    gram: Float64
    zero_rows: int
    digest: UInt64


@dataclass(frozen=True)
class TakenRows:
    """Some rows of a side, ascending by id.

    Attributes
    ----------
    ids : (n,) int64 or ``S<m>``
    vectors : (n, d) float
        Raw vectors of a snapshot, stable vectors of a version.
    last_seen : (n,) int64
        0 in a snapshot.
    """

    ids: Array
    vectors: Array
    last_seen: Int64


@dataclass(frozen=True)
class Kept:
    """Which absent rows of the parent are carried.

    Attributes
    ----------
    lineage : (v,) int64
        The versions that the parent descends from, and the parent, ascending; empty without a parent.
    carry : int
        Number of lineage steps for which absent ids are kept.
    """

    lineage: Int64
    carry: int

    @property
    def parent(self) -> int:
        """The parent's number; 0 if there is none."""
        return int(self.lineage[-1]) if len(self.lineage) else 0

    @property
    def everything(self) -> bool:
        """Whether even rows last seen outside the lineage are carried."""
        return len(self.lineage) + 1 <= self.carry

    @property
    def numbers(self) -> Int64:
        """The versions in which a carried row may have been live last, unless everything is carried."""
        return self.lineage[max(0, len(self.lineage) - self.carry) :]


@dataclass(frozen=True)
class RowMapping:
    """The parameters of the second pass over a side.

    Attributes
    ----------
    matrix : (e, k) float64
        The map of the raw rows.
    scale : float
        See :func:`embsync.alignment.preservation.residual_scale`.
    number : int
        Number of the new version.
    kept : Kept
    inverse : (k, e) float64 or None
        Map back to the parent's raw rows; None if they cannot be compared.
    sampled : (s,) ids, ascending, or None
        Ids whose row numbers are wanted.
    """

    matrix: Float64
    scale: float
    number: int
    kept: Kept
    inverse: Float64 | None = None
    sampled: Array | None = None


@dataclass(frozen=True)
class WrittenPart:
    """A part file, not yet in its place.

    Attributes
    ----------
    path : Path
    rows : int
    first, last : int or str
        Least and greatest id.
    bytes : int
    sha256 : str
        Of the file as it was read back.
    """

    path: Path
    rows: int
    first: int | str
    last: int | str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class WrittenTable:
    """What the second pass wrote and measured.

    Attributes
    ----------
    parts : tuple of WrittenPart
        In the order of ids.
    counts : RowCounts
        Without the number of zero rows.
    cross, own : (e, k) and (k, k) float64
        T^T D and D^T D of the rounding residual D.
    digest : (2,) uint64
        As in :class:`SideTotals`, of this pass.
    moments : (k + 1,) float64
        Mean of the live rows, followed by their mean squared length.
    drift, change : SideDrift and RowChange
        Against the parent.
    sampled_rows : (s,) int64
        Numbers of the sampled ids' rows, over all parts in their order.
    """

    parts: tuple[WrittenPart, ...]
    counts: RowCounts
    cross: Float64
    own: Float64
    digest: UInt64
    moments: Float64
    drift: SideDrift
    change: RowChange
    sampled_rows: Int64


class SideTable(Protocol):
    """One side of a snapshot or of a version, wherever it is.

    A version's side only needs ids, ``take`` and ``sample_ids``, and can be the parent of another.
    """

    @property
    def name(self) -> str:
        """``items`` or ``users``."""

    @property
    def width(self) -> int:
        """Values in a row."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of the values."""

    @property
    def strings(self) -> bool:
        """Whether ids are strings."""

    def totals(self) -> SideTotals:
        """Return the sums of one pass.

        Raises
        ------
        SnapshotError
            A value is null or not finite, an id is null, or rows differ in width.
        """

    def triangle(self) -> Float64:
        """Return the upper triangular (e, e) QR factor of the rows."""

    def take(self, ids: Array) -> TakenRows:
        """Return the rows of these ids, at most about 100,000, without unknown ones."""

    def sample_ids(self, size: int) -> Array:
        """Return the ids with the lowest hashes, ascending: those that :func:`embsync.ids.sample` chooses."""

    def count(self, parent: Self | None, kept: Kept) -> RowCounts:
        """Return the next version's row counts, which follow from the ids, without zero rows; refuse repeated ids."""

    def write(self, parent: Self | None, mapping: RowMapping, target: Path) -> WrittenTable:
        """Map every row and write the next version's rows, live and carried, as part files in a directory."""


class Engine(Protocol):
    """Reads sides of snapshots and versions as tables."""

    def progress(self) -> object:
        """Return a value that changes while the engine makes progress; called from another thread."""

    def interrupt(self) -> None:
        """Cancel the running jobs; waiting for them then raises an error. Called from another thread."""

    def snapshot(self, name: SideName, stored: StoredColumns, source: str, width: int) -> SideTable:
        """Return a side of a snapshot, in columns of parquet files."""

    def arrays(self, name: SideName, files: Sequence[Path], rows: int, width: int, *, strings: bool) -> SideTable:
        """Return a side of a version in three files: ids, vectors, and the versions last seen."""

    def parts(self, name: SideName, files: Sequence[Path], rows: int, width: int, *, strings: bool) -> SideTable:
        """Return a side of a version in part files."""


def no_rows(width: int, dtype: np.dtype[np.generic], *, strings: bool) -> TakenRows:
    """Return an empty :class:`TakenRows`."""
    return TakenRows(np.empty(0, "S1" if strings else np.int64), np.empty((0, width), dtype), np.empty(0, np.int64))


def in_order(ids: Array, vectors: Array | Float32, last_seen: Int64) -> TakenRows:
    """Return rows ascending by id."""
    order = np.argsort(ids, kind="stable")
    return TakenRows(ids[order], vectors[order], last_seen[order])
