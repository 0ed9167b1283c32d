"""Convert measurements to records of the manifest and to checks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from math import inf, isfinite, nan

import msgspec
import numpy as np

from embsync.alignment.cross_validation import Fit
from embsync.alignment.drift import RowChange
from embsync.alignment.preservation import map_error, score_error
from embsync.alignment.two_pass import Alignment, SideFit
from embsync.alignment.values import examine
from embsync.checks import CHECKS
from embsync.config import Config
from embsync.limits import Check
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


def created() -> str:
    """Return the current time as in the manifest: RFC 3339 UTC, to the second."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
        changes,
        written.map(lambda side: side.anchors),
        Sides(found.users, found.items),
        Sides(changes.users, changes.items),
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
    change: RowChange,
    anchors: int,
    other: SideFit | None = None,
    other_change: RowChange | None = None,
) -> SideFitRecord:
    """Return the manifest's record of a side, given the measurements of the other side, if there is one."""
    figures = vars(change).copy()
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


def preservation_record(
    found: Alignment, written: Sides[WrittenSide], neighbours: Neighbours, *, threads: int
) -> Preservation:
    """Return the certificate."""
    return Preservation(
        map_error=map_error(found.transform),
        score_error=score_error(written.map(lambda side: side.residual), found.transform, threads=threads),
        top_k_agreement=neighbours.agreement(),
        sampled_users=len(neighbours.queries),
    )


def drift_record(inputs: Inputs, written: Sides[WrittenSide], neighbours: Neighbours) -> DriftRecord | None:
    """Return the manifest's ``drift``, None in a new space."""
    if inputs.parent is None or written.items.drift is None:
        return None
    users = None if written.users is None else written.users.drift
    overlaps = neighbours.overlaps()
    return DriftRecord(parent=inputs.parent.number, items=written.items.drift, users=users, **vars(overlaps))


def checks_of_fit(config: Config, inputs: Inputs, found: Alignment) -> list[Measured]:
    """Return the checks that the first pass allows, before anything is written."""
    e, k, parent = float(inputs.snapshot.width), float(inputs.dimension), inputs.parent
    measured: list[Measured] = []
    for run, part in zip(inputs, found, strict=True):
        measured += _rows_alone(run.name, part, e, parent)
    measured += [
        Measured("truncation_loss", found.truncation_loss, {"max_truncation_loss": config.space.max_truncation_loss}),
        Measured("rank", float(found.rank), {"e": e}),
    ]
    if parent is None:
        return measured
    measured.append(Measured("common", float(found.common), {"k": k}))
    for run, part in zip(inputs, found, strict=True):
        measured += [_coverage(run, part, parent), _live(run, parent)]
    measured.append(Measured("same_snapshot", float(inputs.same_as_parent)))
    return measured


def _rows_alone(name: SideName, part: SideFit, width: float, parent: Version | None) -> list[Measured]:
    """Return the checks of one side alone; if the parent has a figure, limits are relative to it."""
    sums, values = part.sums, examine(part.sums.sample)
    counts = None if parent is None else _counts(parent, name)
    before = None if parent is None else getattr(parent.record.alignment, name)
    zero = None if parent is None or counts is None else _zero_rows(parent, counts, name)
    return [
        Measured(f"rows_{name}", float(sums.rows), {"e": width}),
        Measured(f"zero_rows_{name}", sums.zero_rows / max(sums.rows, 1), _before(zero)),
        Measured(f"saturation_{name}", values.saturation, _before(None if before is None else before.saturation)),
        Measured(f"zero_values_{name}", values.zero_values, _before(None if before is None else before.zero_values)),
        Measured(f"repeated_{name}", values.repeated, _before(None if before is None else before.repeated)),
        Measured(f"magnitude_{name}", part.magnitude),
    ]


def _before(value: float | None) -> dict[str, float]:
    """Return the parent's figure, if there is one, for limits on growth."""
    return {"before": inf if value is None else value}


def _counts(parent: Version, name: SideName) -> RowCounts:
    counts = parent.record.items if name == "items" else parent.record.users
    assert counts is not None  # the sides of a store never change
    return counts


def _zero_rows(parent: Version, counts: RowCounts, name: SideName) -> float:
    """Return the share of the parent's live rows that are all zero; manifests of earlier releases lack the count."""
    if counts.zero is not None:
        return counts.zero / max(counts.live, 1)
    side = parent.side(name)
    suspects = np.flatnonzero((side.vectors[:, 0] == 0) & side.live)
    return float(np.count_nonzero(~side.vectors[suspects].any(axis=1))) / max(counts.live, 1)


def _coverage(run: RunSide, part: SideFit, parent: Version) -> Measured:
    """Return the share of known ids; if it leaves few ids in common, no other check protects the side."""
    counts = _counts(parent, run.name)
    known = run.counts.common + run.counts.returned
    share = known / max(min(run.side.count, counts.rows), 1)
    return Measured(f"coverage_{run.name}", share, {"least": 0.3 if part.judged_alone else 0.5})


def _live(run: RunSide, parent: Version) -> Measured:
    return Measured(f"live_{run.name}", run.side.count / max(_counts(parent, run.name).live, 1))


def checks_of_rows(
    inputs: Inputs, found: Alignment, alignment: AlignmentRecord, preservation: Preservation
) -> list[Measured]:
    """Return the checks that the second pass allows."""
    # The loss by truncation has its own check; these limits are for further errors.
    measured = [Measured("score_error", preservation.score_error, {"truncation_loss": alignment.truncation_loss})]
    if inputs.parent is None:
        return measured
    for run, part in zip(inputs, found, strict=True):
        measured += _of_side(inputs, inputs.parent, run, part, alignment)
    if inputs.users is not None:
        measured.append(Measured("rotation_disagreement", alignment.rotation_disagreement))
    return measured


def _of_side(
    inputs: Inputs, parent: Version, run: RunSide, part: SideFit, alignment: AlignmentRecord
) -> Iterator[Measured]:
    """Yield the figures of a side that the table judges, with the figures that their limits depend on."""
    side, before = getattr(alignment, run.name), getattr(parent.record.alignment, run.name)
    for check in _checks_of(run.name):
        if check.needs == "raw rows" and (getattr(side, check.figure) is None or inputs.same_as_parent):
            continue  # without the parent's raw rows there is nothing to compare
        if check.needs == "parent" and run.counts.common == 0:  # cohorts in turn share no live id with the parent
            continue
        yield _measured(check, part, side, None if before is None else getattr(before, check.figure))


def _checks_of(name: SideName) -> Iterator[Check]:
    """Yield the checks of a side that judge the figure of the same name."""
    return (check for check in CHECKS.values() if check.needs is not None and check.name == f"{check.figure}_{name}")


def checks_of_anchors(part: SideFit, name: SideName, side: SideFitRecord) -> Iterator[Measured]:
    """Yield the checks of a side's fit to its anchors that need no previous version."""
    return (_measured(check, part, side, None) for check in _checks_of(name) if check.needs == "anchors")


def _measured(check: Check, part: SideFit, side: SideFitRecord, before: float | None) -> Measured:
    """Return a side's figure with the figures that its limits depend on."""
    judged = part.judged_alone
    # If all vectors share a component, as in item2vec, matched and mismatched rows differ less.
    mismatched = nan if judged and side.cosine_mismatched is None else side.cosine_mismatched
    of = {
        "room": 1.0 if mismatched is None else min(1.0, (1.0 - mismatched) / 0.7),
        "one_row": 1.0 / max(part.judged, 1),
        "e_per_row": len(part.map) / max(part.judged, 1),
    }
    value: float | None = getattr(side, check.figure)
    if value is None and (check.needs != "anchors" or judged):
        value = nan  # a figure that cannot be measured although its data exist never passes
    return Measured(check.name, value, of if before is None else {**of, "before": before})


def check_of_recall(config: Config, report: IndexReport) -> Measured:
    """Return the recall gate as a check."""
    target = config.index.target_recall
    value = 1.0 if report.recall_at_10 is None else report.recall_at_10
    refuse = config.index.on_missed_recall == "refuse"
    return Measured("recall", value, {"target_recall": target, "required_recall": target if refuse else -inf})


def zero_rows(found: Alignment) -> int:
    """Return how many rows of the snapshot are all zero."""
    return sum(side.sums.zero_rows for side in found)
