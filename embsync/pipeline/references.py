"""The reference rows of a version: its anchors and the start sample, as read from the parent and as written."""

from __future__ import annotations

import numpy as np

from embsync.alignment.anchors import AnchorSide, AnchorUpdate, advance, advance_ages
from embsync.alignment.drift import mean
from embsync.alignment.gram import Pairing
from embsync.dtypes import Array, Bool, Float32, Int64
from embsync.ids import positions_in, sample
from embsync.pipeline.run_sides import START_ROWS, RunSide
from embsync.reader import Version
from embsync.rows import row_numbers
from embsync.sides import SideName
from embsync.similarity import row_cosines
from embsync.store import layout
from embsync.store.staging import Staging


def anchors_of(version: Version, name: SideName) -> AnchorSide:
    """Return the anchors of a side, memory-mapped."""
    ids, vectors = version.reference("anchors", name)
    rate = len(ids) / max(dict(version.record.sides.named())[name].rows, 1)
    return AnchorSide(ids, vectors, rate, ages=version.anchor_ages(name))


def pair(ids: Array, anchors: AnchorSide, update: AnchorUpdate, known: Array, vectors: Float32) -> Pairing:
    """Return the pairing of rows of the snapshot with anchors, given the parent's ``known`` ids and their vectors."""
    places = row_numbers(positions_in(ids, anchors.ids), len(anchors.ids))
    return Pairing.of(places, anchors.reference_of_version(update, places, known, vectors), anchors.ids)


def write_anchors(
    staging: Staging,
    run: RunSide,
    ids: Array,
    rows: Int64,
    live: Bool,
    vectors: Float32,
    update: AnchorUpdate,
    threads: int,
) -> None:
    """Write the anchors for the next snapshot: those of ``ids``, whose stable vectors are ``rows`` of ``vectors``."""
    ids_name, vectors_name = layout.reference_files("anchors", run.name)
    staging.save(ids_name, ids)
    staging.save(layout.ages_file(run.name), advance_ages(ids, live, run.anchors))
    dimension = vectors.shape[1]
    target = staging.array(vectors_name, (len(rows), dimension), np.float32)
    advance(target.put, dimension, ids, vectors, rows, live, run.anchors, update, threads)


def write_start(
    staging: Staging, name: SideName, parent: Version | None, ids: Array, live: Bool, vectors: Float32
) -> float | None:
    """Copy the start sample, or create it; return the mean cosine of its live rows with those of the start."""
    ids_name, vectors_name = layout.reference_files("start", name)
    if parent is None:
        rows = sample(ids, START_ROWS)
        staging.save(ids_name, ids[rows])
        staging.save(vectors_name, vectors[rows])
        return None
    start_ids, start = parent.reference("start", name)
    staging.save(ids_name, start_ids)
    staging.save(vectors_name, start)
    rows = positions_in(start_ids, ids)
    there = np.flatnonzero(rows >= 0)
    there = there[live[rows[there]]]
    return mean(row_cosines(vectors[rows[there]].astype(np.float64), start[there].astype(np.float64)))
