"""The second pass: writes stable rows, carried rows, anchors, start sample and maps to the staging directory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from embsync.alignment.anchors import choose
from embsync.alignment.drift import DriftMeter, RowChange
from embsync.alignment.moments import Moments
from embsync.alignment.preservation import Residual
from embsync.alignment.transform import Transform
from embsync.alignment.two_pass import Alignment, Observer, SideFit, transform_rows
from embsync.config import Config
from embsync.dtypes import Array, Float32, Float64
from embsync.manifest import PartFile
from embsync.measurements import SideDrift
from embsync.pipeline.inputs import Inputs, LocalRun
from embsync.pipeline.neighbours import Neighbours
from embsync.pipeline.references import write_anchors, write_start
from embsync.pipeline.run_sides import RunSide
from embsync.pipeline.table_run import TableDigest, TableRun, write_table
from embsync.pipeline.watched_rows import WatchedRows
from embsync.progress import Progress
from embsync.rows import as_slice, block_rows
from embsync.sides import SideName, Sides
from embsync.snapshots import Digest, SideDigest, fingerprint_of
from embsync.store import layout
from embsync.store.staging import ArrayFile, Staging


@dataclass(frozen=True)
class WrittenSide:
    """A side after the second pass.

    Attributes
    ----------
    vectors : (n, k) float32
        The memory-mapped file in the staging directory; no rows if an engine wrote them.
    residual : Residual
    change : RowChange
    drift : SideDrift or None
        None in a new space.
    anchors : int
        Number of anchors that the side was aligned to.
    sampled_rows : (s,) int64
        The version's rows of the sampled ids.
    parts : list of PartFile
        The part files, if an engine wrote the rows.
    """

    vectors: Float32
    residual: Residual
    change: RowChange
    drift: SideDrift | None
    anchors: int
    sampled_rows: Array
    parts: list[PartFile] = field(default_factory=list)


def write_sides(
    staging: Staging, inputs: Inputs, found: Alignment, neighbours: Neighbours, config: Config, progress: Progress
) -> tuple[Sides[WrittenSide], str]:
    """Transform, write and measure every side in one pass over its rows; also return the fingerprint of that pass."""

    def write(run: RunSide, part: SideFit) -> WrittenSide:
        if isinstance(run, TableRun):
            progress("writing", inputs.snapshot.items.count / sum(side.count for side in inputs.snapshot.sides))
            return _write_table(staging, inputs, run, part, digests, config)
        assert isinstance(run, LocalRun)
        digest = SideDigest(run.side, run.ids, earlier=False)
        digests.append(digest)
        rows = WatchedRows(digest.rows, inputs.snapshot, run.name, "writing", progress)
        extra: list[Observer] = [lambda start, block, _: digest.update(start, block)]
        if run is inputs.items:
            extra.append(neighbours.observe)
        return _write_side(staging, inputs, run, part, rows, extra, config)

    digests: list[Digest] = []
    written = inputs.map(write, found)
    staging.save(layout.NEIGHBOURS, neighbours.table(written.queries.sampled_rows))
    save_maps(staging, found.transform)
    return written, fingerprint_of(digests)


def save_maps(staging: Staging, maps: Transform) -> None:
    """Write a version's maps and their singular values."""
    for name, matrix in maps.named():
        staging.save(f"transform/{name}.npy", matrix)
    staging.save(layout.SINGULAR_VALUES, maps.singular_values)


def _write_side(
    staging: Staging,
    inputs: Inputs,
    run: LocalRun,
    part: SideFit,
    rows: WatchedRows,
    extra: list[Observer],
    config: Config,
) -> WrittenSide:
    plan = run.plan
    file = staging.array(layout.side_file(run.name, "vectors"), (len(plan.ids), inputs.dimension), np.float32)
    drift_meter = _drift_meter(inputs, run)
    moments = Moments()

    def observe(start: int, block: Array, stable: Float32) -> None:
        file.put(as_slice(plan.rows[start : start + len(block)]), stable)
        if drift_meter is not None:
            drift_meter.observe(start, block, stable)
        moments.observe(start, stable)

    residual = transform_rows(rows, part, [observe, *extra], threads=config.threads)
    _carry(file, inputs, run)
    staging.save(layout.side_file(run.name, "ids"), plan.ids)
    staging.save(layout.side_file(run.name, "moments"), moments.result())
    staging.save(layout.side_file(run.name, "last_seen"), plan.last_seen(inputs.number, run.held))
    chosen = choose(plan.ids, config.space.anchors.rows)
    ids, live = plan.ids[chosen], plan.live[chosen]
    write_anchors(staging, run, ids, chosen, live, file.array, inputs.update, config.threads)
    since_start = write_start(staging, run.name, inputs.parent, plan.ids, plan.live, file.array)
    drift, change = (None, RowChange()) if drift_meter is None else drift_meter.result()
    return WrittenSide(
        vectors=file.array,
        residual=residual,
        change=change,
        drift=None if drift is None else replace(drift, cosine_since_start=since_start),
        anchors=0 if run.anchors is None else len(run.anchors.ids),
        sampled_rows=run.sampled_rows,
    )


def _write_table(
    staging: Staging, inputs: Inputs, run: TableRun, part: SideFit, digests: list[Digest], config: Config
) -> WrittenSide:
    """Write a side with the run's engine."""
    inverse = _parent_inverse(inputs, run.name)
    written = write_table(staging, run, part, inverse, inputs.number, inputs.update, config)
    table = written.table
    digests.append(TableDigest(run.fitted.table, table.counts.live, table.digest))
    return WrittenSide(
        vectors=np.empty((0, inputs.dimension), np.float32),
        residual=written.residual,
        change=table.change,
        drift=None if inputs.parent is None else replace(table.drift, cosine_since_start=written.since_start),
        anchors=0 if run.anchors is None else len(run.anchors.ids),
        sampled_rows=table.sampled_rows,
        parts=written.parts,
    )


def _drift_meter(inputs: Inputs, run: LocalRun) -> DriftMeter | None:
    if inputs.parent is None:
        return None
    inverse = _parent_inverse(inputs, run.name)
    return DriftMeter(run.plan.parent_live, inputs.parent.side(run.name).vectors, inverse, run.id_of)


def _parent_inverse(inputs: Inputs, name: SideName) -> Float64 | None:
    """Return the map back to the parent's raw rows; None if they cannot be compared with the snapshot's."""
    if inputs.parent is None:
        return None
    maps = inputs.parent.transform.maps
    comparable = maps.invertible and len(maps.items) == inputs.snapshot.width
    return maps.inverse(name) if comparable else None


def _carry(file: ArrayFile, inputs: Inputs, run: LocalRun) -> None:
    """Copy the parent's vectors of absent ids."""
    if inputs.parent is None:
        return
    vectors = inputs.parent.side(run.name).vectors
    step = block_rows(inputs.dimension)
    for start in range(0, len(run.plan.carried), step):
        part = slice(start, start + step)
        file.put(as_slice(run.plan.carried[part]), vectors[as_slice(run.plan.carried_from[part])])
