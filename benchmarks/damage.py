"""Damage to a snapshot that leaves every score finite: kinds of damage, applied to a healthy model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from small_models import Model


@dataclass(frozen=True)
class Scene:
    """Models from which damaged snapshots are made.

    Attributes
    ----------
    before, tonight : Model
        A healthy pair; damage is done to ``tonight``.
    other_run : Model
        Another run on tonight's data.
    unrelated : Model
        Another kind of model, of the same width.
    """

    name: str
    before: Model
    tonight: Model
    other_run: Model
    unrelated: Model


@dataclass(frozen=True)
class Damaged:
    """A damaged snapshot: the damage affects ``share`` of the rows of ``side``, 1 for all."""

    kind: str
    side: str
    share: float
    model: Model


Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def all_of(scene: Scene, seed: int = 3) -> Iterator[Damaged]:
    """Yield every kind of damage to a scene."""
    for side in ("items", "users"):
        if getattr(scene.tonight, side) is None:
            continue
        for share in (0.02, 0.05, 0.1, 0.5):
            for kind, change in ROWS.items():
                yield _rows(scene, kind, side, share, change, np.random.default_rng((seed, round(100 * share))))
            yield _stale(scene, side, share, np.random.default_rng(seed))
        for kind, change in WHOLE.items():
            yield _whole(scene, kind, side, change, np.random.default_rng(seed))
        yield from _ids(scene, side)
        yield _other(scene, "another model's rows", side, scene.unrelated)
        if scene.tonight.users is not None:
            yield _other(scene, "mix of two runs", side, scene.other_run)
    yield from _both(scene)


def _parts(model: Model, side: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(model, side), getattr(model, f"{side[:-1]}_ids")


def _rows(scene: Scene, kind: str, side: str, share: float, change: Change, random: np.random.Generator) -> Damaged:
    rows = getattr(scene.tonight, side).copy()
    count = max(2, round(share * len(rows)))
    chosen = np.sort(random.choice(len(rows), count, replace=False))
    rows[chosen] = change(rows, chosen, random)
    return Damaged(kind, side, share, scene.tonight.with_rows(**{side: rows}))


def _block(rows: np.ndarray, chosen: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return consecutive rows from a random place, as many as were chosen."""
    first = int(random.integers(len(rows) - len(chosen) + 1))
    return np.arange(first, first + len(chosen))


#: Kinds that affect some rows: new values for the chosen ones.
ROWS: dict[str, Change] = {
    "shuffled rows": lambda rows, chosen, random: rows[random.permutation(chosen)],
    "rows of the next id": lambda rows, chosen, random: rows[np.roll(chosen, 1)],
    "reversed range": lambda rows, chosen, random: rows[chosen[::-1]],
    "repeated block": lambda rows, chosen, random: rows[_block(rows, chosen, random)],
    "one row repeated": lambda rows, chosen, random: np.repeat(rows[chosen[:1]], len(chosen), axis=0),
    "zero rows": lambda rows, chosen, random: np.zeros((len(chosen), rows.shape[1]), rows.dtype),
    "noise rows": lambda rows, chosen, random: (
        rows.std(axis=0) * random.standard_normal((len(chosen), rows.shape[1]))
    ).astype(rows.dtype),
    "untrained rows": lambda rows, chosen, random: (
        0.01 * rows.std() * random.standard_normal((len(chosen), rows.shape[1]))
    ).astype(rows.dtype),
    "mean rows": lambda rows, chosen, random: np.repeat(rows.mean(axis=0, keepdims=True), len(chosen), axis=0),
    "negated rows": lambda rows, chosen, random: -rows[chosen],
    "columns rolled in rows": lambda rows, chosen, random: np.roll(rows[chosen], 1, axis=1),
    "half of the columns lost": lambda rows, chosen, random: (
        rows[chosen] * (np.arange(rows.shape[1]) * 2 < rows.shape[1])
    ),
    "rows times 10": lambda rows, chosen, random: rows[chosen] * np.float32(10),
    "rows times 0.1": lambda rows, chosen, random: rows[chosen] * np.float32(0.1),
}


def _clipped(rows: np.ndarray, quantile: float) -> np.ndarray:
    low, high = np.quantile(rows, [1 - quantile, quantile])
    return np.clip(rows, low, high)


def _column(rows: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    made = rows.copy()
    strongest = int(np.argsort((rows - rows.mean(axis=0)).std(axis=0))[len(rows[0]) // 2])  # one of medium spread
    made[:, strongest] = change(rows[:, strongest])
    return made


#: Kinds that affect an entire side.
WHOLE: dict[str, Change] = {
    "flipped column": lambda rows, _, random: _column(rows, lambda column: -column),
    "constant column": lambda rows, _, random: _column(rows, lambda column: np.full_like(column, column.mean())),
    "zero column": lambda rows, _, random: _column(rows, np.zeros_like),
    "shuffled column": lambda rows, _, random: _column(rows, random.permutation),
    "column times 10": lambda rows, _, random: _column(rows, lambda column: column * np.float32(10)),
    "column times 0.01": lambda rows, _, random: _column(rows, lambda column: column * np.float32(0.01)),
    "two columns exchanged": lambda rows, _, random: rows[:, [1, 0, *range(2, rows.shape[1])]],
    "all columns shuffled": lambda rows, _, random: rows[:, random.permutation(rows.shape[1])],
    "a constant added": lambda rows, _, random: rows + rows.std(),
    "mean removed": lambda rows, _, random: rows - rows.mean(axis=0),
    "one row times 1000": lambda rows, _, random: np.concatenate([rows[:7], rows[7:8] * np.float32(1000), rows[8:]]),
    "negated side": lambda rows, _, random: -rows,
    "absolute values": lambda rows, _, random: np.abs(rows),
    "clipped at 1 and 99 %": lambda rows, _, random: _clipped(rows, 0.99),
    "clipped at 5 and 95 %": lambda rows, _, random: _clipped(rows, 0.95),
    "signs alone": lambda rows, _, random: np.sign(rows).astype(rows.dtype),
    "float16 underflow": lambda rows, _, random: (rows * np.float32(4e-8 / rows.std())).astype(np.float16),
    "times 3": lambda rows, _, random: rows * np.float32(3),
    "times 100": lambda rows, _, random: rows * np.float32(100),
    "times 1e-40": lambda rows, _, random: rows * np.float32(1e-40),
    "unit rows": lambda rows, _, random: rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30),
}


def _whole(scene: Scene, kind: str, side: str, change: Change, random: np.random.Generator) -> Damaged:
    rows = getattr(scene.tonight, side)
    return Damaged(kind, side, 1.0, scene.tonight.with_rows(**{side: change(rows, np.arange(len(rows)), random)}))


def _stale(scene: Scene, side: str, share: float, random: np.random.Generator) -> Damaged:
    """Replace a share of the ids' rows by the raw rows of the night before."""
    rows, ids = _parts(scene.tonight, side)
    old, old_ids = _parts(scene.before, side)
    common, here, there = np.intersect1d(ids, old_ids, return_indices=True)
    chosen = random.choice(len(common), max(2, round(share * len(common))), replace=False)
    made = rows.copy()
    if made.shape[1] == old.shape[1]:
        made[here[chosen]] = old[there[chosen]]
    return Damaged("stale rows", side, share, scene.tonight.with_rows(**{side: made}))


def _ids(scene: Scene, side: str) -> Iterator[Damaged]:
    rows, ids = _parts(scene.tonight, side)
    key = f"{side[:-1]}_ids"
    for by in (1, 10**6):
        yield Damaged(f"ids + {by}", side, 1.0, scene.tonight.with_rows(**{key: ids + by}))
    order = np.argsort(ids)
    numbers = np.empty_like(ids)
    numbers[order] = np.arange(len(ids))
    yield Damaged("row numbers as ids", side, 1.0, scene.tonight.with_rows(**{key: numbers}))
    moved = np.empty_like(ids)
    moved[order] = np.roll(ids[order], 1)
    yield Damaged("every id one row off", side, 1.0, scene.tonight.with_rows(**{key: moved}))
    half = order[: len(ids) // 2]
    late = ids.copy()
    late[half] = np.roll(ids[half], 1)
    yield Damaged("half of the ids one row off", side, 0.5, scene.tonight.with_rows(**{key: late}))
    for share in (0.05, 0.1, 0.3, 0.6):
        kept = order[: round((1 - share) * len(ids))]
        yield Damaged("truncated", side, share, scene.tonight.with_rows(**{side: rows[kept], key: ids[kept]}))


def _other(scene: Scene, kind: str, side: str, source: Model) -> Damaged:
    """Give every id of a side the rows of another model, where it has them."""
    ids = _parts(scene.tonight, side)[1]
    other, other_ids = _parts(source, side)
    _, here, there = np.intersect1d(ids, other_ids, return_indices=True)
    made = {side: other[there], f"{side[:-1]}_ids": ids[here]}
    return Damaged(kind, side, 1.0, scene.tonight.with_rows(**made))


def _both(scene: Scene) -> Iterator[Damaged]:
    tonight = scene.tonight
    yield Damaged("another model", "both", 1.0, scene.unrelated)
    for by in (1e-40, 1e-25, 1e-12, 100.0, 1e25):
        factor = np.float64(by) if by == 1e25 else np.float32(by)
        sides = {
            name: getattr(tonight, name) * factor for name in ("items", "users") if getattr(tonight, name) is not None
        }
        yield Damaged(f"times {by:g}", "both", 1.0, tonight.with_rows(**sides))
    if tonight.users is not None and tonight.item_ids.dtype == tonight.user_ids.dtype:
        yield Damaged(
            "sides exchanged", "both", 1.0, Model(tonight.users, tonight.user_ids, tonight.items, tonight.item_ids)
        )
        yield Damaged(
            "ids + 1", "both", 1.0, tonight.with_rows(item_ids=tonight.item_ids + 1, user_ids=tonight.user_ids + 1)
        )
        random = np.random.default_rng(9)
        yield Damaged(
            "shuffled rows",
            "both",
            1.0,
            tonight.with_rows(items=random.permutation(tonight.items), users=random.permutation(tonight.users)),
        )
    yield Damaged(
        "zero rows",
        "both",
        1.0,
        tonight.with_rows(
            **{
                name: np.zeros_like(getattr(tonight, name))
                for name in ("items", "users")
                if getattr(tonight, name) is not None
            }
        ),
    )
