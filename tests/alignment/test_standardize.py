"""Which directions count towards the rank, and which ones a narrower space keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.laws import relative
from support.nights import Array

import embsync
from embsync.alignment.standardize import keep_products, numerical_rank

SPREAD = np.linspace(1.6, 0.8, 5)


def _sides(seed: int = 2) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    return random.standard_normal((300, 5)) * SPREAD, random.standard_normal((200, 5)) * SPREAD


#: A column that is a combination of the others, except for rounding to float32.
REDUNDANT: dict[str, Callable[[Array], Array]] = {
    "a copy": lambda rows: rows[:, 0],
    "a multiple": lambda rows: rows[:, 1] * 0.37,
    "a sum": lambda rows: rows[:, 0] + rows[:, 1] / 3.0,
    "a mean of all": lambda rows: rows.mean(axis=1),
    "rounding": lambda rows: 1e-9 * rows[:, 0] ** 2,
}


@pytest.mark.parametrize("kind", REDUNDANT)
@pytest.mark.parametrize("both", [True, False])
def test_a_redundant_column_does_not_count_as_rank(kind: str, both: bool) -> None:
    """With exact or rounded redundancy, the rank is that of the scores, and no map entry becomes huge."""
    T, W = _sides()
    other = REDUNDANT[kind](W) if both else np.random.default_rng(9).standard_normal(len(W))
    T = np.column_stack([T, REDUNDANT[kind](T)]).astype(np.float32)
    W = np.column_stack([W, other]).astype(np.float32)
    found = embsync.stabilize(T, W)
    assert found.rank == 5
    assert max(np.abs(found.transform.items).max(), np.abs(found.transform.side("users")).max()) < 1e3
    assert found.preservation.score_error < 1e-6


@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-6])
def test_a_weak_direction_counts_as_rank(share: float) -> None:
    """A direction that float32 can distinguish from zero is part of the scores."""
    T, W = _sides()
    T[:, 4] *= share
    found = embsync.stabilize(T, W)
    assert found.rank == 5
    assert found.transform.singular_values[4] == pytest.approx(share * found.transform.singular_values[0], rel=0.8)


def test_the_rank_is_relative_to_the_largest_singular_value() -> None:
    """The rank is the same at any scale; a matrix of zeros has rank 0."""
    for scale in (1e-30, 1.0, 1e30):
        assert numerical_rank(scale * np.array([1.0, 0.5, 1e-5, 1e-9, 0.0])) == 3
    assert numerical_rank(np.zeros(4)) == numerical_rank(np.empty(0)) == 0


@pytest.mark.parametrize("kept", [1, 2, 4])
@pytest.mark.parametrize("two", [True, False])
def test_a_narrower_space_without_standardizing_keeps_the_strongest_directions(kept: int, two: bool) -> None:
    """The leading principal directions of all rows together are kept, which minimizes the loss."""
    T, W = _sides()
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((5, 5)))[0]
    T, W = T * np.array([9.0, 1.0, 6.0, 0.1, 3.0]) @ turn, W * np.array([9.0, 1.0, 6.0, 0.1, 3.0]) @ turn
    rows = np.vstack([T, W]) if two else T
    found = keep_products(np.linalg.qr(T, "r"), np.linalg.qr(W, "r") if two else None, kept)
    leading = np.linalg.svd(rows, full_matrices=False)[2][:kept].T
    assert relative(found.items @ found.items.T, leading @ leading.T) < 1e-8
    other = W if two else T
    scores = T @ other.T
    outside = np.eye(5) - leading @ leading.T
    assert found.truncation_loss == pytest.approx(np.linalg.norm(T @ outside @ other.T) / np.linalg.norm(scores))


@pytest.mark.parametrize("kept", [1, 3, 4])
def test_a_narrower_standardized_space_is_the_best_of_its_rank(kept: int) -> None:
    """The loss is that of the Eckart-Young theorem: the singular values beyond the rank."""
    T, W = _sides()
    found = embsync.stabilize(T, W, dimension=kept)
    S = np.linalg.svd(T @ W.T, compute_uv=False)
    expected = np.sqrt(np.sum(S[kept:5] ** 2) / np.sum(S**2))
    assert found.truncation_loss == pytest.approx(expected, rel=1e-6)
    assert found.preservation.score_error == pytest.approx(expected, rel=1e-4)
