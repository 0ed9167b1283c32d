"""The certificate equals a dense float64 computation, for changes of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import Pair, law, pairs, score_error
from support.nights import Array, night

import embsync
from embsync.alignment.preservation import map_error, residual_of, residual_scale
from embsync.alignment.preservation import score_error as certified_score_error
from embsync.alignment.transform import Transform
from embsync.rows import ArrayRows
from embsync.sides import Sides


def certify(
    items: Array, users: Array | None, stable_items: Array, stable_users: Array | None, maps: Transform
) -> float:
    """Return the certified score error of stable arrays and raw ones, rows in the same order."""
    sides = Sides(ArrayRows(items), None if users is None else ArrayRows(users))
    return certified_score_error(sides.map(residual_of, Sides(stable_items, stable_users), maps), maps)


@law
@given(pairs(), st.sampled_from((1e-3, 0.1, 1.0, 1e3)), st.booleans(), st.booleans())
def test_the_error_equals_the_size_of_one_changed_value(pair: Pair, by: float, on_users: bool, one_sided: bool) -> None:
    """A change of one written value by ``by``, on either side, is the score error over all pairs, for any rank."""
    users = None if one_sided else pair.users
    found = embsync.stabilize(pair.items, users)
    items, other = found.items.copy(), None if found.users is None else found.users.copy()
    changed = other if other is not None and on_users else items
    random = np.random.default_rng(pair.seed)
    changed[random.integers(len(changed)), random.integers(changed.shape[1])] += np.float32(by)
    certified = certify(pair.items, users, items, other, found.transform)
    stable, raw = (items, items if other is None else other), (pair.items, pair.items if users is None else users)
    dense = score_error(stable, raw)
    # Below 1e-7 the rounding of the maps is visible; a changed value may have no effect.
    assert certified == pytest.approx(dense, rel=2e-3, abs=1e-7)


@law
@given(pairs(full_rank=True, dtypes=("<f8",)), st.floats(1e-9, 1e-2))
def test_the_error_equals_the_size_of_noise_on_all_values(pair: Pair, size: float) -> None:
    """Noise on all rows, as small as float32 rounding, is measured and not lost in cancellation."""
    found = embsync.stabilize(pair.items, pair.users)
    assert found.users is not None
    random = np.random.default_rng(pair.seed)
    items = (found.items * (1.0 + size * random.standard_normal(found.items.shape))).astype(np.float32)
    certified = certify(pair.items, pair.users, items, found.users, found.transform)
    assert certified == pytest.approx(score_error((items, found.users), (pair.items, pair.users)), rel=1e-3)


def test_unchanged_vectors_have_the_error_that_stabilize_reported() -> None:
    """Measuring while writing and measuring afterwards give the same figure."""
    T, W = night(0).both
    found = embsync.stabilize(T, W)
    again = certify(T, W, found.items, found.users, found.transform)
    assert again == pytest.approx(found.preservation.score_error, rel=1e-6)
    assert 1e-9 < again < 1e-7


def test_the_rounding_error_equals_that_of_all_pairs() -> None:
    """Even the 4e-8 of float32 rounding is exact, where subtracting two norms would give nothing."""
    T, W = (side.astype(np.float64) for side in night(1).both)
    found = embsync.stabilize(T, W)
    assert found.users is not None
    dense = score_error((found.items, found.users), (T, W))
    assert found.preservation.score_error == pytest.approx(dense, rel=1e-3)


def test_a_row_with_the_wrong_id_is_detected() -> None:
    """Two swapped rows are measured like any other change of scores."""
    T, W = night(0).both
    found = embsync.stabilize(T, W)
    assert found.users is not None
    swapped = found.items.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    certified = certify(T, W, swapped, found.users, found.transform)
    assert certified == pytest.approx(score_error((swapped, found.users), (T, W)), rel=1e-4)
    assert certified > 1e-2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values_give_an_infinite_error(value: float) -> None:
    """A non-finite value in the written vectors is never certified as exact."""
    T, W = night(0).both
    found = embsync.stabilize(T, W)
    broken = found.items.copy()
    broken[5, 1] = value
    with np.errstate(invalid="ignore"):
        assert certify(T, W, broken, found.users, found.transform) == np.inf


def test_several_blocks_give_the_same_certificate_as_one() -> None:
    """A change in the last of several blocks is measured like any other."""
    random = np.random.default_rng(4)
    T, W = random.standard_normal((9000, 64)).astype(np.float32), random.standard_normal((300, 64)).astype(np.float32)
    found = embsync.stabilize(T, W)
    assert found.users is not None
    changed = found.items.copy()
    changed[-1, -1] += np.float32(1.0)
    dense = score_error((changed, found.users), (T, W))
    assert certify(T, W, changed, found.users, found.transform) == pytest.approx(dense, rel=1e-3)


@law
@given(pairs(full_rank=True), st.floats(1e-8, 0.2))
def test_the_map_error_detects_maps_that_are_not_inverse(pair: Pair, size: float) -> None:
    """The map error is ``size`` if the product of the maps differs from the projection by ``size`` in one direction."""
    maps = embsync.stabilize(pair.items, pair.users).transform
    stretched: Array = maps.items.copy()
    stretched[:, 0] *= 1.0 + size
    assert map_error(Transform(stretched, maps.users, maps.singular_values)) == pytest.approx(size, rel=1e-4)


@law
@given(pairs(full_rank=True, dtypes=("<f8",)), st.sampled_from((1e-18, 1e-12, 1e-6, 1e6, 1e10, 1e18)))
def test_rounding_is_measured_at_every_scale(pair: Pair, scale: float) -> None:
    """Residuals whose squares would underflow or overflow in float32 are as exact as those near 1."""
    T, W = pair.items * scale, pair.users * scale
    found = embsync.stabilize(T, W)
    assert found.users is not None
    dense = score_error(
        (found.items.astype(float) / scale, found.users.astype(float) / scale), (pair.items, pair.users)
    )
    assert found.preservation.score_error == pytest.approx(dense, rel=2e-2)
    assert certify(T, W, found.items, found.users, found.transform) == pytest.approx(dense, rel=2e-2)


@pytest.mark.parametrize("value", [3e38, -3e38, 1e30, np.inf, np.nan], ids=str)
@pytest.mark.parametrize("side", ["items", "users"])
def test_a_damaged_vector_gives_an_infinite_or_large_error(value: float, side: str) -> None:
    """Any damaged value gives one figure that is not small, without a warning."""
    T, W = night(0).both
    found = embsync.stabilize(T, W)
    assert found.users is not None
    written = {"items": found.items.copy(), "users": found.users.copy()}
    written[side][3, 1] = value
    certified = certify(T, W, written["items"], written["users"], found.transform)
    assert certified > 1e20
    assert not np.isnan(certified)


@pytest.mark.parametrize("value", [1e300, -1e160, 3e38, np.inf, np.nan], ids=str)
@pytest.mark.parametrize("side", ["items", "users"])
def test_a_damaged_map_gives_an_infinite_or_large_error(value: float, side: str) -> None:
    """A damaged value of a map has the same effect as one of a vector."""
    T, W = night(0).both
    found = embsync.stabilize(T, W)
    maps = {"items": found.transform.items.copy(), "users": found.transform.side("users").copy()}
    maps[side][0, 0] = value
    certified = certify(
        T, W, found.items, found.users, Transform(**maps, singular_values=found.transform.singular_values)
    )
    assert certified > 1e20
    assert not np.isnan(certified)


@pytest.mark.parametrize("size", [1e-161, 1e-120, 1e120, 1e150])
def test_residuals_are_scaled_so_that_float64_does_not_overflow(size: float) -> None:
    """Squares of the scale neither overflow nor underflow, for rows of any size."""
    gram, transform = np.eye(2) * size * size, np.eye(2)
    scale = residual_scale(gram, transform, 10)
    assert 0.0 < scale**2 < np.inf
    assert 0.0 < 1.0 / scale**2 < np.inf
