"""Estimating the disk space of a version."""

from __future__ import annotations

import numpy as np

from embsync.config import Config, IndexConfig
from embsync.index import estimate_bytes
from embsync.pipeline.inputs import Inputs
from embsync.pipeline.run_sides import START_ROWS


def estimate(inputs: Inputs, config: Config) -> int:
    """Return an upper estimate of a version's bytes."""
    k = inputs.dimension
    total = estimate_bytes(inputs.items.side.count, k, config.index.factory, _dead_fraction(inputs, config.index))
    for label in inputs.labels.columns:
        total += sum(array.nbytes for _, array in label.files())
    for run in inputs:
        rows, size = run.counts.rows, run.id_bytes
        total += rows * (4 * k + size + 8)
        anchors = min(rows, config.space.anchors.rows)
        total += (anchors + min(rows, START_ROWS)) * (4 * k + size) + 4 * anchors
        total += (inputs.snapshot.width + 1) * k * np.dtype(np.float64).itemsize
    return total


def _dead_fraction(inputs: Inputs, index: IndexConfig) -> float:
    """Return the largest share of dead labels that the index may have."""
    if inputs.parent is None or index.refresh != "rotate":
        return index.compact_dead_fraction
    return 1.0 - inputs.items.side.count / (inputs.items.side.count + inputs.parent.record.index.labels)
