"""Healthy snapshots, published in sequence, and the scenes that are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from damage import Scene
from small_models import Model, trained

KINDS = ("als", "bpr", "lmf", "puresvd", "item2vec", "two_tower")
OTHER = {"als": "bpr", "bpr": "als", "lmf": "bpr", "puresvd": "als", "item2vec": "two_tower", "two_tower": "item2vec"}


@dataclass(frozen=True)
class Pair:
    """Snapshots published in sequence, the last of which is healthy and judged."""

    name: str
    history: list[Model]
    options: dict[str, object] = field(default_factory=dict)


def healthy(data: Path | None) -> Iterator[Pair]:
    """Yield healthy pairs."""
    for kind in KINDS:
        yield Pair(f"{kind}: another seed", [trained(kind, 1, 0), trained(kind, 1, 5)])
        for night in (1, 2, 3):
            yield Pair(f"{kind}: night {night + 1}", [trained(kind, one, one) for one in range(1, night + 2)])
        yield Pair(f"{kind}: churn of five nights", [trained(kind, 1, 1), trained(kind, 6, 6)])
        yield Pair(f"{kind}: fewer factors", [trained(kind, 1, 1), trained(kind, 2, 2, factors=24)])
        yield Pair(
            f"{kind}: more factors", [trained(kind, 1, 1), trained(kind, 2, 2, factors=40)], {"space.dimension": 40}
        )
        yield Pair(f"{kind}: items alone", [_items(trained(kind, 1, 1)), _items(trained(kind, 2, 2))])
        if kind not in ("puresvd", "item2vec"):
            warm = trained(kind, 1, 1)
            yield Pair(f"{kind}: warm start", [warm, trained(kind, 2, 2, start=warm)])
    for kind, given in _SETTINGS:
        words = ", ".join(f"{key} {value:g}" for key, value in given.items())
        yield Pair(f"{kind}: {words}", [trained(kind, 1, 1), trained(kind, 2, 2, **given)])
    yield from _shapes()
    if data is not None:
        days = [Model.load(data / f"day={number}") for number in range(1, 6)]
        for number in range(2, 6):
            yield Pair(f"goodbooks: day {number}", days[:number])
        yield Pair("goodbooks: day 5 after day 1", [days[0], days[4]])
        yield Pair("goodbooks: day 1 after day 5", [days[4], days[0]])
        yield Pair("goodbooks: items alone", [_items(days[0]), _items(days[1])])
        yield Pair("goodbooks: cohorts", [_cohort(day, number % 2, 0.0) for number, day in enumerate(days[:3])])


_SETTINGS: list[tuple[str, dict[str, float]]] = [
    ("als", {"alpha": 1.0}),
    ("als", {"alpha": 15.0}),
    ("als", {"regularization": 0.1}),
    ("als", {"regularization": 10.0}),
    ("als", {"iterations": 5}),
    ("als", {"iterations": 40}),
    ("bpr", {"rate": 0.1}),
    ("bpr", {"regularization": 0.02}),
    ("bpr", {"iterations": 200}),
    ("lmf", {"regularization": 5.0}),
    ("lmf", {"iterations": 60}),
    ("puresvd", {"split": 0.0}),
    ("puresvd", {"split": 1.0}),
    ("item2vec", {"iterations": 10}),
    ("item2vec", {"rate": 0.03}),
    ("two_tower", {"temperature": 0.5}),
    ("two_tower", {"iterations": 4000}),
]


def _items(model: Model) -> Model:
    return Model(model.items, model.item_ids)


def _cohort(model: Model, which: int, shared: float) -> Model:
    """Return a night with one half of the users, plus a share that is present every night."""
    ids = model.user_ids
    kept = (ids % 2 == which) | (ids // 2 % 100 < 100 * shared)
    return model.with_rows(users=model.users[kept], user_ids=ids[kept])


def _shapes() -> Iterator[Pair]:
    """Yield healthy pairs of other forms: precision, ids, scale, cohorts, zero rows, incremental training."""
    first, second = trained("als", 1, 1), trained("als", 2, 2)
    names = ("items", "users")
    for dtype in (np.float16, np.float64):
        yield Pair(
            f"als: saved as {np.dtype(dtype)}",
            [first, second.with_rows(**{name: getattr(second, name).astype(dtype) for name in names})],
        )
    for kind in ("als", "two_tower"):
        one, two = trained(kind, 1, 1), trained(kind, 2, 2)
        yield Pair(
            f"{kind}: saved in 8 bits", [one, two.with_rows(**{name: _in_8_bits(getattr(two, name)) for name in names})]
        )
    yield Pair("als: twice as large", [first, second.with_rows(**{n: 1.4 * getattr(second, n) for n in names})])
    yield Pair("als: other scale split", [first, second.with_rows(items=4 * second.items, users=second.users / 4)])
    yield Pair("als: in raw axes of another kind", [first, _turned(second)])
    for kind in ("als", "bpr", "two_tower"):
        cohorts = [_cohort(trained(kind, night, night), night % 2, 0.0) for night in (1, 2, 3)]
        yield Pair(f"{kind}: cohorts of users in turn", cohorts)
        half = [_cohort(trained(kind, night, night), night % 2, 0.5) for night in (1, 2)]
        yield Pair(f"{kind}: half of the users change", half)
    yield from _noise()
    zeros = [_some_zero(model) for model in (first, second)]
    yield Pair("als: 3 % zero rows each night", zeros)
    yield Pair("als: a constant column each night", [_some_constant(model) for model in (first, second)])
    yield Pair("als: non-negative values", [_non_negative(model) for model in (first, second)])
    yield Pair("als: incremental, 90 % untouched", [first, _incremental(first, second)])
    small = [_only(model, 320, 260) for model in (first, second)]
    yield Pair("als: a small catalogue", small)
    few = [_only(model, 2000, 150) for model in (first, second)]
    yield Pair("als: few users", few)
    yield Pair("als: twice the items", [_only(first, 700, 2000), second])


def _noise() -> Iterator[Pair]:
    """Yield pairs with columns that are drawn again each night, and biases: a column constant on the other side.

    The first night with such columns gives a warning; the third is judged here.
    """
    for kind in ("als", "bpr", "two_tower"):
        nights = [trained(kind, night, night) for night in (1, 2, 3)]
        for scale in (0.3, 1.0):
            yield Pair(
                f"{kind}: a noise column times {scale:g}",
                [_with_noise(model, seed, scale, 1) for seed, model in enumerate(nights)],
            )
        yield Pair(f"{kind}: biases", [_with_biases(model, seed) for seed, model in enumerate(nights)])
        yield Pair(
            f"{kind}: biases, a constant and a noise column",
            [_some_constant(_with_biases(_with_noise(model, seed, 1.0, 2), seed)) for seed, model in enumerate(nights)],
        )


def _with_noise(model: Model, seed: int, scale: float, count: int) -> Model:
    random = np.random.default_rng(seed)
    sides = {}
    for name in ("items", "users"):
        rows = getattr(model, name)
        noise = scale * rows.std() * random.standard_normal((len(rows), count))
        sides[name] = np.hstack([rows, noise.astype(np.float32)])
    return model.with_rows(**sides)


def _with_biases(model: Model, seed: int) -> Model:
    """Return rows with a nearly constant bias for each item, and a small one for each user."""
    random = np.random.default_rng(seed)
    popularity = np.abs(model.items).sum(axis=1)
    of_items = popularity / popularity.mean() + 0.05 * random.standard_normal(len(popularity))
    of_users = 0.1 * random.standard_normal(len(model.users))
    ones = [np.ones(len(rows)) for rows in (model.items, model.users)]
    return model.with_rows(
        items=np.column_stack([model.items, ones[0], of_items]).astype(np.float32),
        users=np.column_stack([model.users, of_users, ones[1]]).astype(np.float32),
    )


def _in_8_bits(rows: np.ndarray) -> np.ndarray:
    scale = np.abs(rows).max() / 127
    return (np.round(rows / scale) * scale).astype(np.float32)


def _turned(model: Model) -> Model:
    """Return the same scores with axes of condition number 100."""
    random = np.random.default_rng(4)
    width = model.items.shape[1]
    left, right = (np.linalg.qr(random.standard_normal((width, width)))[0] for _ in range(2))
    scales = np.geomspace(0.1, 10, width)
    return model.with_rows(
        items=((model.items @ left) * scales @ right).astype(np.float32),
        users=((model.users @ left) / scales @ right).astype(np.float32),
    )


def _some_zero(model: Model) -> Model:
    sides = {}
    for name in ("items", "users"):
        rows = getattr(model, name).copy()
        rows[getattr(model, f"{name[:-1]}_ids") % 33 == 0] = 0
        sides[name] = rows
    return model.with_rows(**sides)


def _some_constant(model: Model) -> Model:
    items, users = model.items.copy(), model.users.copy()
    users[:, -1] = 1.0
    items[:, -1] = 0.2 * np.linalg.norm(items, axis=1)
    return model.with_rows(items=items, users=users)


def _non_negative(model: Model) -> Model:
    """Return rows as of a network with ReLU outputs: in fixed axes, a large part exactly zero."""
    reference = trained("als", 1, 1)
    _, here, there = np.intersect1d(model.item_ids, reference.item_ids, return_indices=True)
    U, _, Vt = np.linalg.svd(model.items[here].T @ reference.items[there])
    return model.with_rows(items=np.maximum(model.items @ (U @ Vt), 0), users=np.maximum(model.users @ (U @ Vt), 0))


def _incremental(before: Model, after: Model) -> Model:
    """Return the night before with new values for a tenth of the ids, in the same axes."""
    _, here, there = np.intersect1d(after.item_ids, before.item_ids, return_indices=True)
    U, _, Vt = np.linalg.svd(after.items[here].T @ before.items[there])
    sides = {}
    for name in ("items", "users"):
        rows, ids = getattr(before, name).copy(), getattr(before, f"{name[:-1]}_ids")
        new, new_ids = getattr(after, name) @ (U @ Vt), getattr(after, f"{name[:-1]}_ids")
        _, mine, theirs = np.intersect1d(ids, new_ids, return_indices=True)
        changed = ids[mine] % 10 == 0
        rows[mine[changed]] = new[theirs[changed]]
        sides[name] = rows
    return before.with_rows(**sides)


def _only(model: Model, items: int, users: int) -> Model:
    """Return the model of the lowest ids."""
    first, second = np.argsort(model.item_ids)[:items], np.argsort(model.user_ids)[:users]
    return Model(model.items[first], model.item_ids[first], model.users[second], model.user_ids[second])


def scenes(data: Path | None) -> Iterator[Scene]:
    """Yield the scenes that are damaged."""
    for kind in KINDS:
        yield Scene(kind, trained(kind, 1, 1), trained(kind, 2, 2), trained(kind, 2, 9), trained(OTHER[kind], 2, 2))
    yield Scene(
        "als, items alone",
        *(
            _items(model)
            for model in (trained("als", 1, 1), trained("als", 2, 2), trained("als", 2, 9), trained("bpr", 2, 2))
        ),
    )
    if data is not None:
        days = [Model.load(data / f"day={number}") for number in (1, 2, 3)]
        random = np.random.default_rng(8)
        unrelated = days[1].with_rows(
            **{name: random.permuted(getattr(days[1], name), axis=0) for name in ("items", "users")}
        )
        yield Scene("goodbooks", days[0], days[1], days[2], unrelated)
