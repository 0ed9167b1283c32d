"""How stable a space stays over a sequence of snapshots: raw, by simpler recipes, and by each policy of embsync.

    python benchmarks/stability.py SNAPSHOT SNAPSHOT … [--json FILE] [--picture FILE]
    python benchmarks/stability.py --drawn als --nights 22 [--churn 0.03]

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

#: Way -> options of embsync.stabilize.
POLICIES: dict[str, dict[str, object]] = {
    "previous": {"policy": "previous"},
    "first": {"policy": "first"},
    "moving_average 0.3": {"policy": "moving_average"},
    "two_time_scales 0.4, 0.02": {"policy": "two_time_scales"},
}
SWEEP = {f"two_time_scales {share:g}, {slow:g}": {"policy": "two_time_scales", "parent_share": share,
                                                 "slow_weight": slow}
         for share in (0.3, 0.4, 0.5, 0.6, 0.7) for slow in (0.01, 0.02, 0.05, 0.1)}


@dataclass(frozen=True)
class Figures:
    """Of one way."""

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
    """Return the vectors as they are."""
    return [(model.items, model.users) for model in models]


def signed_svd(models: list[Model]) -> list[Sides]:
    """Return standardized vectors, each axis with the sign that fits the night before."""
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
    """Return what embsync makes of each night."""
    out: list[Sides] = []
    anchors = None
    for model in models:
        found = embsync.stabilize(model.items, model.users, item_ids=model.item_ids, user_ids=model.user_ids,
                                  anchors=anchors, threads=1, dimension=None if anchors else models[0].items.shape[1],
                                  **options)
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
    return Figures(way, *items, *users, _classifier(models, rows), float(np.mean(stale)),
                   _overlap(models, rows, 0, last))


def draw(found: list[Figures]) -> str:
    """Return an SVG of consecutive against since-start cosines, a point a way."""
    width, height, left, bottom = 640, 420, 60, 50
    xs, ys = [one.consecutive for one in found], [one.since_start for one in found]
    low, high = min([*xs, *ys]) - 0.02, max([*xs, *ys]) + 0.02

    def place(x: float, y: float) -> tuple[float, float]:
        scale = (high - low) or 1.0
        return (left + (x - low) / scale * (width - left - 20),
                height - bottom - (y - low) / scale * (height - bottom - 20))

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
             f'font-size="11"><rect width="{width}" height="{height}" fill="#fff"/>']
    for tick in np.linspace(low, high, 6):
        x, y = place(tick, tick)
        parts.append(f'<text x="{x:.0f}" y="{height - bottom + 18}" text-anchor="middle">{tick:.2f}</text>'
                     f'<text x="{left - 8}" y="{y:.0f}" text-anchor="end">{tick:.2f}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">item cosine of consecutive nights'
                 f'</text><text transform="translate(14 {height / 2}) rotate(-90)" text-anchor="middle">since the '
                 'start</text>')
    for one in found:
        x, y = place(one.consecutive, one.since_start)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2266aa"/>'
                     f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{one.way}</text>')
    return "\n".join([*parts, "</svg>"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshots", nargs="*", type=Path, help="in the order of the nights, any layout")
    parser.add_argument("--drawn", choices=("als", "bpr", "puresvd"), help="nights of a drawn world instead")
    parser.add_argument("--nights", type=int, default=22)
    parser.add_argument("--churn", type=float, default=0.0, help="share of both sides that leaves and joins a night")
    parser.add_argument("--sweep", action="store_true", help="two time scales with other shares and weights as well")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="an SVG of the cosines")
    given = parser.parse_args()
    if bool(given.snapshots) == bool(given.drawn):
        parser.error("give snapshots, or --drawn")
    models = [read(path) for path in given.snapshots] or [
        train_night(given.drawn, night, seed) for seed, night in enumerate(drawn_nights(given.nights, given.churn))]
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
    print("| way | items, a night | since start | users, a night | since start | stale classifier | stale users "
          "| cold start |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for one in found:
        print(f"| {one.way} | " + " | ".join(f"{value:.4f}" for value in list(vars(one).values())[1:]) + " |")
    if given.json:
        given.json.write_text(json.dumps([vars(one) for one in found], indent=1))
    if given.picture:
        given.picture.write_text(draw(found))


if __name__ == "__main__":
    main()
