"""Labels of the rows of a version: those of the snapshot, otherwise those of the parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embsync.dtypes import Array, Int64
from embsync.errors import SnapshotError
from embsync.ids import positions_in
from embsync.labels import LabelColumn, Piece, combined
from embsync.manifest import LabelRecord
from embsync.reader import Version
from embsync.snapshots.labels import Labels
from embsync.snapshots.snapshot import Snapshot
from embsync.store.rows import RowPlan
from embsync.store.staging import Staging


@dataclass(frozen=True)
class LaidOut:
    """Labels of all rows of a version's items, and the number of ids in their table that are not items.

    ``problem`` is an error in a snapshot's labels, held until its vectors are checked, whose errors take precedence.
    """

    columns: tuple[LabelColumn, ...] = ()
    unknown: Mapping[str, int] | None = None
    problem: SnapshotError | None = None

    def require(self) -> None:
        """Raise the problem, if there is one."""
        if self.problem is not None:
            raise self.problem

    def save(self, staging: Staging) -> list[LabelRecord]:
        """Write the files and return the manifest's ``labels``."""
        unknown = self.unknown or {}
        records = []
        for column in self.columns:
            for path, array in column.files():
                staging.save(path, array)
            records.append(LabelRecord(column.name, column.kind, column.nulls, unknown.get(column.name, 0)))
        return records


def read_labels(snapshot: Snapshot, parent: Version | None, names: Sequence[str] | None, ids: Array) -> Labels | None:
    """Return a snapshot's labels, None if none are configured.

    Raises
    ------
    SnapshotError
        They are missing, ill-formed, or of a different type from the parent's.
    """
    if snapshot.labels is None:
        return None
    kinds = {} if parent is None else {name: label.kind for name, label in parent.labels.items()}
    labels = snapshot.labels.read(names, kinds, "integer" if ids.dtype.kind == "i" else "string")
    rows = len(ids) if labels.ids is None else len(labels.ids)
    for column in labels.columns:
        if len(column) != rows:
            raise SnapshotError(
                "changed while it was read", where=labels.where, found=f"{len(column)} labels", expected=rows
            )
    return labels


def of_snapshot(snapshot: Snapshot, parent: Version | None, plan: RowPlan, configured: Sequence[str] | None) -> LaidOut:
    """Return the labels of a new version, or the problem with those of the snapshot.

    If none are configured, every id keeps its labels; otherwise only the configured labels are published.
    """
    try:
        return _laid_out(read_labels(snapshot, parent, configured, plan.ids), parent, plan, configured is not None)
    except SnapshotError as error:
        return LaidOut(problem=error)


def _laid_out(labels: Labels | None, parent: Version | None, plan: RowPlan, configured: bool) -> LaidOut:
    before = _parent_rows(parent, plan)
    if labels is None:
        held = {} if parent is None or configured else parent.labels
        to = np.flatnonzero(before >= 0)
        columns = (combined(name, one.kind, len(before), [(one, to, before[to])]) for name, one in held.items())
        return LaidOut(tuple(columns))
    if labels.ids is None:
        to, rows, unknown = plan.rows.astype(np.int64), np.arange(len(plan.rows)), 0
    else:
        to, rows, unknown = placed(labels, plan.ids)
    held = {} if parent is None else parent.labels
    return LaidOut(
        tuple(replaced(column, held.get(column.name), before, to, rows, plan.live) for column in labels.columns),
        {column.name: unknown for column in labels.columns},
    )


def placed(labels: Labels, ids: Array) -> tuple[Int64, Int64, int]:
    """Return the rows of ascending ids that have labels, their rows in the table, and the number of its other ids.

    Raises
    ------
    SnapshotError
        None of the table's ids is known: it is another table.
    """
    assert labels.ids is not None
    places = positions_in(labels.ids, ids)
    rows = np.flatnonzero(places >= 0)
    if len(labels.ids) and len(rows) == 0:
        raise SnapshotError(
            "labels for other ids",
            where=labels.where,
            found=f"{_shown(labels.ids)}, none of which is an item",
            expected=f"ids such as {_shown(ids)}",
        )
    return places[rows], rows, len(labels.ids) - len(rows)


def _shown(ids: Array) -> str:
    return ", ".join(one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in ids[:3].tolist())


def replaced(
    column: LabelColumn, held: LabelColumn | None, before: Int64, to: Int64, rows: Int64, fresh: Array | None = None
) -> LabelColumn:
    """Return a column with new values in rows ``to``, and in other rows its previous values from rows ``before``.

    Rows in ``fresh`` keep no previous value.
    """
    pieces: list[Piece] = [(column, to, rows)]
    if held is not None:
        old = before >= 0
        old[to] = False
        if fresh is not None:
            old &= ~fresh
        pieces.append((held, np.flatnonzero(old), before[old]))
    return combined(column.name, column.kind, len(before), pieces)


def _parent_rows(parent: Version | None, plan: RowPlan) -> Int64:
    """Return the parent's row of each row, -1 for ids that it does not have."""
    before = np.full(len(plan.ids), -1, np.int64)
    if parent is not None:
        known = np.flatnonzero(plan.row_map >= 0)
        before[plan.row_map[known]] = known
        before[plan.carried] = plan.carried_from
    return before
