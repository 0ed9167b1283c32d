"""One side of a version for consumers: ids, mapped vectors, lookup and age."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embsync.dtypes import Array, Bool, Float32, Float64, Int64, Times
from embsync.errors import UsageError
from embsync.ids import as_stored, positions_in
from embsync.reader.fold_in import FoldIn, Method, folded
from embsync.reader.given_ids import Ids, Missing, as_array, check_missing, decoded, unknown_ids
from embsync.reader.lineage import Lineage, MaxAge, age_limit
from embsync.reader.moments import live_moments
from embsync.reader.sparse_index import SparseIndex
from embsync.reader.tables import arrow_table, data_frame
from embsync.rows import block_rows
from embsync.sides import SideName

if TYPE_CHECKING:
    import pandas
    import pyarrow


#: Minimum number of ids, wanted and stored, for a sparse index; building it reads all pages of the stored ids.
_MANY = 256


def _taken(column: Array, rows: Int64) -> Array:
    """Return rows of a memory-mapped array or of a column in part files; undefined for negative row numbers."""
    if not isinstance(column, np.ndarray):
        return column.take(rows)
    return np.asarray(column).take(rows, axis=0, mode="clip")  # a plain view: a memory map takes 4 µs more


@dataclass(frozen=True)
class Side:
    """Items or users of one version.

    The users of a version of format 2 are in part files: ``ids``, ``vectors``, ``last_seen`` and ``live`` are then
    columns that are read when they are indexed by rows, and cannot be converted to one array
    (:class:`embsync.reader.columns.PartColumn`).

    Attributes
    ----------
    name : str
        "items" or "users".
    ids : (n,) int64 or ``S<m>``, ascending, memory-mapped
        Ids of all rows, live and carried; strings are UTF-8 bytes.
    vectors : (n, k) float32, memory-mapped
        Stable vectors; row i belongs to ``ids[i]``.
    last_seen : (n,) int64, memory-mapped
        The last version in which the id was live.
    moments : (k + 1,) float64, memory-mapped, or None
        Mean of the live vectors, and their mean squared length; None in versions of earlier releases.
    """

    name: SideName
    ids: Array
    vectors: Float32
    last_seen: Int64
    _lineage: Lineage
    moments: Float64 | None = field(default=None, repr=False, compare=False)
    _scored_with: Callable[[], Side] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        """Return the number of ids, live and carried."""
        return len(self.ids)

    def __bool__(self) -> bool:
        """Return True, even for a side without ids."""
        return True

    def __contains__(self, wanted: object) -> bool:
        """Return whether an id is live or carried here; False for a value that cannot be an id of this store."""
        try:
            return bool(self.rows([wanted])[0] >= 0)  # type: ignore[arg-type]
        except UsageError:
            return False

    def blocks(self, rows: int | None = None) -> Iterator[tuple[Array, Float32]]:
        """Yield ids (int64 or str) and vectors, ``rows`` rows at a time.

        Default: 1 MiB of vectors, or a row group of a part file.
        """
        for ids, vectors, _ in self.stored_blocks(rows):
            yield self.named(ids), vectors

    def stored_blocks(self, rows: int | None = None) -> Iterator[tuple[Array, Float32, Int64]]:
        """Yield ids as they are stored (int64 or ``S<m>``), vectors and ``last_seen``, as :meth:`blocks` does."""
        if rows is not None and rows < 1:
            raise UsageError("blocks have at least one row", found=rows)
        if not isinstance(self.ids, np.ndarray):
            yield from self.ids.side_blocks(rows)
            return
        step = block_rows(self.vectors.shape[1]) if rows is None else rows
        for start in range(0, len(self.ids), step):
            part = slice(start, min(start + step, len(self.ids)))
            yield np.asarray(self.ids[part]), self.vectors[part], np.asarray(self.last_seen[part])

    def to_arrow(self) -> pyarrow.Table:
        """Return the side as an Arrow table, without copying memory-mapped vectors; part files are read into memory.

        Returns
        -------
        pyarrow.Table
            ``id`` (int64 or string), ``vector`` (fixed-size list of k float32), ``last_seen`` (int64, the version) and
            ``last_seen_at`` (its time, null if unknown) of every id, live and carried, ascending.

        Raises
        ------
        UsageError
            pyarrow is not installed.
        """
        ids, vectors, last_seen = self._all_rows()
        return arrow_table(ids, vectors, last_seen, self._lineage.times_of(last_seen))

    def to_pandas(self, *, last_seen: bool = False) -> pandas.DataFrame:
        """Return the vectors as a data frame by id, without copying memory-mapped vectors; part files are read.

        ``frame[side.live]`` has only the ids of the version's own snapshot.

        Parameters
        ----------
        last_seen : bool
            Whether to add the columns ``last_seen`` (int64, the version) and ``last_seen_at`` (its time, NaT
            if unknown).

        Returns
        -------
        pandas.DataFrame
            Columns 0 to k - 1 of float32; the index, ``id``, has the ids, live and carried, ascending.

        Raises
        ------
        UsageError
            pandas is not installed.
        """
        ids, vectors, seen = self._all_rows()
        return data_frame(ids, vectors, (seen, self._lineage.times_of(seen)) if last_seen else None)

    def _all_rows(self) -> tuple[Array, Float32, Int64]:
        """Return ids, vectors and ``last_seen`` of all rows; part files are read into memory."""
        if isinstance(self.ids, np.ndarray):
            return self.names(np.arange(len(self.ids))), self.vectors, self.last_seen
        ids, vectors, seen = zip(*self.stored_blocks(), strict=True)
        return self.named(np.concatenate(ids)), np.concatenate(vectors), np.concatenate(seen)

    def lookup(self, ids: Ids, missing: Missing = "raise", *, max_age: MaxAge | None = None) -> Float32:
        """Return the stable vectors of ids, live or carried.

        Parameters
        ----------
        ids : sequence of int or str
            Ids of this side, in any order.
        missing : {"raise", "nan", "mean"}
            For an unknown id: an error, a row of NaN, or the mean of the live vectors.
        max_age : int, str or timedelta, optional
            Older ids count as unknown: a number of versions since they were last in a snapshot (0: live ids only), or
            a duration before this version was made, such as ``"36h"``, ``"7d"`` or ``"2w"``.

        Returns
        -------
        (len(ids), k) float32 ndarray
            Stable vectors, in the order of ``ids``.

        Raises
        ------
        NotFoundError
            An id is unknown and ``missing`` is "raise".
        UsageError
            Ids of the wrong type; ``max_age`` is not an age, or is a duration and the version is of an earlier release.
        """
        check_missing(missing)
        rows = self.rows(ids)
        known = self._known(rows, max_age)
        if missing == "raise" and not known.all():
            raise unknown_ids(self.name, ids, known)
        if not known.any():
            found = np.empty((len(rows), self.vectors.shape[1]), np.float32)
        else:  # one pass without a mask, which would take three times as long; unknown rows are overwritten below
            found = _taken(self.vectors, rows)
        if not known.all():
            found[~known] = self.mean if missing == "mean" else np.nan
        return found

    def known(self, ids: Ids, max_age: MaxAge | None = None) -> Bool:
        """Return which ids the side has, live or carried, that were last in a snapshot within ``max_age``."""
        return self._known(self.rows(ids), max_age)

    def _known(self, rows: Int64, max_age: MaxAge | None) -> Bool:
        known: Bool = rows >= 0
        if max_age is not None:
            known[known] = self._lineage.is_within(self.last_seen[rows[known]], age_limit(max_age))
        return known

    def age(
        self, ids: Ids, missing: Literal["raise", "nan"] = "raise", *, unit: Literal["versions", "seconds"] = "versions"
    ) -> Int64:
        """Return how long ago each id was last in a snapshot, (len(ids),) int64.

        Parameters
        ----------
        ids : sequence of int or str
            Ids of this side, in any order.
        missing : {"raise", "nan"}
            For an unknown id: an error, or -1, since integers have no NaN.
        unit : {"versions", "seconds"}
            Versions of the lineage, 0 for live ids; or seconds between the creation of the last version in which the id
            was live and that of this one, -1 if unknown (see :meth:`last_seen_at`).

        Raises
        ------
        NotFoundError
            An id is unknown and ``missing`` is "raise".
        UsageError
            Another unit, or ids of the wrong type.
        """
        if unit not in ("versions", "seconds"):
            raise UsageError("unknown unit of age", found=repr(unit)[:80], expected="versions or seconds")
        seen = self.origin(ids, missing)
        count = self._lineage.ages if unit == "versions" else self._lineage.seconds
        return np.where(seen < 0, -1, count(seen))

    def last_seen_at(self, ids: Ids, missing: Literal["raise", "nan"] = "raise") -> Times:
        """Return the creation time of the last version in which each id was live.

        Never later than the time of this version: if a clock was set back, later times are clipped to it. Parameters
        are those of :meth:`age`.

        Returns
        -------
        (len(ids),) datetime64[s] ndarray
            UTC. NaT for unknown ids if ``missing`` is "nan", and if the time is unknown: for carried ids in versions of
            earlier releases, and for ids last seen in such a version that the journal no longer has.

        Raises
        ------
        NotFoundError
            An id is unknown and ``missing`` is "raise".
        """
        return self._lineage.times_of(self.origin(ids, missing))

    def origin(self, ids: Ids, missing: Literal["raise", "nan"] = "raise") -> Int64:
        """Return, for each id, the version of its vector: this one, or the last one in which the id was live.

        Parameters are those of :meth:`age`; unknown ids give -1 if ``missing`` is "nan".

        Raises
        ------
        NotFoundError
            An id is unknown and ``missing`` is "raise".
        """
        if missing not in ("raise", "nan"):
            raise UsageError("unknown option for missing ids", found=repr(missing), expected="raise or nan")
        rows = self.rows(ids)
        known = rows >= 0
        if missing == "raise" and not known.all():
            raise unknown_ids(self.name, ids, known, "pass missing=nan to get -1 for unknown ids")
        return np.where(known, _taken(self.last_seen, rows), -1)

    def fold_in(
        self,
        ids: Ids | Sequence[Ids],
        weights: Sequence[float] | Sequence[Sequence[float]] | Array | None = None,
        *,
        method: Method = "ridge",
        regularization: float | None = None,
        missing: Missing = "raise",
        between: Callable[[], None] = lambda: None,
    ) -> Float32:
        """Return a vector for an untrained user (or item) from the items (users) it interacted with.

        Parameters
        ----------
        ids : sequence of ids, or a list of such sequences
            Ids of the *other* side; on a one-sided store, of items.
        weights : like ``ids``, optional
            The weight of each interaction, such as a rating; negative for dislikes, which score -1 instead of 1.
            Default 1.
        method : {"ridge", "mean", "nearest"}
            "ridge": the u that minimizes ``sum_i |w_i| (sign(w_i) - t_i u)^2 + lambda |u|^2``, with lambda =
            ``regularization`` times the mean squared norm of the live rows (default 1: docs/how-to/cold-start.md);
            "mean": the weighted mean of the unit vectors; "nearest": the mean of the 30 live rows of this side with the
            highest cosine to the ridge solution, found in one pass over the side.
        missing : {"raise", "nan", "mean"}
            For unknown ids: an error, or they are left out; a sequence without known ids then gives NaN, or the mean of
            this side.
        between : callable, optional
            Called before each sequence of a list; an exception that it raises is passed on.

        Returns
        -------
        (k,) float32 for one sequence, (n, k) for a list of them
            Stable vectors.

        Raises
        ------
        NotFoundError
            An id is unknown and ``missing`` is "raise".
        UsageError
            No interactions and ``missing`` is "raise"; invalid weights or options; ids of the wrong type.
        """
        check_missing(missing)
        other = self if self._scored_with is None else self._scored_with()
        return folded(self, other, ids, weights, FoldIn(method, regularization, missing, between))

    def prepare(self) -> None:
        """Compute what lookup and fold-in would otherwise compute on their first call."""
        _ = self.live, self.mean, self.energy
        if isinstance(self.ids, np.ndarray):
            _ = self._sparse_index

    def rows(self, ids: Ids) -> Int64:
        """Return the row of each id, -1 for unknown ones."""
        wanted = self.as_stored(ids)
        if not isinstance(self.ids, np.ndarray):
            return self.ids.positions(wanted)
        if len(wanted) < _MANY or len(self.ids) < _MANY:
            return positions_in(wanted, self.ids)
        return self._sparse_index.positions(wanted)

    def positions(self, stored: Array) -> Int64:
        """Return the row of each id, given in the store's type; -1 for unknown ones."""
        return self.ids.positions(stored) if not isinstance(self.ids, np.ndarray) else positions_in(stored, self.ids)

    def names(self, rows: Int64) -> Array:
        """Return the ids of rows as int64 or str; -1 or "" for negative rows."""
        stored = _taken(self.ids, rows)
        found = self.named(stored)
        missing = rows < 0
        if np.count_nonzero(missing):  # takes a fifth of the time of any() for short arrays
            found[missing] = -1 if stored.dtype.kind == "i" else ""
        return found

    def named(self, stored: Array) -> Array:
        """Return stored ids as int64 or str."""
        return stored if stored.dtype.kind == "i" else decoded(stored, self.name, getattr(self.ids, "filename", None))

    @property
    def newest(self) -> int:
        """``last_seen`` of live rows: the last number of the lineage."""
        return int(self._lineage.numbers[-1])

    def live_rows(self) -> Int64:
        """Return the numbers of the live rows, ascending; part files are read a row group at a time."""
        if isinstance(self.last_seen, np.ndarray):
            return np.flatnonzero(self.live)
        start, found = 0, [np.empty(0, np.int64)]
        for live in self.live.blocks():
            found.append(start + np.flatnonzero(live))
            start += len(live)
        return np.concatenate(found)

    def times_of(self, last_seen: Int64) -> Times:
        """Return when these versions were made, as :meth:`last_seen_at` does."""
        return self._lineage.times_of(last_seen)

    def ages_of(self, last_seen: Int64) -> Int64:
        """Return the age of each of these versions in versions, as :meth:`age` does."""
        return self._lineage.ages(last_seen)

    @cached_property
    def live(self) -> Array:
        """(n,) bool: whether the id is in this version's own snapshot."""
        if not isinstance(self.last_seen, np.ndarray):
            return self.last_seen.equal_to(self._lineage.numbers[-1])
        return np.asarray(np.asarray(self.last_seen) == self._lineage.numbers[-1])

    @cached_property
    def mean(self) -> Float32:
        """(k,) float32 mean of the live vectors."""
        return self._moments[0]

    @cached_property
    def energy(self) -> float:
        """Mean squared norm of the live vectors."""
        return self._moments[1]

    @cached_property
    def _sparse_index(self) -> SparseIndex:
        return SparseIndex(self.ids)

    @cached_property
    def _moments(self) -> tuple[Float32, float]:
        if self.moments is not None:
            return self.moments[:-1].astype(np.float32), float(self.moments[-1])
        return live_moments(self.stored_blocks, self.newest, self.vectors.shape[1])

    def as_array(self, ids: Any) -> Array:
        """Return ids as an array of bounded itemsize; see :func:`~embsync.reader.given_ids.as_array`."""
        return as_array(ids, self.ids, self.name)

    def as_stored(self, ids: Ids) -> Array:
        """Return ids in the store's type, int64 or UTF-8, whether or not the side has them."""
        return as_stored(self.as_array(ids), self.ids, f"{self.name} ids")
