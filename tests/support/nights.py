"""A small recommender that is retrained every night: one seeded taste, other noise, other axes, other ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embsync.config import Config
from embsync.config_loader import load

Array = NDArray[Any]


@dataclass(frozen=True)
class Night:
    """The output of one training run; ``users`` is None for one side."""

    items: Array
    item_ids: Array
    users: Array | None = None
    user_ids: Array | None = None

    @property
    def both(self) -> tuple[Array, Array]:
        """Items and users; there must be users."""
        assert self.users is not None
        return self.items, self.users

    def arrays(self) -> dict[str, Array]:
        """Return the arrays by their names in layout npy."""
        return {name: array for name, array in vars(self).items() if array is not None}

    def named(self) -> Night:
        """Return the night with string ids: of several lengths, some not ASCII, in another order than the integers."""
        users = None if self.user_ids is None else np.array([f"u{id_ % 97}-{id_}" for id_ in self.user_ids.tolist()])
        return replace(self, item_ids=np.array([item_name(id_) for id_ in self.item_ids.tolist()]), user_ids=users)

    def one_sided(self) -> Night:
        """Return the items alone."""
        return Night(self.items, self.item_ids)

    def reordered(self, seed: int = 3) -> Night:
        """Return the same rows in another order on each side."""
        random = np.random.default_rng(seed)
        first = random.permutation(len(self.items))
        turned = replace(self, items=self.items[first], item_ids=self.item_ids[first])
        if self.users is None or self.user_ids is None:
            return turned
        second = random.permutation(len(self.users))
        return replace(turned, users=self.users[second], user_ids=self.user_ids[second])

    def with_vectors(self, change: Callable[[Array], Array]) -> Night:
        """Return the night with every side's vectors changed by one function."""
        return replace(self, items=change(self.items), users=None if self.users is None else change(self.users))

    def without_items(self, ids: Array) -> Night:
        """Return the night without some of its items."""
        kept = ~np.isin(self.item_ids, ids)
        return replace(self, items=self.items[kept], item_ids=self.item_ids[kept])

    def shuffled_item_ids(self, seed: int = 5) -> Night:
        """Return the night with its item ids shuffled."""
        return replace(self, item_ids=np.random.default_rng(seed).permutation(self.item_ids))


def item_name(id_: int) -> str:
    """Return the string id of an integer one."""
    return f"{'müsli' if id_ % 3 == 0 else 'book'}-{id_}"


def rotation(width: int, seed: int) -> Array:
    """Return a random orthogonal matrix: a reflection for every other seed."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]
    wanted = 1.0 if seed % 2 else -1.0
    if np.sign(np.linalg.det(q)) != wanted:
        q[:, 0] *= -1.0
    return np.asarray(q)


def night(
    number: int,
    *,
    items: int = 240,
    users: int = 160,
    width: int = 8,
    noise: float = 0.15,
    churn: float = 0.05,
    seed: int = 7,
    turned: bool = True,
) -> Night:
    """Return the retraining of one night.

    Every id has a constant taste; a night adds its own noise and rotates all axes at random. From one night to
    the next, the oldest ``churn`` of the ids leave for good and as many join.
    """
    random = np.random.default_rng((seed, 1000 + number))
    sides = []
    for side, count in enumerate((items, users)):
        step = round(churn * count)
        index = random.permutation(np.arange(number * step, number * step + count))
        taste = _tastes(seed, side, int(index.max()) + 1, width)[index]
        sides.append((taste + noise * random.standard_normal(taste.shape), (7 * index + 1000 * (side + 1))))
    turn = rotation(width, number + 1) if turned else np.eye(width)
    (item_rows, item_ids), (user_rows, user_ids) = sides
    return Night(
        (item_rows @ turn).astype(np.float32),
        item_ids.astype(np.int64),
        (user_rows @ turn).astype(np.float32),
        user_ids.astype(np.int64),
    )


def _tastes(seed: int, side: int, count: int, width: int) -> Array:
    """Return the first ``count`` tastes: the same for an id whatever the count."""
    spread = np.linspace(1.6, 0.8, width)
    return np.random.default_rng((seed, side)).standard_normal((count, width)) * spread


def write_npy(path: Path, made: Night) -> Path:
    """Write a night as layout npy."""
    path.mkdir(parents=True, exist_ok=True)
    for name, array in made.arrays().items():
        np.save(path / f"{name}.npy", array)
    return path


def configured(**options: object) -> Config:
    """Return the configuration with the given keys, ``.`` written as ``__``; default: exact index, one thread."""
    chosen: dict[str, object] = {"index.factory": "Flat", "threads": 1}
    chosen.update({key.replace("__", "."): value for key, value in options.items()})
    return load(environment={}, options=chosen)
