"""Orthogonal Procrustes on small matrices: optimal, with reflections, and defined where data do not determine it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import law
from support.nights import rotation

from embsync.alignment.procrustes import (
    align,
    compare_axes,
    determined_rank,
    disagreement,
    first_rotation,
    fix_signs,
    whitening,
)


@law
@given(st.integers(1, 7), st.integers(0, 4), st.integers(0, 7), st.integers(0, 2**32 - 1))
def test_rows_are_orthonormal_even_if_underdetermined(r: int, extra: int, rank: int, seed: int) -> None:
    """Q Q^T = I for cross-Gram matrices of any rank, zero included."""
    random = np.random.default_rng(seed)
    k, rank = r + extra, min(rank, r)
    cross = random.standard_normal((r, rank)) @ random.standard_normal((rank, k))
    energy = np.diag(np.sort(random.uniform(1, 5, r))[::-1])
    Q = align(cross, energy)
    np.testing.assert_allclose(Q @ Q.T, np.eye(r), atol=1e-12)


@law
@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_no_other_rotation_fits_better(r: int, extra: int, seed: int) -> None:
    """||A Q - B|| is the smallest among random and nearby rotations."""
    random = np.random.default_rng(seed)
    A, B = random.standard_normal((30, r)), random.standard_normal((30, r + extra))
    Q = align(A.T @ B, A.T @ A)
    best = np.linalg.norm(A @ Q - B)
    for other in range(10):
        near = np.linalg.qr(np.eye(r + extra) + 0.05 * random.standard_normal((r + extra, r + extra)))[0]
        assert best <= np.linalg.norm(A @ Q @ near - B) + 1e-9
        assert best <= np.linalg.norm(A @ rotation(r + extra, other)[:r] - B) + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_a_known_rotation_or_reflection_is_recovered(seed: int) -> None:
    """The recovered matrix is exact, with determinant +1 or -1."""
    turn = rotation(5, seed)
    A = np.random.default_rng(seed).standard_normal((50, 5))
    np.testing.assert_allclose(align(A.T @ (A @ turn), A.T @ A), turn, atol=1e-12)


def test_rows_with_large_weights_dominate() -> None:
    """Rows with larger weights in the cross-Gram matrix determine the rotation."""
    random = np.random.default_rng(2)
    A = random.standard_normal((60, 4))
    mine, other = rotation(4, 1), rotation(4, 3)
    B = np.concatenate([A[:30] @ mine, A[30:] @ other])
    weights = np.where(np.arange(60) < 30, 1e6, 1.0)
    np.testing.assert_allclose(align((A * weights[:, None]).T @ B, A.T @ A), mine, atol=1e-4)
    np.testing.assert_allclose(align((A / weights[:, None]).T @ B, A.T @ A), other, atol=1e-4)


def test_axes_without_anchors_are_ordered_by_energy() -> None:
    """With anchors on the first two of five axes, the others are ordered by falling energy with positive signs."""
    cross = np.zeros((5, 5))
    cross[0, 0], cross[1, 1] = 3.0, 2.0
    energy = np.diag([9.0, 8.0, 1.0, 3.0, 2.0])
    expected = np.zeros((5, 5))
    expected[[0, 1, 3, 4, 2], range(5)] = 1.0
    np.testing.assert_allclose(align(cross, energy), expected, atol=1e-12)


def test_rounding_in_an_axis_does_not_determine_it() -> None:
    """Float32 noise of a millionth of the anchors' size does not affect the rotation."""
    cross = np.diag([1.0, 1e-9])
    cross[1, 1] *= -1.0
    np.testing.assert_allclose(align(cross, np.eye(2)), np.eye(2), atol=1e-12)


def test_the_first_rotation_makes_the_largest_entries_positive() -> None:
    """The rotation is a signed identity, zero-padded; a zero column keeps its sign."""
    basis = np.array([[1.0, -5.0, 0.0], [-3.0, 2.0, 0.0]])
    expected = np.zeros((3, 4))
    expected[0, 0], expected[1, 1], expected[2, 2] = -1.0, -1.0, 1.0
    np.testing.assert_array_equal(first_rotation(basis, 4), expected)
    np.testing.assert_array_equal(fix_signs(basis), [[-1.0, 5.0, 0.0], [3.0, -2.0, 0.0]])


def test_the_disagreement_is_0_for_one_rotation_and_about_1_for_two() -> None:
    """The sides of one run agree for any rotation; sides of two runs do not."""
    random = np.random.default_rng(5)
    size = 40
    energy = np.diag(np.linspace(3, 1, size))
    same, other = rotation(size, 1), rotation(size, 3)
    noise = 0.01 * random.standard_normal((size, size))
    assert disagreement(energy @ same, energy @ same, energy) == pytest.approx(0.0, abs=1e-9)
    assert disagreement(energy @ same, energy @ (same + noise), energy) < 0.1
    assert disagreement(energy @ same, energy @ other, energy) == pytest.approx(1.0, abs=0.1)
    assert disagreement(energy @ same, -energy @ same, energy) == pytest.approx(np.sqrt(2.0))


def test_the_disagreement_covers_only_axes_with_anchors() -> None:
    """Axes without anchors on one side are not compared."""
    cross = np.diag([3.0, 2.0, 1.0])
    half = np.diag([3.0, 2.0, 0.0])
    assert disagreement(cross, half, np.eye(3)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("factors", "agreement", "scale"),
    [
        ([1, 1, 1, 1, 1], 1.0, 1.0),
        ([2, 2, 2, 2, 1], 0.8, 1.0),
        ([1, -1, 1, 1, 1], -1.0, 1.0),
        ([1, 1, 0.1, 1, 1], 2 * 0.1 / (1 + 0.1**2), 0.1),
        ([4, 4, 0.4, 4, 1], 2 * 4 / (1 + 4**2), 0.1),
        ([1, 1, 1, 0, 1], 0.0, 1.0),
    ],
    ids=["same", "twice as long", "flipped", "shrunk", "shrunk beside others that grew", "narrower"],
)
def test_axes_are_compared_one_by_one(factors: list[float], agreement: float, scale: float) -> None:
    """The worst axis counts, relative to the median; an axis missing in a narrower model does not affect the scale."""
    turn = rotation(5, 8)
    columns = np.linalg.qr(np.random.default_rng(7).standard_normal((400, 5)))[0]
    anchors = columns * [3.0, 2.0, 1.0, 0.5, 0.0] @ turn
    rows = anchors @ turn.T @ np.diag(factors) @ turn
    found = compare_axes(rows.T @ anchors, rows.T @ rows, anchors.T @ anchors)
    assert found.axis_agreement == pytest.approx(agreement, abs=1e-6)
    assert found.axis_scale == pytest.approx(scale, abs=1e-6)


@pytest.mark.parametrize(("weakest", "axes"), [(1.0, 6), (1e-3, 6), (3e-6, 6), (1e-7, 5), (0.0, 5)])
def test_whitening_keeps_the_axes_above_rounding_error(weakest: float, axes: int) -> None:
    """The whitened Gram matrix is the identity, and its width is the rank, for each way of computing it."""
    turn = rotation(6, 9)
    gram = turn @ np.diag([5.0, 4.0, 3.0, 2.0, 1.0, 5 * weakest]) @ turn.T
    found = whitening(gram)
    assert found is not None
    assert found.shape == (6, axes)
    assert determined_rank(gram) == axes
    np.testing.assert_allclose(found.T @ gram @ found, np.eye(axes), atol=1e-8)


def test_axes_without_energy_are_not_measured() -> None:
    """Rows that are zero or overflow give NaN, which passes no check."""
    nothing, some = np.zeros((3, 3)), np.eye(3)
    for cross, rows, anchors in ((nothing, nothing, nothing), (some + np.inf, some, some), (some, some + np.nan, some)):
        found = compare_axes(cross, rows, anchors)
        assert np.isnan([found.axis_agreement or 0.0, found.axis_scale or 0.0]).all()
