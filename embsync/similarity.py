"""Similarity of vectors by the three metrics: unit rows, scores, and the exact top k over streamed rows."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embsync.dtypes import Array, Float32, Float64, Int64, RowNumbers

Metric = Literal["inner_product", "cosine", "l2"]

#: Neighbours by which two spaces are compared.
TOP_K = 10

#: Queries scored against a block at once: 4 MiB at 128 dimensions. With 256 queries the product took 1.6 times as long
#: (7.2 ms against 4.6 ms for 1,000 queries and 2,048 rows, one thread); more queries only need more memory.
_QUERIES_AT_ONCE = 512
#: Candidates held for each neighbour that is wanted, before the best are chosen of them.
_CANDIDATES = 4


def unit_rows(rows: Array) -> Float32:
    """Return (n, e) float32 rows of length one; zero rows stay zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    norms[norms == 0.0] = 1.0
    return np.ascontiguousarray(rows / norms[:, None], dtype=np.float32)


def row_cosines(left: Array, right: Array) -> Float64:
    """Return the cosine of each pair of rows, NaN where a row is zero.

    Where one side has more columns, as after a space was widened, the other has zeros there.
    """
    width = min(left.shape[1], right.shape[1])
    dot = np.einsum("ij,ij->i", left[:, :width], right[:, :width]).astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", left, left).astype(np.float64) * np.einsum("ij,ij->i", right, right))
    cosines = np.full(len(dot), np.nan)
    np.divide(dot, norms, out=cosines, where=norms > 0)
    return cosines


def lowest(values: Array, count: int) -> Int64:
    """Return the positions of the ``count`` lowest values, lowest first, equal ones by position; NaN is left out."""
    known = np.flatnonzero(~np.isnan(values))
    if 0 < count < len(known):  # no need to sort all of them
        known = known[values[known] <= np.partition(values[known], count - 1)[count - 1]]
    return known[np.argsort(values[known], kind="stable")[:count]]


def scores_of(queries: Array, vectors: Array, metric: Metric) -> Float64:
    """Return the (q, m) float64 scores of m vectors for each query; higher is better.

    Parameters
    ----------
    queries : (q, e) ndarray
    vectors : (q, m, e) ndarray
        The vectors of each query; with ``metric`` "cosine", queries and vectors already have length one.
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
        Scores that differ by less than this are equal within float32 rounding.
    """

    rows: Int64
    scores: Float64
    tolerance: Float64


class RunningTopK:
    """Collects the k best rows of each query from blocks, which may come in any order and from several threads.

    Only rows that reach a lower bound of the k-th best score are looked at again, which after a few blocks are almost
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
            # Scaling queries to a length between 1 and 2 keeps the ranking, and products with large rows do not
            # overflow float32. A power of two changes no digit, so equal scores stay equal.
            scale = np.exp2(np.floor(np.log2(scale)))
        self._queries: Float32 = np.ascontiguousarray(exact / scale[:, None], dtype=np.float32)
        self._scale = scale if metric == "inner_product" else np.ones(len(exact))
        self._metric = metric
        self._k = k
        self._candidates: list[tuple[Int64, Int64, Float32]] = []
        self._held = 0
        self._floor = np.full(len(queries), -np.inf, np.float32)
        self._room = _CANDIDATES * max(len(queries) * k, 1)
        self._largest = 0.0
        self._lock = threading.Lock()

    def observe(self, rows: RowNumbers, block: Array, without: tuple[Int64, Int64] | None = None) -> None:
        """Take in the vectors ``block`` (b, e), whose row numbers are ``rows`` (b,).

        ``without`` has pairs of a query, ascending, and a place in the block that it must not find.
        """
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
            if without is not None:
                pairs = slice(*np.searchsorted(without[0], (first, first + _QUERIES_AT_ONCE)))
                scores[without[0][pairs] - first, without[1][pairs]] = -np.inf
            floor = np.maximum(self._floor[part], self._least(scores))
            if without is not None:
                floor = np.maximum(floor, np.finfo(np.float32).min)
            query, column = np.divmod(np.flatnonzero(scores >= floor[:, None]), scores.shape[1])
            self._add(part, floor, (first + query, rows[column].astype(np.int64, copy=False), scores[query, column]))

    def result(self) -> TopK:
        """Return the neighbours found so far."""
        reach = self._lengths * np.sqrt(self._largest)
        if self._metric == "cosine":
            reach = np.ones(len(self._queries))
        elif self._metric == "l2":
            reach = reach + self._largest
        with self._lock:
            query, row, score = self._narrow()
        shape = len(self._queries), self._k
        rows, scores = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        rank = _ranks(query, len(rows))
        rows[query, rank], scores[query, rank] = row, score
        # A float32 dot product errs by about sqrt(e) * 6e-8 of |q||x|: 7e-7 at e = 128, measured 6e-7.
        return TopK(rows, scores * self._scale[:, None], 4e-6 * reach)

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

    def _least(self, scores: Float32) -> Float32 | np.float32:
        """Return a score that at least k of each query's reach: the k-th best of the maxima of groups of columns.

        With four groups for each of the k it is close to the k-th best of all, and costs a pass of maxima; to find that
        itself takes ten times as long.
        """
        groups = scores.shape[1] // (depth := max(1, scores.shape[1] // (4 * self._k)))
        if groups < self._k:
            return np.float32(-np.inf)
        maxima = scores[:, : groups * depth].reshape(len(scores), depth, groups).max(axis=1)
        return np.partition(maxima, -self._k, axis=1)[:, -self._k]

    def _add(self, part: slice, floor: Float32, found: tuple[Int64, Int64, Float32]) -> None:
        with self._lock:
            self._floor[part] = np.maximum(self._floor[part], floor)
            self._candidates.append(found)
            self._held += len(found[0])
            if self._held > self._room:
                query, _, score = self._narrow()
                last = np.flatnonzero(_ranks(query, len(self._floor)) == self._k - 1)
                self._floor[query[last]] = score[last]

    def _narrow(self) -> tuple[Int64, Int64, Float32]:
        """Keep of the candidates the k best of each query, and return them: queries, rows and scores, in order."""
        if not self._candidates:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        query, row, score = (np.concatenate(column) for column in zip(*self._candidates, strict=True))
        order = _best_first(query, row, score)
        query = query[order]
        kept = _ranks(query, len(self._floor)) < self._k
        found = query[kept], row[order[kept]], score[order[kept]]
        self._candidates, self._held = [found], len(found[0])
        return found


def _best_first(query: Int64, row: Int64, score: Float32) -> Int64:
    """Return the order of candidates by query, descending score, and row where scores are equal.

    One 64-bit key of query and score is sorted in a ninth of the time that the three take, which equal scores need.
    """
    bits = (score + np.float32(0.0)).view(np.int32).astype(np.int64)  # no -0
    key = (query << 32) - np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # floats of either sign in the order of integers
    order = np.argsort(key)
    key = key[order]
    equal = np.append(key[1:] == key[:-1], False)
    tied = np.flatnonzero(equal | np.append(False, equal[:-1]))
    order[tied] = order[tied][np.lexsort((row[order[tied]], key[tied]))]
    return order


def _ranks(query: Int64, queries: int) -> Int64:
    """Return the place of each candidate among those of its query, which stand together."""
    counts = np.bincount(query, minlength=queries)
    return np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)


def overlap(first: Int64, second: Int64) -> float | None:
    """Return the mean share of each query's neighbours in ``first`` (q, k) that are also in ``second``.

    Row numbers below zero are missing neighbours. Returns None if no query has any neighbour.
    """
    shared = ((first[:, :, None] == second[:, None, :]) & (first >= 0)[:, :, None]).any(axis=2).sum(axis=1)
    present = (first >= 0).sum(axis=1)
    counted = present > 0
    return float((shared[counted] / present[counted]).mean()) if counted.any() else None


def agreement(expected: TopK, found: TopK) -> float | None:
    """Return the share of queries whose neighbours agree, counting ties within rounding as equal.

    A query agrees if every neighbour that is in only one of the two lists scores within ``tolerance`` of the last
    neighbour of the other list: it does not matter which of several equal rows is listed last.
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
