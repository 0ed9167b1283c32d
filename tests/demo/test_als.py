"""Implicit ALS checked against its formula, and the effect of another seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.sparse import csr_array

from embsync.demo import taste
from embsync.demo.als import TrainingSettings, solve, train
from embsync.demo.taste import World

SETTINGS = TrainingSettings(factors=6, iterations=8)


def some_likes(users: int = 60, items: int = 40) -> csr_array:
    """Return random likes; the last user likes nothing."""
    likes = np.random.default_rng(5).random((users, items)) < 0.2
    likes[-1] = False
    return csr_array(likes.astype(np.float32))


def test_a_half_step_solves_the_published_equation() -> None:
    """Each row solves its weighted ridge regression, computed here in dense form as in the paper."""
    likes, items = some_likes(), np.random.default_rng(6).standard_normal((40, 6)).astype(np.float32)
    found, Y = solve(likes, items, SETTINGS), items.astype(np.float64)
    for user, row in enumerate(likes.toarray()):
        C = np.diag(1 + SETTINGS.alpha * row.astype(np.float64))
        expected = np.linalg.solve(Y.T @ C @ Y + SETTINGS.regularization * np.eye(6), Y.T @ C @ row)
        np.testing.assert_allclose(found[user], expected, atol=1e-5)


def test_a_user_without_likes_has_no_preference() -> None:
    """A row without likes is a zero vector."""
    items = np.random.default_rng(6).standard_normal((40, 6)).astype(np.float32)
    np.testing.assert_array_equal(solve(some_likes(), items, SETTINGS)[-1], 0)


def test_training_lowers_the_loss() -> None:
    """The loss does not increase with more iterations."""
    likes = some_likes()

    def loss(iterations: int) -> float:
        model = train(likes, TrainingSettings(factors=6, iterations=iterations), np.random.default_rng(1))
        dense = likes.toarray()
        errors = (1 + SETTINGS.alpha * dense) * (dense - model.users @ model.items.T) ** 2
        return float(errors.sum() + (model.users**2).sum() + (model.items**2).sum())

    losses = [loss(iterations) for iterations in (1, 2, 4, 8)]
    assert losses == sorted(losses, reverse=True)


def test_another_seed_gives_nearly_the_same_scores_on_other_axes() -> None:
    """The scores are nearly the same for the same data, but the vectors differ: the problem that embsync solves."""
    world, random = World(items=300, users=400), np.random.default_rng(2)
    night = next(taste.nights(world, taste.catalogue(world, 1, random), 1, random))
    settings = TrainingSettings(iterations=20)
    one, two = (train(night.likes, settings, np.random.default_rng(seed)) for seed in (1, 2))
    scores = [(model.users @ model.items.T).ravel() for model in (one, two)]
    assert np.corrcoef(*scores)[0, 1] > 0.9
    cosine = (one.items * two.items).sum() / np.linalg.norm(one.items) / np.linalg.norm(two.items)
    assert abs(cosine) < 0.3
    turned = one.items @ orthogonal_procrustes(one.items, two.items)[0]
    assert (turned * two.items).sum() / np.linalg.norm(turned) / np.linalg.norm(two.items) > 0.75


def test_the_same_seed_gives_the_same_model() -> None:
    """The vectors are equal bit for bit."""
    one, two = (train(some_likes(), SETTINGS, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one.items, two.items)
    np.testing.assert_array_equal(one.users, two.users)
    assert one.items.dtype == np.float32
    assert one.users.shape == (60, 6)
    assert pytest.approx(one.users[-1]) == 0
