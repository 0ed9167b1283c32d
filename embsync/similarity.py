"""Similarity of vectors by the three metrics: unit rows, scores, and the exact top k over rows that stream by."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embsync.dtypes import Array, Float32, Float64, Int64, RowNumbers

Metric = Literal["inner_product", "cosine", "l2"]

#: Neighbours by which two spaces are compared.
TOP_K = 10

#: Queries whose scores against a block are held at once: 4 MiB at 128 dimensions. Products of 256 queries took 1.6
#: times as long (7.2 ms against 4.6 ms for 1,000 queries and 2,048 rows, one thread); more only takes memory.
_QUERIES_AT_ONCE = 512


def unit_rows(rows: Array) -> Float32:
    """Return (n, e) float32 rows of length one; zero rows stay zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    norms[norms == 0.0] = 1.0
    return np.ascontiguousarray(rows / norms[:, None], dtype=np.float32)


def row_cosines(left: Array, right: Array) -> Float64:
    """Return the cosine of each pair of rows, NaN where a row is zero."""
    dot = np.einsum("ij,ij->i", left, right).astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", left, left).astype(np.float64) * np.einsum("ij,ij->i", right, right))
    cosines = np.full(len(dot), np.nan)
    np.divide(dot, norms, out=cosines, where=norms > 0)
    return cosines


def scores_of(queries: Array, vectors: Array, metric: Metric) -> Float64:
    """Return the (q, m) scores, higher is better, of m vectors for each query, in float64.

    Parameters
    ----------
    queries : (q, e) ndarray
    vectors : (q, m, e) ndarray
        Each query has its own; with ``metric`` "cosine" both are of length one already.
    metric : {"inner_product", "cosine", "l2"}
    """
    found, asked = vectors.astype(np.float64), queries[:, None, :]
    return np.asarray(-np.square(found - asked).sum(axis=2) if metric == "l2" else (found * asked).sum(axis=2))


@dataclass(frozen=True)
class TopK:
    """Neighbours of each query, best first, equal scores by ascending row.

    Attributes
    ----------
    rows : (q, k) int64
        Row numbers, -1 where there are fewer rows than k.
    scores : (q, k) float64
        Inner product, cosine, or minus the squared distance; -inf where a row is missing.
    tolerance : (q,) float64
        Scores nearer than this are equal within float32 rounding.
    """

    rows: Int64
    scores: Float64
    tolerance: Float64


class RunningTopK:
    """Collects the k best rows of each query from blocks, in any order and from several threads.

    Only rows that reach the k-th best score so far are looked at again, which after a few blocks are almost
    none: the cost is the matrix product and one comparison.

    Parameters
    ----------
    queries : (q, k) ndarray
    k : int
    metric : {"inner_product", "cosine", "l2"}
    """

    def __init__(self, queries: Array, k: int, metric: Metric = "inner_product") -> None:
        exact = np.asarray(queries, dtype=np.float64)
        self._lengths = np.linalg.norm(exact, axis=1)
        scale = np.where(self._lengths > 0, self._lengths, 1.0) if metric != "l2" else np.ones(len(exact))
        if metric == "inner_product":
            # Queries of length 1 to 2 rank the same, and their products with large rows stay within float32. A power
            # of two changes no digit, so that equal scores stay equal.
            scale = np.exp2(np.floor(np.log2(scale)))
        self._queries: Float32 = np.ascontiguousarray(exact / scale[:, None], dtype=np.float32)
        self._scale = scale if metric == "inner_product" else np.ones(len(exact))
        self._metric = metric
        self._k = k
        self._rows = np.full((len(queries), k), -1, np.int64)
        self._scores = np.full((len(queries), k), -np.inf, np.float32)
        self._largest = 0.0
        self._lock = threading.Lock()

    def observe(self, rows: RowNumbers, block: Array) -> None:
        """Take in the vectors ``block`` (b, e), whose row numbers are ``rows`` (b,)."""
        if len(block) == 0 or len(self._queries) == 0:
            return
        vectors = np.asarray(block, dtype=np.float32)
        norms = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        with self._lock:
            self._largest = max(self._largest, float(norms.max()))
        prepared = self._prepared(vectors, norms)
        for first in range(0, len(self._queries), _QUERIES_AT_ONCE):
            part = slice(first, first + _QUERIES_AT_ONCE)
            scores = self._score(part, prepared, norms)
            query, column = self._candidates(part, scores)
            found = scores[query, column]
            with self._lock:
                self._merge(first + query, rows[column].astype(np.int64, copy=False), found)

    def result(self) -> TopK:
        """Return the neighbours found so far."""
        reach = self._lengths * np.sqrt(self._largest)
        if self._metric == "cosine":
            reach = np.ones(len(self._queries))
        elif self._metric == "l2":
            reach = reach + self._largest
        # A float32 dot product errs by about sqrt(e) * 6e-8 of |q||x|: 7e-7 at e = 128, measured 6e-7.
        return TopK(self._rows.copy(), self._scores * self._scale[:, None], 4e-6 * reach)

    def _prepared(self, vectors: Float32, norms: Float64) -> Float32:
        if self._metric != "cosine":
            return vectors
        return np.asarray(vectors / np.sqrt(np.where(norms > 0, norms, 1.0)).astype(np.float32)[:, None])

    def _score(self, part: slice, vectors: Float32, norms: Float64) -> Float32:
        scores: Float32 = self._queries[part] @ vectors.T
        if self._metric == "l2":
            squares = (norms + self._lengths[part, None] ** 2).astype(np.float32)
            scores = np.float32(2.0) * scores - squares
        return scores

    def _candidates(self, part: slice, scores: Float32) -> tuple[Int64, Int64]:
        floor = self._scores[part, -1]
        if not np.isfinite(floor).all() and scores.shape[1] > self._k:
            floor = np.maximum(floor, np.partition(scores, -self._k, axis=1)[:, -self._k])
        query, column = np.divmod(np.flatnonzero(scores >= floor[:, None]), scores.shape[1])
        return query, column

    def _merge(self, query: Int64, rows: Int64, scores: Float32) -> None:
        touched = np.unique(query)
        place = np.concatenate([np.repeat(touched, self._k), query])
        row = np.concatenate([self._rows[touched].ravel(), rows])
        score = np.concatenate([self._scores[touched].ravel(), scores])
        order = np.lexsort((row, -score, place))
        place = place[order]
        rank = np.arange(len(place)) - np.searchsorted(place, place)
        best = rank < self._k
        self._rows[place[best], rank[best]] = row[order][best]
        self._scores[place[best], rank[best]] = score[order][best]


def overlap(first: Int64, second: Int64) -> float | None:
    """Return the mean share of each query's neighbours in ``first`` (q, k) that ``second`` has too.

    Numbers below zero are missing neighbours; None when no query has any.
    """
    shared = ((first[:, :, None] == second[:, None, :]) & (first >= 0)[:, :, None]).any(axis=2).sum(axis=1)
    present = (first >= 0).sum(axis=1)
    counted = present > 0
    return float((shared[counted] / present[counted]).mean()) if counted.any() else None


def agreement(expected: TopK, found: TopK) -> float | None:
    """Return the share of queries whose neighbours agree, ties within rounding counting as equal.

    A query agrees when every neighbour that only one of the two lists has scores within ``tolerance`` of the
    last neighbour of the other list: which of several equal rows is listed last is not a difference.
    """
    if len(expected.rows) == 0:
        return None
    tolerance = np.maximum(expected.tolerance, found.tolerance)[:, None]

    def explained(one: TopK, other: TopK) -> Array:
        present = (one.rows[:, :, None] == other.rows[:, None, :]).any(axis=2)
        with np.errstate(invalid="ignore"):  # -inf against -inf: both lists are short
            tied = np.abs(one.scores - other.scores[:, -1:]) <= tolerance
        agrees: Array = (present | tied).all(axis=1)
        return agrees

    return float((explained(expected, found) & explained(found, expected)).mean())
