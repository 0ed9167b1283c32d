"""Effects on consumers: searches with yesterday's vectors, models trained on last week's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embsync.dtypes import Array, Float32, Float64, Int64
from embsync.reader import Version

#: Number of hits compared, as in the manifest's overlaps.
TOP = 10
#: Ridge penalty of the classifier, relative to the mean energy of a feature: it only ensures a nonsingular system.
_RIDGE = 1e-2


@dataclass(frozen=True)
class Embeddings:
    """Vectors of one night, raw or stable, with ascending ids.

    Attributes
    ----------
    item_ids, user_ids : (t,) and (w,) int64
    items, users : (t, e) and (w, e) float32
    """

    item_ids: Int64
    items: Float32
    user_ids: Int64
    users: Float32


def of_snapshot(path: Path) -> Embeddings:
    """Return a night's raw vectors."""
    item_ids, items, user_ids, users = (
        np.load(path / f"{name}.npy") for name in ("item_ids", "items", "user_ids", "users")
    )
    by_item, by_user = np.argsort(item_ids), np.argsort(user_ids)
    return Embeddings(item_ids[by_item], items[by_item], user_ids[by_user], users[by_user])


def of_version(version: Version) -> Embeddings:
    """Return a version's stable vectors, live rows only: the ids of its own snapshot."""
    items, users = version.items, version.side("users")
    return Embeddings(
        items.ids[items.live], items.vectors[items.live], users.ids[users.live], users.vectors[users.live]
    )


def rows_of(wanted: Int64, ids: Int64) -> Int64:
    """Return the rows of ids, all of which must exist."""
    rows = np.searchsorted(ids, wanted)
    assert (ids[rows] == wanted).all()
    return rows


def item_cosine(before: Embeddings, after: Embeddings) -> float:
    """Return the mean cosine between the two vectors of each item present on both nights."""
    _, mine, other = np.intersect1d(before.item_ids, after.item_ids, return_indices=True)
    return float((_unit(before.items[mine]) * _unit(after.items[other])).sum(axis=1).mean())


def best(scores: Array, k: int = TOP) -> Int64:
    """Return the columns of the k highest scores of each row, best first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def overlap(first: Int64, second: Int64) -> Float64:
    """Return, for each row, the share of ``first`` that is also in ``second``."""
    shared: Float64 = (first[:, :, None] == second[:, None, :]).any(axis=2).mean(axis=1)
    return shared


def recall(scores: Array, seen: Array, wanted: Array) -> float:
    """Return the mean share of ``wanted`` (n, t) in the 10 best of ``scores`` (n, t) that are not ``seen`` (n, t)."""
    top = best(np.where(seen, -np.inf, scores))
    return float((np.take_along_axis(wanted, top, axis=1).sum(axis=1) / wanted.sum(axis=1)).mean())


@dataclass(frozen=True)
class GenreClassifier:
    """Predicts an item's genre from its vector, by ridge regression with one column per genre.

    Attributes
    ----------
    weights : (e + 1, g) float64
        The last row is the constant.
    """

    weights: Float64

    @classmethod
    def train(cls, vectors: Float32, genres: Int64, count: int) -> GenreClassifier:
        """Train on item vectors (n, e) and their genres (n,), numbered from 0 to ``count`` - 1."""
        features = _with_constant(vectors)
        gram = features.T @ features
        ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        return cls(np.linalg.solve(gram + ridge, features.T @ np.eye(count)[genres]))

    def auc(self, vectors: Float32, genres: Int64) -> float:
        """Return the AUC, averaged over genres: the probability that an item of a genre is rated above another."""
        guesses = _with_constant(vectors) @ self.weights
        areas = [_area(guesses[:, genre], genres == genre) for genre in np.unique(genres)]
        return float(np.mean(areas))


def _area(guess: Float64, truth: Array) -> float:
    """Return the area under the ROC curve by the rank-sum statistic (Mann and Whitney 1947)."""
    inside, outside = int(truth.sum()), int((~truth).sum())
    ordered = np.sort(guess)
    first, beyond = (np.searchsorted(ordered, guess, side) for side in ("left", "right"))
    ranks = (first + 1 + beyond) / 2  # ties have their mean rank
    return float((ranks[truth].sum() - inside * (inside + 1) / 2) / (inside * outside))


def _with_constant(vectors: Float32) -> Float64:
    return np.hstack([vectors.astype(np.float64), np.ones((len(vectors), 1))])


def _unit(rows: Float32) -> Float64:
    unit: Float64 = rows / np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float64)
    return unit
