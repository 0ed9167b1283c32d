"""The ten best raw items are derived from a scan of the stable ones with a bound, for any values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.laws import law
from support.nights import Array

from embsync.alignment.certified import CertifiedTopK, SampledNeighbours, ScoreBound
from embsync.alignment.preservation import written_block
from embsync.alignment.two_pass import Alignment, SideInput, fit
from embsync.rows import ArrayRows
from embsync.sides import NAMES, Sides
from embsync.similarity import Metric

WORLDS = ("plain", "ties", "near ties", "long", "short", "spread", "zero rows", "unbalanced", "cancelling")


@dataclass(frozen=True)
class World:
    """Raw items and users, all of them sampled, and their alignment."""

    items: Array
    users: Array
    found: Alignment

    @property
    def stable(self) -> tuple[Array, Array]:
        """Items and users as they are written, in float32."""
        sides = (self.items, self.found.items), (self.users, self.found.queries)
        items, users = (written_block(rows, side.map, side.scale)[0] for rows, side in sides)
        return items, users


def _world(kind: str, seed: int, *, width: int = 6, dimension: int = 6, standardized: bool = True) -> World:
    random = np.random.default_rng(seed)
    items, users = random.standard_normal((90, width)), random.standard_normal((20, width))
    if kind == "ties":
        items = items[random.integers(0, 30, 90)]
    elif kind == "near ties":
        items = items[random.integers(0, 30, 90)] * (1.0 + 1e-7 * random.standard_normal((90, width)))
    elif kind in ("long", "short"):
        items *= 1e25 if kind == "long" else 1e-25
    elif kind == "spread":
        items *= 10.0 ** random.uniform(-6, 6, (90, 1))
    elif kind == "zero rows":
        items[random.random(90) < 0.6] = 0.0
        users[random.random(20) < 0.3] = 0.0
    elif kind == "unbalanced":
        turn = random.standard_normal((width, width)) * 10.0 ** random.uniform(-3, 3, width)
        items, users = items @ turn, users @ np.linalg.inv(turn).T
    elif kind == "cancelling":  # one common part, a million times as long as the rest
        items[:, 0] += 1e6
        users[:, 0], standardized = 0.0, False
    items, users = items.astype(np.float32), users.astype(np.float32)
    sampled = np.arange(len(users))
    sides = Sides(SideInput(ArrayRows(items)), SideInput(ArrayRows(users), sampled=sampled))
    found = fit(sides, dimension=dimension, standardized=standardized)
    if kind == "cancelling":  # also in the space, whose axes otherwise separate the common part
        turn = np.linalg.qr(random.standard_normal((dimension, dimension)))[0]
        found = replace(
            found, **{side: replace(getattr(found, side), map=getattr(found, side).map @ turn) for side in NAMES}
        )
    return World(items, users, found)


def _exact(queries: Array, rows: Array) -> Array:
    return np.asarray(queries.astype(np.longdouble) @ rows.astype(np.longdouble).T)


@pytest.mark.parametrize("kind", WORLDS)
@settings(law, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_score_changes_by_more_than_the_bound(kind: str, seed: int) -> None:
    """For every pair, the float32 product of the written rows is within the bound of the exact raw score."""
    world = _world(kind, seed)
    items, users = world.stable
    bound = ScoreBound.of(world.users, world.found)
    lengths = (np.linalg.norm(side.astype(np.longdouble), axis=1) for side in (users, items))
    allowed = bound.relative * np.outer(*lengths) + bound.absolute[:, None]
    # A power of two, as in the scan: float32 overflows on the square of a long vector.
    changed = np.abs(np.asarray(users @ items.T, np.longdouble) - _exact(world.users, world.items))
    assert (changed <= allowed).all()


@pytest.mark.parametrize("kind", WORLDS)
@settings(law, max_examples=10)
@given(step=st.sampled_from((7, 30, 90)), seed=st.integers(0, 2**32 - 1))
def test_the_raw_top_10_equals_that_of_all_pairs(kind: str, step: int, seed: int) -> None:
    """With blocks of any size and order, the exact scores of every user's ten best are found."""
    world = _world(kind, seed)
    items, users = world.stable
    best = CertifiedTopK(users, world.users, ScoreBound.of(world.users, world.found), 10)
    for start in np.random.default_rng(seed).permutation(np.arange(0, len(items), step)):
        part = np.arange(start, min(start + step, len(items)))
        best.observe_mapped(part, world.items[part], items[part])
    scores = _exact(world.users, world.items).astype(np.float64)
    expected = -np.sort(-scores, axis=1)[:, :10]
    found = best.raw()
    scale = np.abs(expected).max(initial=1e-300)
    np.testing.assert_allclose(np.take_along_axis(scores, found.rows, 1) / scale, expected / scale, rtol=1e-6)
    assert best.agreement() == 1.0


def test_no_raw_neighbour_is_lost_between_threads() -> None:
    """Floors and lengths that other threads raise concurrently exclude no neighbour."""
    random = np.random.default_rng(5)
    items, users = (random.standard_normal((rows, 16)).astype(np.float32) for rows in (9_000, 60))
    sides = Sides(SideInput(ArrayRows(items)), SideInput(ArrayRows(users), sampled=np.arange(60)))
    world = World(items, users, fit(sides, dimension=16))
    stable, asking = world.stable
    best = CertifiedTopK(asking, users, ScoreBound.of(users, world.found), 10)
    blocks = np.array_split(random.permutation(9_000), 30)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda rows: best.observe_mapped(rows, items[rows], stable[rows]), blocks))
    expected = np.argsort(-_exact(users, items), axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(best.raw().rows, expected)
    assert best.agreement() == 1.0


@pytest.mark.parametrize("fault", ["a changed row", "exchanged rows"])
def test_a_changed_score_is_detected(fault: str) -> None:
    """Users whose neighbours include a row that the map does not give do not agree."""
    world = _world("plain", 3)
    items, users = world.stable
    items = items.copy()
    best = int(np.argmax(_exact(world.users[:1], world.items)))
    if fault == "a changed row":
        items[best] *= np.float32(1.001)
    else:
        items[[best, (best + 1) % 90]] = items[[(best + 1) % 90, best]]
    found = _neighbours(world, users, items)
    assert isinstance(found.agreement(), float)
    assert found.agreement() < 1.0


@pytest.mark.parametrize(
    ("dimension", "metric", "agrees"),
    [(6, "inner_product", 1.0), (6, "l2", 1.0), (6, "cosine", 1.0), (3, "inner_product", 0.0)],
)
def test_raw_neighbours_are_exact_with_or_without_the_bound(dimension: int, metric: Metric, agrees: float) -> None:
    """In a narrower space or with another metric there is no bound; scanning the raw rows gives the same answers."""
    world = _world("plain", 8, dimension=dimension, standardized=metric == "inner_product")
    items, users = world.stable
    others = np.random.default_rng(1).standard_normal((7, 6))
    found = _neighbours(world, users, items, others, metric)
    assert found.agreement() == agrees
    scores = np.asarray(_exact(others, world.items))
    if metric != "inner_product":
        lengths = (world.items.astype(np.float64) ** 2).sum(axis=1)
        scores = scores / np.sqrt(lengths) if metric == "cosine" else 2 * scores - lengths
    np.testing.assert_array_equal(found.others_raw().rows, np.argsort(-scores, axis=1, kind="stable")[:, :10])
    assert found.sampled().rows.shape == (20, 12)
    assert found.others().rows.shape == (2, 12)


def test_the_bound_is_not_used_where_it_could_overflow() -> None:
    """For rows near the largest float32 there is no bound, and the raw rows are scanned."""
    world = _world("plain", 2)
    sides = Sides(
        SideInput(ArrayRows(world.items * np.float32(1e37))),
        SideInput(ArrayRows(world.users), sampled=np.zeros(1, int)),
    )
    found = fit(sides, dimension=6, standardized=False)
    bound = ScoreBound.of(world.users[:1], found)
    assert not bound.negligible(np.ones(1), found.items.typical_length)


def _neighbours(
    world: World, users: Array, items: Array, others: Array | None = None, metric: Metric = "inner_product"
) -> SampledNeighbours:
    raw = np.empty((0, 6)) if others is None else others
    found = SampledNeighbours(world.found, users, users[:2], raw, 12, metric)
    for start in range(0, len(items), 25):
        part = np.arange(start, min(start + 25, len(items)))
        found.observe(part, world.items[part], items[part])
    return found
