"""Exact neighbours from blocks in any order, and the agreement of two lists of neighbours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import law
from support.nights import Array

from embsync.similarity import Metric, RunningTopK, TopK, agreement, lowest, overlap, row_cosines

METRICS: tuple[Metric, ...] = ("inner_product", "cosine", "l2")


def _brute(queries: Array, vectors: Array, k: int, metric: Metric) -> tuple[Array, Array]:
    Q, X = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        scores = -((Q[:, None, :] - X[None, :, :]) ** 2).sum(axis=2)
    else:
        if metric == "cosine":
            Q, X = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300) for rows in (Q, X))
        scores = Q @ X.T
    order = np.stack([np.lexsort((np.arange(len(X)), -line)) for line in scores])[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


@law
@given(st.sampled_from(METRICS), st.integers(1, 80), st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_top_k_equals_brute_force_with_any_blocks(metric: Metric, rows: int, k: int, step: int, seed: int) -> None:
    """Equal scores are ordered by ascending row; small integers make scores exact, with many ties."""
    random = np.random.default_rng(seed)
    vectors, queries = random.integers(-2, 3, (rows, 3)), random.integers(-2, 3, (5, 3))
    if metric == "cosine":  # ties between parallel rows of different length differ in the last bit
        vectors = np.unique(vectors, axis=0)
        vectors = vectors[np.abs(vectors).sum(axis=1) == 2]
    best = RunningTopK(queries, k, metric)
    starts = random.permutation(np.arange(0, len(vectors), step))
    for start in starts:
        part = np.arange(start, min(start + step, len(vectors)))
        best.observe(part, vectors[part].astype(np.float32))
    found = best.result()
    expected, scores = _brute(queries, vectors, k, metric)
    count = expected.shape[1]
    np.testing.assert_allclose(found.scores[:, :count], scores, atol=1e-6)
    if metric != "cosine":
        np.testing.assert_array_equal(found.rows[:, :count], expected)
    assert (found.rows[:, count:] == -1).all()
    assert (found.scores[:, count:] == -np.inf).all()


@pytest.mark.parametrize("metric", METRICS)
def test_top_k_equals_brute_force_with_many_threads(metric: Metric) -> None:
    """No neighbour is lost when several threads add blocks at once."""
    random = np.random.default_rng(3)
    vectors, queries = random.standard_normal((20_000, 16)), random.standard_normal((50, 16))
    best = RunningTopK(queries, 10, metric)
    blocks = np.array_split(np.random.default_rng(4).permutation(20_000), 90)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda rows: best.observe(rows, vectors[rows].astype(np.float32)), blocks))
    expected, scores = _brute(queries, vectors, 10, metric)
    found = best.result()
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)


def test_row_numbers_are_those_given() -> None:
    """Rows keep the caller's numbers, as when only the live rows of a version are read."""
    best = RunningTopK(np.eye(2), 1)
    best.observe(np.array([70, 90]), np.array([[1.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_array_equal(best.result().rows, [[70], [90]])


@pytest.mark.parametrize(
    ("metric", "expected"), [("inner_product", [12.0, 12e-6]), ("cosine", [1.0, 1.0]), ("l2", [28.0, 16.0 + 12e-6])]
)
def test_the_tolerance_is_relative_to_the_largest_possible_score(metric: Metric, expected: list[float]) -> None:
    """The tolerance scales with the length of the query times that of the longest row; with cosines, with one."""
    best = RunningTopK(np.array([[3.0, 0.0], [3e-6, 0.0]]), 1, metric)
    best.observe(np.arange(2), np.array([[0.0, 4.0], [1.0, 0.0]]))
    np.testing.assert_allclose(best.result().tolerance, 4e-6 * np.array(expected), rtol=1e-6)


def test_no_rows_or_no_queries_is_not_an_error() -> None:
    """An empty set of rows or queries gives an empty result."""
    best = RunningTopK(np.ones((2, 3)), 4)
    best.observe(np.empty(0, np.int64), np.empty((0, 3)))
    assert (best.result().rows == -1).all()
    none = RunningTopK(np.empty((0, 3)), 4)
    none.observe(np.arange(2), np.ones((2, 3)))
    assert agreement(none.result(), none.result()) is None


def _list(rows: list[int], scores: list[float], tolerance: float = 1e-3) -> TopK:
    return TopK(np.array([rows]), np.array([scores], np.float32), np.array([tolerance], np.float32))


@pytest.mark.parametrize(
    ("rows", "scores", "agrees"),
    [
        ([1, 2, 3], [9.0, 8.0, 7.0], 1.0),
        ([2, 1, 3], [9.0, 8.0, 7.0], 1.0),  # the same set: scores alone determine the order
        ([1, 2, 4], [9.0, 8.0, 7.0005], 1.0),  # a tie for the last place
        ([1, 2, 4], [9.0, 8.0, 7.1], 0.0),  # another neighbour, clearly better
        ([1, 2, 4], [9.0, 8.0, 6.9], 0.0),  # and clearly worse
        ([4, 2, 3], [9.0, 8.0, 7.0], 0.0),  # a missing best one is not a tie for the last place
        ([1, 2, -1], [9.0, 8.0, -np.inf], 0.0),  # one neighbour lost
    ],
)
def test_agreement_tolerates_only_ties_for_the_last_place(rows: list[int], scores: list[float], agrees: float) -> None:
    """Only the choice among rows tied for the last place is tolerated."""
    assert agreement(_list([1, 2, 3], [9.0, 8.0, 7.0]), _list(rows, scores)) == agrees


def test_equally_short_lists_agree() -> None:
    """Positions that are missing in both lists agree, as with fewer rows than ``k``."""
    short = _list([5, -1, -1], [1.0, -np.inf, -np.inf])
    assert agreement(short, short) == 1.0


def test_overlap_counts_common_ids() -> None:
    """The overlap is the mean share of the first list's ids in the second; missing neighbours never count as common."""
    first, second = np.array([[1, 2], [3, 4], [5, -1], [-1, -1]]), np.array([[2, 9], [4, 3], [6, 7], [1, 2]])
    assert overlap(first, second) == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert overlap(first[3:], second[3:]) is None
    assert overlap(np.array([[-1, 8]]), np.array([[-1, 9]])) == 0.0


def test_the_lowest_are_found_without_sorting_all() -> None:
    """For any count, the result is that of a stable sort, without NaN."""
    random = np.random.default_rng(4)
    for count in (0, 1, 5, 50, 200):
        values = random.integers(0, 9, 100).astype(np.float32)
        values[::7] = np.nan
        known = np.flatnonzero(~np.isnan(values))
        expected = known[np.argsort(values[known], kind="stable")[:count]]
        np.testing.assert_array_equal(lowest(values, count), expected)


def test_rows_of_different_width_are_compared_as_if_padded() -> None:
    random = np.random.default_rng(5)
    left, right = random.standard_normal((6, 3)), random.standard_normal((6, 5))
    right[2] = 0.0
    padded = np.hstack([left, np.zeros((6, 2))])
    np.testing.assert_allclose(row_cosines(left, right), row_cosines(padded, right))
    np.testing.assert_allclose(row_cosines(right, left), row_cosines(padded, right))
    assert np.isnan(row_cosines(left, right)[2])
