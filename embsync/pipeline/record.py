"""Convert measurements to records of the manifest and to checks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import inf, isfinite, nan

import msgspec
import numpy as np

from embsync.alignment.cross_validation import Fit
from embsync.alignment.drift import RowChange
from embsync.alignment.two_pass import Alignment, SideFit
from embsync.alignment.values import examine
from embsync.checks import CHECKS, room
from embsync.config import Config
from embsync.limits import Needs
from embsync.manifest import IndexReport, RowCounts, SnapshotRecord
from embsync.measurements import AlignmentRecord, DriftRecord, Preservation, SideFitRecord
from embsync.pipeline.checks import Measured
from embsync.pipeline.inputs import Inputs
from embsync.pipeline.neighbours import Neighbours
from embsync.pipeline.run_sides import RunSide
from embsync.pipeline.second_pass import WrittenSide
from embsync.reader import Version
from embsync.sides import SideName, Sides
from embsync.snapshots import Signature


def snapshot_record(inputs: Inputs, print_: str, signature: Signature) -> SnapshotRecord:
    """Return the manifest's ``snapshot``."""
    snapshot = inputs.snapshot
    return SnapshotRecord(
        name=snapshot.name,
        layout=snapshot.layout,
        fingerprint=print_,
        width=snapshot.width,
        unread=list(snapshot.unread),
        mtime_ns=str(signature.mtime_ns),
    )


def row_counts(inputs: Inputs, found: Alignment) -> Sides[RowCounts]:
    """Return the manifest's counts of each side."""
    return inputs.map(lambda run, part: msgspec.structs.replace(run.counts, zero=part.sums.zero_rows), found)


def alignment_record(config: Config, inputs: Inputs, found: Alignment, written: Sides[WrittenSide]) -> AlignmentRecord:
    """Return the manifest's ``alignment``."""
    changes = written.map(lambda side: side.change)
    sides = found.map(
        side_fit,
        Sides(found.users, found.items),
        changes,
        Sides(changes.users, changes.items),
        written.map(lambda side: side.anchors),
    )
    update = inputs.update
    two = update.policy == "two_time_scales"
    return AlignmentRecord(
        policy=update.policy,
        weight=update.slow_weight if two else update.weight,
        parent_share=update.parent_share if two else None,
        standardized=config.space.standardize and inputs.users is not None,
        rank=found.rank,
        truncation_loss=found.truncation_loss,
        rotation_disagreement=found.rotation_disagreement,
        items=sides.items,
        users=sides.users,
    )


def side_fit(
    part: SideFit,
    other: SideFit | None = None,
    change: RowChange | None = None,
    other_change: RowChange | None = None,
    anchors: int = 0,
) -> SideFitRecord:
    """Return the manifest's record of a side, given the measurements of the other side, if there is one."""
    figures = vars(change or RowChange()).copy()
    scale, other_scale = figures.pop("scale_raw"), None if other_change is None else other_change.scale_raw
    columns, counterpart = part.columns, None if other is None else other.columns
    return SideFitRecord(
        anchors=anchors,
        **{**vars(part.fit or Fit()), "common": part.sums.paired},
        **figures,
        **vars(examine(part.sums.sample)),
        **vars(part.axes),
        column_fit=None if columns is None else columns.fit(counterpart),
        column_scale=None if columns is None else columns.scale,
        magnitude=part.magnitude,
        unexplained_columns=None if columns is None else columns.unexplained(counterpart),
        lone_scale=_lone_scale(scale, other_scale),
    )


def _lone_scale(own: float | None, other: float | None) -> float | None:
    """Return the change of a side's raw scale that a change of both sides does not explain; 1 if unchanged."""
    if own is None or other is None or not (own > 0 and other > 0 and isfinite(own) and isfinite(other)):
        return None
    return float(max(own, 1 / own) / max(other, 1 / other) ** 2)


def drift_record(inputs: Inputs, written: Sides[WrittenSide], neighbours: Neighbours) -> DriftRecord | None:
    """Return the manifest's ``drift``, None in a new space."""
    drift = written.map(lambda side: side.drift)
    if inputs.parent is None or drift.items is None:
        return None
    overlaps = neighbours.overlaps()
    return DriftRecord(parent=inputs.parent.number, items=drift.items, users=drift.users, **vars(overlaps))


def checks_of_fit(config: Config, inputs: Inputs, found: Alignment) -> list[Measured]:
    """Return the checks that need only the first pass, made before anything is written."""
    e, parent = float(inputs.snapshot.width), inputs.parent
    # An ill-formed snapshot has raised an error by now; of these figures, only the number of all-zero rows varies.
    zero_rows = float(sum(part.sums.zero_rows for part in found))
    measured = [Measured("finite", zero_rows), Measured("unique_ids", 0.0), Measured("widths", 0.0)]
    for run, part in zip(inputs, found, strict=True):
        measured += _rows_alone(run.name, part, e, parent)
    measured += [
        Measured("truncation_loss", found.truncation_loss, {"max_truncation_loss": config.space.max_truncation_loss}),
        Measured("rank", float(found.rank), {"e": e}),
    ]
    if parent is None:
        return measured
    measured.append(check_of_common(found))
    for run, part in zip(inputs, found, strict=True):
        measured += _rows_known(run, part, parent)
    measured.append(Measured("same_snapshot", float(inputs.same_as_parent)))
    return measured


def _rows_alone(name: SideName, part: SideFit, width: float, parent: Version | None) -> Iterator[Measured]:
    """Yield the checks of one side alone; if the parent has a figure, limits are relative to it."""
    sums, before = part.sums, None if parent is None else getattr(parent.record.alignment, name)
    zero = {} if parent is None else {"before": _zero_rows(parent, name)}
    yield Measured(f"rows_{name}", float(sums.rows), {"e": width})
    yield Measured(f"zero_rows_{name}", sums.zero_rows / max(sums.rows, 1), zero)
    yield from checks_of_side(part, name, side_fit(part), before, ("rows",))


def check_of_common(found: Alignment) -> Measured:
    """Return the number of ids shared with the anchors as a check."""
    return Measured("common", float(found.common), {"k": float(found.items.map.shape[1])})


def _counts(parent: Version, name: SideName) -> RowCounts:
    return dict(parent.record.sides.named())[name]  # the sides of a store never change


def _zero_rows(parent: Version, name: SideName) -> float:
    """Return the share of the parent's live rows that are all zero; manifests of earlier releases lack the count."""
    counts = _counts(parent, name)
    if counts.zero is not None:
        return counts.zero / max(counts.live, 1)
    side = parent.side(name)
    suspects = np.flatnonzero((side.vectors[:, 0] == 0) & side.live)
    return float(np.count_nonzero(~side.vectors[suspects].any(axis=1))) / max(counts.live, 1)


def _rows_known(run: RunSide, part: SideFit, parent: Version) -> list[Measured]:
    """Return the checks of a side's row counts; if few ids are common to both versions, only these protect the side."""
    counts = _counts(parent, run.name)
    known = (run.counts.common + run.counts.returned) / max(min(run.side.count, counts.rows), 1)
    return [
        Measured(f"coverage_{run.name}", known, {"too_few": float(not part.judged_alone)}),
        Measured(f"live_{run.name}", run.side.count / max(counts.live, 1)),
    ]


def checks_of_rows(
    found: Alignment, preservation: Preservation, sides: Sides[Iterator[Measured]] | None
) -> list[Measured]:
    """Return the checks that need the second pass, given those of each side, or None if a new space begins."""
    # The loss by truncation has its own check; these limits are for further errors.
    measured = [Measured("score_error", preservation.score_error, {"truncation_loss": found.truncation_loss})]
    if sides is not None:
        measured += chain(*sides)
        if sides.users is not None:
            measured.append(Measured("rotation_disagreement", found.rotation_disagreement))
    return measured


def checks_of_sides(inputs: Inputs, found: Alignment, alignment: AlignmentRecord) -> Sides[Iterator[Measured]] | None:
    """Return the checks of each side's figures that need the second pass; None if a new space begins."""
    parent = inputs.parent
    if parent is None:
        return None

    def checks(part: SideFit, run: RunSide) -> Iterator[Measured]:
        side, before = (getattr(record, run.name) for record in (alignment, parent.record.alignment))
        needs: tuple[Needs, ...] = ("anchors",)
        if run.counts.common:  # alternating cohorts share no live id with the parent
            needs += ("parent",)
        if not inputs.same_as_parent:
            needs += ("raw rows",)
        return checks_of_side(part, run.name, side, before, needs)

    return found.map(checks, inputs)


def checks_of_side(
    part: SideFit,
    name: SideName,
    side: SideFitRecord,
    before: SideFitRecord | None = None,
    needs: tuple[Needs, ...] = ("anchors",),
) -> Iterator[Measured]:
    """Yield a side's figures that the table judges, with the figures that their limits depend on.

    Parameters
    ----------
    part : SideFit
    name : {"items", "users"}
    side : SideFitRecord
    before : SideFitRecord, optional
        The parent's.
    needs : tuple of str
        Which data there are; checks that need others are not made.
    """
    rows = max(part.judged, 1)
    figures = {"room": room(side.cosine_mismatched or 0.0), "one_row": 1.0 / rows, "e_per_row": len(part.map) / rows}
    for check in CHECKS.values():
        if check.needs not in needs or check.name != f"{check.figure}_{name}":
            continue
        value: float | None = getattr(side, check.figure)
        if value is None and check.needs == "raw rows":
            continue  # without the parent's raw rows there is nothing to compare
        if value is None and (check.needs != "anchors" or part.judged_alone):
            value = nan  # a figure that cannot be measured although its data exist never passes
        earlier: float | None = getattr(before, check.figure, None)
        yield Measured(check.name, value, figures if earlier is None else {**figures, "before": earlier})


def check_of_recall(config: Config, report: IndexReport) -> Measured:
    """Return the recall gate as a check."""
    target = config.index.target_recall
    value = 1.0 if report.recall_at_10 is None else report.recall_at_10
    refuse = config.index.on_missed_recall == "refuse"
    return Measured("recall", value, {"target_recall": target, "required_recall": target if refuse else -inf})
