"""Exact neighbours, block by block: what the recall gate compares with."""

from __future__ import annotations

import numpy as np

from embsync.dtypes import Float32, Float64, Int64
from embsync.index.factory import metric_of
from embsync.index.library import faiss
from embsync.index.live import LiveVectors, unit_rows


def exact_neighbours(live: LiveVectors, queries: Float32, k: int, metric: str) -> Int64:
    """Return the rows of the ``k`` best live vectors of each query, best first, -1 where there are fewer.

    Cost: one matrix product of all queries with all live rows. Memory: one block, and 2k candidates a query.
    """
    asked = unit_rows(queries) if metric == "cosine" else queries
    similarity = metric_of(metric) == faiss.METRIC_INNER_PRODUCT
    count = queries.shape[0]
    rows = np.full((count, k), -1, np.int64)
    scores = np.full((count, k), -np.inf, np.float32)
    for start, block in live.blocks():
        here = min(k, block.shape[0])
        found, labels = faiss.knn(asked, block, here, metric=metric_of(metric))
        both_scores = np.hstack([scores, found if similarity else -found])
        both_rows = np.hstack([rows, live.rows[start + labels]])
        order = np.argsort(-both_scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(both_scores, order, axis=1)
        rows = np.take_along_axis(both_rows, order, axis=1)
    return rows


def exact_scores(live: LiveVectors, queries: Float32, rows: Int64, metric: str) -> Float64:
    """Return the store's scores of ``rows`` (q, m) for their queries, higher is better, -inf for row -1."""
    asked = unit_rows(queries) if metric == "cosine" else queries
    scores = np.full(rows.shape, -np.inf)
    step = max(1, live.step // max(rows.shape[1], 1))
    for start in range(0, rows.shape[0], step):
        part = rows[start : start + step]
        found = live.at(np.maximum(part, 0).ravel()).reshape(*part.shape, -1).astype(np.float64)
        question = asked[start : start + step, None, :]
        here = -np.square(found - question).sum(axis=2) if metric == "l2" else (found * question).sum(axis=2)
        scores[start : start + step] = np.where(part >= 0, here, -np.inf)
    return scores
