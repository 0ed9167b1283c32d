"""Judged rows: their sums by fold, their cosines out of sample, and the number of folds."""

from __future__ import annotations

import numpy as np
import pytest

from embsync.alignment.cross_validation import JudgedRows, fold_count, out_of_sample_fit, sum_judged

N, E, K = 3000, 6, 5


def _judged() -> JudgedRows:
    random = np.random.default_rng(0)
    rows, anchors = (random.standard_normal((N, width)).astype(np.float32) for width in (E, K))
    folds = random.integers(0, 10, N).astype(np.uint8)
    return JudgedRows(random.permutation(N), folds, rows, anchors, random.uniform(0, 2, N))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_sums_equal_the_dense_products_of_each_fold(count: int, threads: int) -> None:
    """The sums are equal for any number of folds and workers, and for folds longer than one summed chunk."""
    judged = _judged()
    sums = sum_judged(judged, judged.sort_by_fold(count), threads)
    rows, anchors = judged.rows.astype(np.float64), judged.anchors.astype(np.float64)
    weights = judged.roots**2
    for fold in range(count):
        member = judged.folds % count == fold
        expected = (rows[member].T * weights[member]) @ anchors[member]
        np.testing.assert_allclose(sums.folds[fold], expected, atol=1e-9)
    np.testing.assert_allclose(sums.cross, (rows.T * weights) @ anchors, atol=1e-9)
    np.testing.assert_allclose(sums.rows, (rows.T * weights) @ rows, atol=1e-9)
    np.testing.assert_allclose(sums.anchors, (anchors.T * weights) @ anchors, atol=1e-2)  # float32 products
    np.testing.assert_allclose(sums.row_sum, weights @ rows, atol=1e-9)
    np.testing.assert_allclose(sums.anchor_sum, weights @ anchors, atol=1e-9)
    assert sums.weight == pytest.approx(weights.sum())
    assert sums.count == N


@pytest.mark.parametrize("count", [1, 10])
def test_each_row_is_mapped_by_a_fit_without_its_fold(count: int) -> None:
    """Each fold has its own map; a mismatched anchor is half of the rows away in the order of ids."""
    judged = _judged()
    maps = np.random.default_rng(1).standard_normal((count, E, K))
    fit = out_of_sample_fit(judged, judged.sort_by_fold(count), np.eye(E), [*maps])
    fitted = np.einsum("ne,nek->nk", judged.rows, maps[judged.folds % count])
    by_id = np.argsort(judged.places)
    partner = by_id[(judged.places - N // 2) % N]

    def cosines(anchors: np.ndarray) -> np.ndarray:
        dots = (fitted * anchors).sum(axis=1)
        return np.asarray(dots / np.linalg.norm(fitted, axis=1) / np.linalg.norm(anchors, axis=1))

    own, other = cosines(judged.anchors), cosines(judged.anchors[partner])
    assert fit.common == N
    assert fit.cosine == pytest.approx(own.mean(), abs=1e-6)
    assert fit.cosine_mismatched == pytest.approx(other.mean(), abs=1e-6)
    assert fit.share_below_half == pytest.approx((own < 0.5).mean(), abs=1e-3)
    assert fit.lost == pytest.approx(2 * (own < other.mean()).mean(), abs=2e-3)


def test_the_mean_shift_is_relative_to_the_row_norms() -> None:
    """Doubled rows have the same mean as their anchors; adding a constant moves it."""
    random = np.random.default_rng(2)
    rows = random.standard_normal((N, K)).astype(np.float32) + np.float32(0.5)

    def shift(anchors: np.ndarray) -> float:
        judged = JudgedRows(np.arange(N), np.zeros(N, np.uint8), rows, anchors.astype(np.float32), np.ones(N))
        sums = sum_judged(judged, judged.sort_by_fold(1))
        return sums.mean_shift(np.eye(K), sums.rows)

    assert shift(2 * rows) == pytest.approx(0.0, abs=1e-6)
    away = rows - 1.0
    expected = rows.mean(axis=0) / np.sqrt((rows**2).sum() / N) - away.mean(axis=0) / np.sqrt((away**2).sum() / N)
    assert shift(away) == pytest.approx(np.linalg.norm(expected), rel=1e-5)
    assert np.isnan(shift(0 * rows))


def test_zero_rows_have_no_cosine() -> None:
    """They are left out of every figure; if all rows are zero, there is no figure."""
    judged = _judged()
    maps = np.ones((1, E, K))
    judged.rows[:100] = 0
    judged.anchors[200:250] = 0
    assert out_of_sample_fit(judged, judged.sort_by_fold(1), np.eye(E), [*maps]).common == N - 150
    judged.rows[:] = 0
    assert out_of_sample_fit(judged, judged.sort_by_fold(1), np.eye(E), [*maps]).cosine is None


@pytest.mark.parametrize(
    ("judged", "paired", "folds"),
    [(0, 0, 1), (300, 300, 10), (8000, 8000, 10), (8000, 20_000, 5), (8000, 45_000, 2), (8000, 80_000, 1)],
)
def test_no_fold_has_more_than_a_tenth_of_the_rows(judged: int, paired: int, folds: int) -> None:
    """The number of folds is the smallest for which this holds."""
    assert fold_count(judged, paired) == folds
