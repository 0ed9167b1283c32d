"""Exact neighbours among the live vectors: the reference for measuring recall."""

from __future__ import annotations

import numpy as np

from embsync.dtypes import Float32, Float64, Int64
from embsync.index.live_rows import LiveVectors
from embsync.similarity import Metric, RunningTopK, scores_of, unit_rows


def exact_neighbours(live: LiveVectors, queries: Float32, k: int, metric: Metric) -> Int64:
    """Return the rows of the ``k`` best live vectors for each query, best first; -1 if there are fewer.

    Cost: one matrix product of all queries with all live rows. Memory: one block, and k candidates per query.
    """
    best = RunningTopK(queries, k, metric)
    for start, block in live.blocks():
        best.observe(live.rows[start : start + len(block)], block)
    return best.result().rows


def exact_scores(live: LiveVectors, queries: Float32, rows: Int64, metric: Metric) -> Float64:
    """Return the (q, m) scores of ``rows`` for their queries by the store's metric, higher is better; -inf for -1."""
    asked = unit_rows(queries) if metric == "cosine" else queries
    scores = np.full(rows.shape, -np.inf)
    step = max(1, live.step // max(rows.shape[1], 1))
    for start in range(0, rows.shape[0], step):
        part = rows[start : start + step]
        found = live.at(np.maximum(part, 0).ravel()).reshape(*part.shape, -1)
        here = scores_of(asked[start : start + step], found, metric)
        scores[start : start + step] = np.where(part >= 0, here, -np.inf)
    return scores
