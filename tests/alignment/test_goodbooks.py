"""On real retrainings the figures are those of an independent implementation of the published method."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from support.goodbooks import DAYS, needs_goodbooks, read_day
from support.nights import Array, Night

import embsync
from embsync.arrays.stabilization import Stabilized
from embsync.similarity import RunningTopK, overlap

pytestmark = needs_goodbooks

#: Rolling table of the README: item and user cosine, displacement of both, after; overlap of the model, stale user.
ROLLING = {
    2: (0.8631, 0.8831, 0.4827, 0.4810, 0.7249, 0.7151),
    3: (0.8590, 0.8896, 0.4891, 0.4655, 0.7224, 0.7173),
    4: (0.8606, 0.8878, 0.4894, 0.4694, 0.7220, 0.7057),
    5: (0.8568, 0.8874, 0.4939, 0.4714, 0.7215, 0.7164),
}


@cache
def _rolling(*, standardize: bool = True) -> list[tuple[Night, Stabilized]]:
    found: list[tuple[Night, Stabilized]] = []
    anchors = None
    for number in DAYS:
        made = read_day(number)
        result = embsync.stabilize(
            made.items,
            made.users,
            item_ids=made.item_ids,
            user_ids=made.user_ids,
            anchors=anchors,
            policy="previous",
            standardize=standardize,
        )
        found.append((made, result))
        # The README uses only ids of both days: it keeps no anchors of absent ids.
        present = [np.isin(side.ids, ids) for side, ids in ((result.anchors.items, made.item_ids),)]
        assert present[0].sum() == len(made.item_ids)
        anchors = result.anchors
    return found


def _movement(before_ids: Array, before: Array, ids: Array, after: Array) -> tuple[float, float]:
    _, old, new = np.intersect1d(before_ids, ids, return_indices=True)
    a, b = after[new].astype(np.float64), before[old].astype(np.float64)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(cosines.mean()), float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("number", sorted(ROLLING))
def test_rolling_alignment_agrees_with_the_reference(number: int) -> None:
    """Cosines and displacements of both sides are within 0.002 of the README's table."""
    (one, before), (two, after) = _rolling()[number - 2 : number]
    assert one.user_ids is not None
    assert two.user_ids is not None
    items = _movement(one.item_ids, before.items, two.item_ids, after.items)
    users = _movement(one.user_ids, before.users, two.user_ids, after.users)
    expected = ROLLING[number]
    assert (items[0], users[0], items[1], users[1]) == pytest.approx(expected[:4], abs=0.002)


@pytest.mark.parametrize("number", sorted(ROLLING))
def test_overlaps_agree_with_the_reference(number: int) -> None:
    """The top 10 overlap of the lowest 1,000 common users is within 0.015, for the model and for stale users."""
    (one, before), (two, after) = _rolling()[number - 2 : number]
    _, old, new = np.intersect1d(one.user_ids, two.user_ids, return_indices=True)

    def top(users: Array, result: Stabilized, night: Night) -> Array:
        best = RunningTopK(users, 10)
        best.observe(night.item_ids, result.items)
        return best.result().rows

    today = top(after.users[new[:1000]], after, two)
    yesterday = top(before.users[old[:1000]], before, one)
    stale = top(before.users[old[:1000]], after, two)
    assert (overlap(today, yesterday), overlap(today, stale)) == pytest.approx(ROLLING[number][4:], abs=0.015)


def test_every_day_is_certified() -> None:
    """The score error is below 1e-6, every top 10 is kept, the maps are exact, and the sides agree."""
    for made, result in _rolling():
        certificate = result.preservation
        assert certificate.score_error < 1e-6
        assert certificate.top_k_agreement == 1.0
        assert certificate.map_error < 1e-11
        assert certificate.sampled_users == 1000
        raw = result.items.astype(np.float64) @ result.transform.inverse("items")
        assert np.linalg.norm(raw - made.items) < 1e-5 * np.linalg.norm(made.items)
    first, *others = (result.rotation_disagreement for _, result in _rolling())
    assert first is None
    assert all(one is not None and one < 0.45 for one in others)
    assert others


def test_the_out_of_sample_cosine_is_close_to_the_drift() -> None:
    """On thousands of anchors the out-of-sample cosine is within 0.01 of the in-sample cosine."""
    found = _rolling()[1][1]
    assert found.fit_items is not None
    assert found.fit_users is not None
    assert found.fit_items.cosine == pytest.approx(ROLLING[2][0], abs=0.01)
    assert found.fit_users.cosine == pytest.approx(ROLLING[2][1], abs=0.01)
    # Rows paired wrongly after the fit stay below the 0.09 that a fit to wrong pairs gives.
    assert found.fit_items.cosine_mismatched is not None
    assert abs(found.fit_items.cosine_mismatched) < 0.09


def test_without_standardizing_it_agrees_with_the_other_reference() -> None:
    """The figures are those of the README's line without the SVD step."""
    (one, before), (two, after) = _rolling(standardize=False)[:2]
    items = _movement(one.item_ids, before.items, two.item_ids, after.items)
    users = _movement(one.user_ids, before.users, two.user_ids, after.users)
    assert (items[0], users[0]) == pytest.approx((0.8589, 0.9132), abs=0.003)
