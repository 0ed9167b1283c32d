"""Matrices for properties that must hold for every snapshot, and the number of examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import embsync
from embsync.arrays.stabilization import Stabilized

Array = NDArray[Any]

#: The same examples in every run, so that failures are reproducible.
law = settings(max_examples=30)


@dataclass(frozen=True)
class Pair:
    """Items (t, e) and users (w, e) whose scores have rank ``rank``."""

    items: Array
    users: Array
    rank: int
    seed: int

    @property
    def width(self) -> int:
        """The number of values in a row."""
        return int(self.items.shape[1])

    @property
    def scores(self) -> Array:
        """The scores of all pairs, in float64."""
        return self.items.astype(np.float64) @ self.users.astype(np.float64).T


@st.composite
def pairs(draw: st.DrawFn, *, full_rank: bool = False, dtypes: tuple[str, ...] = ("<f4", "<f8")) -> Pair:
    """Draw a snapshot: full rank, rank-deficient in several ways, or with fewer rows than columns."""
    width = draw(st.integers(1, 7))
    seed = draw(st.integers(0, 2**32 - 1))
    dtype = draw(st.sampled_from(dtypes))
    least = 2 * width + 3 if full_rank else 1
    items, users = (draw(st.integers(least, 70)) for _ in range(2))
    kind = (
        "full" if full_rank or width == 1 else draw(st.sampled_from(("full", "duplicate", "constant", "zero", "mixed")))
    )
    random = np.random.default_rng(seed)
    T, W = random.standard_normal((items, width)), random.standard_normal((users, width))
    T *= draw(st.sampled_from((1.0, 1e-3, 40.0)))
    if kind == "duplicate":
        T[:, -1], W[:, -1] = T[:, 0], W[:, 0]
    elif kind == "constant":
        T[:, -1] = 1.0
    elif kind == "zero":
        W[:, -1] = 0.0
    elif kind == "mixed":
        low = max(1, width // 2)
        T = T[:, :low] @ random.standard_normal((low, width))
        W = W if seed % 2 else W[:, :low] @ random.standard_normal((low, width))
        dtype = "<f8"  # rounding to float32 would restore full rank
    T, W = T.astype(dtype), W.astype(dtype)
    S = np.linalg.svd(T.astype(np.float64) @ W.astype(np.float64).T, compute_uv=False)
    return Pair(T, W, int(np.count_nonzero(1e-7 * S[0] < S)), seed)


def relative(found: Array, expected: Array) -> float:
    """Return the Frobenius distance relative to ``expected``."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def score_error(stable: tuple[Array, Array], raw: tuple[Array, Array]) -> float:
    """Return the relative error of all scores, computed densely in float64."""
    wide = [array.astype(np.float64) for array in (*stable, *raw)]
    return relative(wide[0] @ wide[1].T, wide[2] @ wide[3].T)


def aligned(items: Array, users: Array | None = None, **options: Any) -> Stabilized:
    """Return a snapshot aligned to anchors by row numbers unless ids are given, without checks."""
    ids = {"item_ids": np.arange(len(items)), "user_ids": None if users is None else np.arange(len(users))}
    return embsync.stabilize(items, users, **{"check": False, **ids, **options})
