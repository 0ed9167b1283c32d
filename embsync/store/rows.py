"""Assignment of ids to rows: live rows of a snapshot and rows carried from the parent, ascending by id."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embsync.dtypes import Array, Int64, RowNumbers
from embsync.ids import positions_in
from embsync.manifest import RowCounts
from embsync.rows import row_numbers


@dataclass(frozen=True)
class ParentRows:
    """A side of the parent version.

    Attributes
    ----------
    ids : (p,) ascending
    last_seen : (p,) int64
    lineage : (v,) int64
        The versions that the parent descends from, and the parent, ascending.
    """

    ids: Array
    last_seen: Int64
    lineage: Int64


@dataclass(frozen=True)
class RowPlan:
    """Rows of one side of the new version.

    Attributes
    ----------
    ids : (n,) ascending
        Ids of live and carried rows.
    live : (n,) bool
    rows : (t,) row numbers
        The version's row of each snapshot row, in file order.
    parent_live : (t,) row numbers
        The parent's row of each snapshot row whose id is live there, otherwise -1.
    carried, carried_from : (c,) int64
        The version's carried rows, and the parent's rows that they are copied from.
    row_map : (p,) row numbers
        The version's row of each of the parent's rows whose id is live now, otherwise -1.
    counts : RowCounts
        Row counts, without the number of zero rows.
    """

    ids: Array
    live: Array
    rows: RowNumbers
    parent_live: RowNumbers
    carried: Int64
    carried_from: Int64
    row_map: RowNumbers
    counts: RowCounts

    def last_seen(self, number: int, parent: ParentRows | None) -> Int64:
        """Return for each row the last version in which its id was live, (n,) int64; ``number`` is this version."""
        seen = np.full(len(self.ids), number, np.int64)
        if parent is not None:
            seen[self.carried] = parent.last_seen[self.carried_from]
        return seen


def ages(last_seen: Int64, lineage: Int64) -> Int64:
    """Return the number of lineage steps from each row's last live version to the end of ``lineage``.

    Versions that are not in the lineage (trimmed, or on a branch that was rolled back) count as older than all of it.
    """
    places = np.searchsorted(lineage, last_seen)
    known = lineage[np.minimum(places, len(lineage) - 1)] == last_seen
    return np.where(known, len(lineage) - 1 - places, len(lineage)).astype(np.int64)


def plan(ids: Array, parent: ParentRows | None, carry: int) -> RowPlan:
    """Plan the rows of a side.

    Parameters
    ----------
    ids : (t,) unique, in file order
    parent : ParentRows or None
        None in a new space.
    carry : int
        Number of lineage steps for which absent ids are kept.
    """
    # Each array of a side is narrowed as soon as it is computed: memory use of a run peaks while rows are planned.
    order = row_numbers(np.argsort(ids, kind="stable"), len(ids))
    sorted_ids = ids[order]
    if parent is None:
        return _without_parent(sorted_ids, order)
    mine = row_numbers(positions_in(sorted_ids, parent.ids), len(parent.ids))
    was_live = parent.last_seen == parent.lineage[-1]
    known = mine >= 0
    common = known.copy()
    common[known] = was_live[mine[known]]
    kept = _carried(parent, mine[known], carry)
    union, rows_sorted, rows_kept = _merge(sorted_ids, parent.ids[kept])
    live = np.ones(len(union), bool)
    live[rows_kept] = False
    row_map = np.full(len(parent.ids), -1, rows_sorted.dtype)
    row_map[mine[known]] = rows_sorted[known]
    count = int(np.count_nonzero(common))
    return RowPlan(
        ids=union,
        live=live,
        rows=_unsort(rows_sorted, order),
        parent_live=_unsort(np.where(common, mine, mine.dtype.type(-1)), order),
        carried=rows_kept,
        carried_from=kept,
        row_map=row_map,
        counts=RowCounts(
            rows=len(union),
            live=len(ids),
            new=len(ids) - count,
            returned=int(np.count_nonzero(known)) - count,
            gone=int(np.count_nonzero(was_live)) - count,
            carried=len(kept),
            common=count,
        ),
    )


def _without_parent(sorted_ids: Array, order: RowNumbers) -> RowPlan:
    none = np.empty(0, np.int64)
    count = len(sorted_ids)
    return RowPlan(
        ids=sorted_ids,
        live=np.ones(count, bool),
        rows=_unsort(row_numbers(np.arange(count), count), order),
        parent_live=np.full(count, -1, np.int32),
        carried=none,
        carried_from=none,
        row_map=none,
        counts=RowCounts(rows=count, live=count, new=count, returned=0, gone=0, carried=0, common=0),
    )


def _carried(parent: ParentRows, taken: RowNumbers, carry: int) -> Int64:
    """Return the parent's rows whose ids are absent now and recent enough to keep."""
    absent = np.ones(len(parent.ids), bool)
    absent[taken] = False
    rows = np.flatnonzero(absent)
    return rows[ages(parent.last_seen[rows], parent.lineage) + 1 <= carry]


def _merge(first: Array, second: Array) -> tuple[Array, RowNumbers, Int64]:
    """Return the ascending union of two disjoint ascending id arrays, and the positions of each one's ids in it."""
    union = np.empty(len(first) + len(second), np.result_type(first, second))
    to_second = np.arange(len(second), dtype=np.int64) + np.searchsorted(first, second)
    of_first = np.ones(len(union), bool)
    of_first[to_second] = False
    to_first = row_numbers(np.flatnonzero(of_first), len(union))
    union[to_first], union[to_second] = first, second
    return union, to_first, to_second


def _unsort(values: RowNumbers, order: RowNumbers) -> RowNumbers:
    result = np.empty_like(values)
    result[order] = values
    return result
