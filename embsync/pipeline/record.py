"""Measurements as the manifest's records and as checks."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from embsync.alignment.preservation import map_error, score_error
from embsync.alignment.stabilize import Alignment, SideFit
from embsync.config import SCORE_ERROR_LIMITS, Config
from embsync.index import IndexReport
from embsync.pipeline.checks import Measured
from embsync.pipeline.inputs import Inputs, SideRun
from embsync.pipeline.neighbours import Neighbours
from embsync.pipeline.write import WrittenSide
from embsync.reader import Version
from embsync.snapshots import Signature, combined
from embsync.store.manifest import (
    AlignmentRecord,
    DriftRecord,
    Moved,
    PreservationRecord,
    RowCounts,
    SideDriftRecord,
    SideFitRecord,
    SnapshotRecord,
)


def fingerprint(inputs: Inputs) -> str:
    """Return the sha256 over the sides' digests of their last complete pass."""
    return combined(run.rows.digest() for run in inputs.sides)


def created() -> str:
    """Return the present as the manifest writes it: RFC 3339 UTC, to the second."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def snapshot_record(inputs: Inputs, print_: str) -> SnapshotRecord:
    """Return the manifest's ``snapshot``."""
    snapshot = inputs.snapshot
    return SnapshotRecord(name=snapshot.name, layout=snapshot.layout, fingerprint=print_, width=snapshot.width,
                          unread=list(snapshot.unread))


def snapshot_event(name: str, path: Path, print_: str | None, signature: Signature) -> dict[str, str | None]:
    """Return the journal's ``snapshot``; ``path`` is absolute."""
    return {"name": name, "path": str(path), "fingerprint": print_, "stamp": signature.stamp or None,
            "listing": signature.listing or None, "mtime_ns": str(signature.mtime_ns)}


def row_counts(run: SideRun) -> RowCounts:
    """Return the manifest's counts of a side."""
    plan = run.plan
    return RowCounts(rows=len(plan.ids), live=len(plan.rows), new=plan.new, returned=plan.returned, gone=plan.gone,
                     carried=len(plan.carried), common=plan.common)


def alignment_record(config: Config, inputs: Inputs, found: Alignment, written: list[WrittenSide]) -> AlignmentRecord:
    """Return the manifest's ``alignment``."""
    parts = [found.items] if found.users is None else [found.items, found.users]
    sides = [_side_fit(part, side) for part, side in zip(parts, written, strict=True)]
    anchors = config.space.anchors
    return AlignmentRecord(
        policy=anchors.policy,
        weight=anchors.weight,
        standardized=config.space.standardize and inputs.users is not None,
        rank=found.rank,
        truncation_loss=found.truncation_loss,
        rotation_disagreement=found.rotation_disagreement,
        items=sides[0],
        users=sides[1] if len(sides) > 1 else None,
    )


def _side_fit(part: SideFit, side: WrittenSide) -> SideFitRecord:
    fit = side.fit
    return SideFitRecord(
        anchors=side.anchors,
        common=part.sums.paired,
        cosine=None if fit is None else fit.cosine,
        cosine_mismatched=None if fit is None else fit.cosine_mismatched,
        share_below_half=None if fit is None else fit.share_below_half,
        norm_ratio=side.drift.norm_ratio,
    )


def preservation_record(found: Alignment, written: list[WrittenSide], neighbours: Neighbours) -> PreservationRecord:
    """Return the certificate."""
    users = written[1].residual if len(written) > 1 else None
    return PreservationRecord(
        map_error=map_error(found.transform),
        score_error=score_error(written[0].residual, users, found.transform),
        top_k_agreement=neighbours.agreement(),
        sampled_users=len(neighbours.queries),
    )


def drift_record(inputs: Inputs, written: list[WrittenSide], neighbours: Neighbours) -> DriftRecord | None:
    """Return the manifest's ``drift``, None in a new space."""
    if inputs.parent is None:
        return None
    overlaps = neighbours.overlaps()
    sides = [_side_drift(run, side) for run, side in zip(inputs.sides, written, strict=True)]
    return DriftRecord(
        parent=inputs.parent.number,
        items=sides[0],
        users=sides[1] if len(sides) > 1 else None,
        overlap_at_10=overlaps.model,
        stale_overlap_at_10=overlaps.stale,
        stale_overlap_at_10_raw=overlaps.stale_raw,
    )


def _side_drift(run: SideRun, side: WrittenSide) -> SideDriftRecord:
    drift = side.drift
    ids = run.plan.ids
    moved = []
    for position, cosine in drift.moved_most:
        name = ids[run.plan.rows[position]]
        moved.append(Moved(id=int(name) if ids.dtype.kind == "i" else name.decode("utf-8"), cosine=cosine))
    return SideDriftRecord(
        cosine_raw=drift.cosine_raw,
        cosine=drift.cosine,
        cosine_p05=drift.cosine_p05,
        displacement_raw=drift.displacement_raw,
        displacement=drift.displacement,
        cosine_since_start=side.since_start,
        moved_most=moved,
    )


def checks_of_fit(config: Config, inputs: Inputs, found: Alignment, print_: str) -> list[Measured]:
    """Return what the first pass lets be judged, before anything is written."""
    width, k = inputs.snapshot.width, inputs.dimension
    measured = [
        Measured(f"rows_{run.name}", float(run.side.count), (4.0 * width, float(width))) for run in inputs.sides
    ]
    measured += [
        Measured("truncation_loss", found.truncation_loss, (None, config.space.max_truncation_loss)),
        Measured("rank", float(found.rank), (float(width), 1.0)),
    ]
    parent = inputs.parent
    if parent is None:
        return measured
    measured.append(Measured("common", float(found.common), (16.0 * k, 2.0 * k)))
    measured += [_live(run, parent) for run in inputs.sides]
    same = float(parent.record.snapshot.fingerprint == print_)
    measured.append(Measured("same_snapshot", same, (0.0, None)))
    return measured


def _live(run: SideRun, parent: Version) -> Measured:
    counts = parent.record.items if run.name == "items" else parent.record.users
    assert counts is not None
    return Measured(f"live_{run.name}", run.side.count / max(counts.live, 1))


def checks_of_rows(
    inputs: Inputs, alignment: AlignmentRecord, preservation: PreservationRecord
) -> list[Measured]:
    """Return what the second pass lets be judged."""
    # What truncation takes has its own check; the limits here are for what comes on top.
    lost = alignment.truncation_loss
    warn, refuse = (limit + lost for limit in SCORE_ERROR_LIMITS)
    measured = [Measured("score_error", preservation.score_error, (warn, refuse))]
    if inputs.parent is None:
        return measured
    for name, side in (("items", alignment.items), ("users", alignment.users)):
        if side is None:
            continue
        margin = None
        if side.cosine is not None and side.cosine_mismatched is not None:
            margin = side.cosine - side.cosine_mismatched
        measured += [
            Measured(f"cosine_{name}", side.cosine),
            Measured(f"cosine_margin_{name}", margin),
            Measured(f"share_below_half_{name}", side.share_below_half),
            Measured(f"norm_ratio_{name}", side.norm_ratio),
        ]
    if inputs.users is not None:
        measured.append(Measured("rotation_disagreement", alignment.rotation_disagreement))
    return measured


def check_of_recall(config: Config, report: IndexReport) -> Measured:
    """Return the recall gate as a check."""
    target = config.index.target_recall
    value = 1.0 if report.recall_at_10 is None else report.recall_at_10
    return Measured("recall", value, (target, target if config.index.on_missed_recall == "refuse" else None))


def zero_rows(found: Alignment) -> int:
    """Return how many rows of the snapshot are all zero."""
    return found.items.sums.zero_rows + (0 if found.users is None else found.users.sums.zero_rows)


