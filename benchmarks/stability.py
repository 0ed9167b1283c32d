"""How stable a space stays over a sequence of snapshots: raw, by simpler recipes, and by each policy of embsync.

    python benchmarks/stability.py SNAPSHOT SNAPSHOT … [--json FILE] [--picture FILE]
    python benchmarks/stability.py --drawn als --nights 22 [--churn 0.03] [--world 31]

Figures, on ids of both nights or of the first and the last: mean item cosine of consecutive nights and since the start;
stale classifier: AUC on the last night of a linear classifier trained on the first night's item vectors, told apart by
the sign of the first night's second principal component; stale users: share of a user's exact top 10 that last night's
vector finds among tonight's items; cold start: the same for the first night's vectors on the last night's items.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from small_models import Model, drawn_nights, train_night

import embsync
from embsync.config import SnapshotConfig
from embsync.snapshots import open_snapshot

#: Options of embsync.stabilize by way.
POLICIES: dict[str, dict[str, object]] = {
    "previous": {"policy": "previous"},
    "first": {"policy": "first"},
    "moving_average 0.3": {"policy": "moving_average"},
    "two_time_scales 0.45, 0.001": {"policy": "two_time_scales"},
}
SWEEP = {
    f"two_time_scales {share:g}, {slow:g}": {"policy": "two_time_scales", "parent_share": share, "slow_weight": slow}
    for share in (0.3, 0.4, 0.45, 0.5, 0.6)
    for slow in (0.001, 0.005, 0.02, 0.05)
}

#: Ways whose consecutive cosine is further below the best are named beneath the picture, which they would compress.
_NEAR = 0.15
_TICKS = 8


@dataclass(frozen=True)
class Figures:
    """The figures of one way."""

    way: str
    consecutive: float
    since_start: float
    users_consecutive: float
    users_since_start: float
    stale_classifier: float
    stale_users: float
    cold_start: float


def read(path: Path) -> Model:
    """Return a snapshot of any layout in memory."""
    snapshot = open_snapshot(path, SnapshotConfig())
    arrays = []
    for side in snapshot.sides:
        arrays += [np.concatenate([block for _, block in side.blocks()]), side.ids()]
    return Model(*arrays)


Sides = tuple[np.ndarray, np.ndarray]


def raw(models: list[Model]) -> list[Sides]:
    """Return the raw vectors."""
    return [(model.items, model.users) for model in models]


def signed_svd(models: list[Model]) -> list[Sides]:
    """Return standardized vectors, each axis with the sign that fits the previous night."""
    out: list[Sides] = []
    for number, model in enumerate(models):
        alone = embsync.stabilize(model.items, model.users, threads=1)
        items, users = alone.items, alone.users
        if out:
            here, there = _common(model.item_ids, models[number - 1].item_ids)
            width = min(items.shape[1], out[-1][0].shape[1])
            dots = np.einsum("ij,ij->j", items[here, :width], out[-1][0][there, :width])
            signs = np.ones(items.shape[1])
            signs[:width] = np.where(dots < 0, -1.0, 1.0)
            items, users = items * signs, users * signs
        out.append((items, users))
    return out


def aligned(models: list[Model], **options: object) -> list[Sides]:
    """Return the stable vectors of each night."""
    out: list[Sides] = []
    anchors = None
    for model in models:
        found = embsync.stabilize(
            model.items,
            model.users,
            item_ids=model.item_ids,
            user_ids=model.user_ids,
            anchors=anchors,
            threads=1,
            dimension=None if anchors else models[0].items.shape[1],
            check=False,
            **options,
        )
        anchors = found.anchors
        out.append((found.items, found.users))
    return out


def _common(ids: np.ndarray, other: np.ndarray) -> Sides:
    _, here, there = np.intersect1d(ids, other, return_indices=True)
    return here, there


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    kept = norms > 0
    return float(((one * other).sum(axis=1)[kept] / norms[kept]).mean())


def _cosines(models: list[Model], rows: list[Sides], side: int) -> tuple[float, float]:
    """Return the mean cosine of consecutive nights, and that of the first with the last."""

    def between(a: int, b: int) -> float:
        key = ("item_ids", "user_ids")[side]
        here, there = _common(getattr(models[b], key), getattr(models[a], key))
        return _cosine(rows[b][side][here], rows[a][side][there])

    steps = [between(number - 1, number) for number in range(1, len(models))]
    return float(np.mean(steps)), between(0, len(models) - 1)


def _classifier(models: list[Model], rows: list[Sides]) -> float:
    """Return the AUC, on the last night, of a ridge classifier trained on the first night's items."""
    first = embsync.stabilize(models[0].items, models[0].users, threads=1).items
    label = first[:, 1] > np.median(first[:, 1])
    scaled = rows[0][0] / np.linalg.norm(rows[0][0], axis=1, keepdims=True)
    system = scaled.T @ scaled + 1e-3 * len(scaled) / scaled.shape[1] * np.eye(scaled.shape[1])
    weights = np.linalg.solve(system, scaled.T @ (2.0 * label - 1))
    here, there = _common(models[-1].item_ids, models[0].item_ids)
    tonight = rows[-1][0][here]
    return _auc(tonight / np.linalg.norm(tonight, axis=1, keepdims=True) @ weights, label[there])


def _auc(scores: np.ndarray, label: np.ndarray) -> float:
    order = np.argsort(np.argsort(scores)) + 1.0
    positive = int(label.sum())
    return float((order[label].sum() - positive * (positive + 1) / 2) / (positive * (len(label) - positive)))


def _top(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    return np.argpartition(-(users @ items.T), 10, axis=1)[:, :10]


def _overlap(models: list[Model], rows: list[Sides], a: int, b: int) -> float:
    """Return the share of the top 10 of night ``b`` that the user vectors of night ``a`` find among its items."""
    here, there = _common(models[b].user_ids, models[a].user_ids)
    here, there = here[:500], there[:500]
    own, stale = _top(rows[b][1][here], rows[b][0]), _top(rows[a][1][there], rows[b][0])
    return float(np.mean([len(np.intersect1d(x, y)) / 10 for x, y in zip(own, stale, strict=True)]))


def measure(way: str, models: list[Model], rows: list[Sides]) -> Figures:
    """Return all figures of one way."""
    last = len(models) - 1
    items, users = _cosines(models, rows, 0), _cosines(models, rows, 1)
    stale = [_overlap(models, rows, night - 1, night) for night in range(1, last + 1)]
    return Figures(
        way, *items, *users, _classifier(models, rows), float(np.mean(stale)), _overlap(models, rows, 0, last)
    )


def draw(found: list[Figures]) -> str:
    """Return an SVG of consecutive and since-start cosines, a point per way; distant ones are named below."""
    best = max(one.consecutive for one in found)
    shown = sorted((one for one in found if one.consecutive > best - _NEAR), key=lambda one: -one.since_start)
    far = ", ".join(f"{one.way} ({one.consecutive:.2f}, {one.since_start:.2f})" for one in found if one not in shown)
    left, right, top, bottom = 70, 560, 20, 380
    across, columns = _axis([one.consecutive for one in shown], left, right)
    up, lines = _axis([one.since_start for one in shown], bottom, top)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 450" font-family="sans-serif" font-size="12">'
        '<rect width="820" height="450" fill="#fff"/>'
    ]
    for value in columns:
        x = across(value)
        parts.append(
            f'<path d="M{x:.1f} {top}V{bottom}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:.2f}</text>'
        )
    for value in lines:
        y = up(value)
        parts.append(
            f'<path d="M{left} {y:.1f}H{right}" stroke="#ddd"/>'
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        )
    parts.append(
        f'<text x="{(left + right) / 2}" y="{bottom + 40}" text-anchor="middle">mean item cosine of '
        "consecutive nights</text>"
        f'<text transform="translate(18 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f'of the first night with the last</text><text x="{left}" y="{bottom + 62}" fill="#666">'
        f"{'outside: ' + far if far else ''}</text>"
    )
    label = float(top)
    for one in shown:
        x, y = across(one.consecutive), up(one.since_start)
        label = max(label + 16, y)
        parts.append(
            f'<path d="M{x:.1f} {y:.1f}L{right + 12} {label:.1f}" stroke="#bbb"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2266aa"/>'
            f'<text x="{right + 16}" y="{label + 4:.1f}">{one.way}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def _axis(values: list[float], start: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """Return a function from a value to its position in the picture, and the round values to mark."""
    span = max(values) - min(values)
    step = next(one for one in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if span / one <= _TICKS)
    first, last = int(np.floor(min(values) / step)), int(np.floor(max(values) / step)) + 1
    return (
        lambda value: start + (value / step - first) / (last - first) * (end - start),
        [step * number for number in range(first, last + 1)],
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshots", nargs="*", type=Path, help="in the order of the nights, any layout")
    parser.add_argument("--drawn", choices=("als", "bpr", "puresvd"), help="nights of a drawn world instead")
    parser.add_argument("--nights", type=int, default=22)
    parser.add_argument("--churn", type=float, default=0.0, help="share of both sides that leaves and joins a night")
    parser.add_argument("--world", type=int, default=23, help="seed of the drawn world")
    parser.add_argument("--sweep", action="store_true", help="two time scales with other shares and weights as well")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="an SVG of the cosines")
    given = parser.parse_args()
    if bool(given.snapshots) == bool(given.drawn):
        parser.error("give snapshots, or --drawn")
    models = [read(path) for path in given.snapshots] or [
        train_night(given.drawn, night, seed)
        for seed, night in enumerate(drawn_nights(given.nights, given.churn, given.world))
    ]
    ways: dict[str, Callable[[], list[Sides]]] = {
        "raw": lambda: raw(models),
        "Procrustes alone, previous": lambda: aligned(models, policy="previous", standardize=False),
        "SVD with signs": lambda: signed_svd(models),
    }
    for way, options in {**POLICIES, **(SWEEP if given.sweep else {})}.items():
        ways[way] = lambda options=options: aligned(models, **options)
    if len({model.items.shape[1] for model in models}) > 1:
        del ways["raw"], ways["SVD with signs"]
    found = [measure(way, models, make()) for way, make in ways.items()]
    print(f"{len(models)} nights, {len(models[-1].items)} items, {len(models[-1].users)} users on the last")
    print(
        "| way | items, a night | since start | users, a night | since start | stale classifier | stale users "
        "| cold start |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for one in found:
        print(f"| {one.way} | " + " | ".join(f"{value:.4f}" for value in list(vars(one).values())[1:]) + " |")
    if given.json:
        given.json.write_text(json.dumps([vars(one) for one in found], indent=1))
    if given.picture:
        given.picture.write_text(draw(found))


if __name__ == "__main__":
    main()
