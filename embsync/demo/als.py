"""A minimal implementation of alternating least squares on implicit feedback.

Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008: a like is preference
1 with confidence 1 + alpha, everything else is preference 0 with confidence 1. With the items fixed, each user is
a separate ridge regression, and vice versa:

    x_u = (Y^T Y + alpha * sum_{i liked by u} y_i y_i^T + lambda I)^-1 * (1 + alpha) * sum_{i liked by u} y_i
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from embsync.dtypes import Float32
from embsync.rows import library_threads


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the training.

    Attributes
    ----------
    factors : int
        Width of the embeddings: the number of dimensions of the taste model, as in a tuned model.
    alpha : float
        Extra confidence of a like.
    regularization : float
        lambda.
    iterations : int
        Number of iterations of both half-steps.
    """

    factors: int = 16
    alpha: float = 5.0
    regularization: float = 1.0
    iterations: int = 10


@dataclass(frozen=True)
class Factors:
    """A trained model: ``items`` (t, e) and ``users`` (w, e) float32; their products are the scores."""

    items: Float32
    users: Float32


def train(likes: csr_array[np.float32], settings: TrainingSettings, random: np.random.Generator) -> Factors:
    """Train from scratch on ``likes`` (w, t), from random factors, which determine the axes."""
    items = (0.01 * random.standard_normal((likes.shape[1], settings.factors))).astype(np.float32)
    users = solve(likes, items, settings)
    by_item = csr_array(likes.T)
    for _ in range(settings.iterations):
        items = solve(by_item, users, settings)
        users = solve(likes, items, settings)
    return Factors(items, users)


def solve(likes: csr_array[np.float32], others: Float32, settings: TrainingSettings) -> Float32:
    """Return the best factors (n, e) of the rows of ``likes`` (n, m) for fixed ``others`` (m, e)."""
    width = others.shape[1]
    systems = np.empty((likes.shape[0], width, width), np.float32)
    with library_threads(1, "blas"):  # in products this small, threads mostly wait for each other
        rows, bounds = others[likes.indices], pairwise(likes.indptr.tolist())
        for system, (start, stop) in zip(systems, bounds, strict=True):
            liked = rows[start:stop]
            np.matmul(liked.T, liked, out=system)
        systems *= settings.alpha
        systems += others.T @ others + np.float32(settings.regularization) * np.eye(width, dtype=np.float32)
        right = (1.0 + settings.alpha) * (likes @ others)
        found: Float32 = np.linalg.solve(systems, right[:, :, None])[:, :, 0].astype(np.float32)
    return found
