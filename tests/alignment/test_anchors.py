"""How anchors are chosen, how each policy updates them, and what happens to absent ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.laws import aligned
from support.nights import Array, Night, night

import embsync
from embsync.alignment.anchors import AnchorSide, Policy
from embsync.arrays.anchors import Anchors
from embsync.arrays.stabilization import Stabilized
from embsync.errors import UsageError


def _run(nights: list[Night], policy: Policy, **options: float) -> list[Stabilized]:
    found: list[Stabilized] = []
    anchors: Anchors | None = None
    for made in nights:
        result = embsync.stabilize(
            made.items,
            made.users,
            item_ids=made.item_ids,
            user_ids=made.user_ids,
            anchors=anchors,
            policy=policy,
            check=False,
            **options,
        )
        found.append(result)
        anchors = result.anchors
    return found


def _by_id(ids: Array, vectors: Array) -> dict[int, Array]:
    return dict(zip(ids.tolist(), np.asarray(vectors, np.float64), strict=True))


def _model(nights: list[Night], found: list[Stabilized], share: float) -> dict[int, Array]:
    """Return the items' anchors as documented: a live id moves by ``share``, a new one joins, absent ones stay."""
    model: dict[int, Array] = {}
    for made, result in zip(nights, found, strict=True):
        for id_, vector in _by_id(made.item_ids, result.items).items():
            model[id_] = model[id_] + share * (vector - model[id_]) if id_ in model else vector
    return model


@pytest.mark.parametrize(
    ("policy", "share"), [("two_time_scales", 0.001), ("moving_average", 0.3), ("previous", 1.0), ("first", 0.0)]
)
def test_anchors_follow_their_policy(policy: Policy, share: float) -> None:
    """The newest vector has the policy's weight; new ids join with their vectors, absent ids keep theirs."""
    nights = [night(number, churn=0.1) for number in range(4)]
    found = _run(nights, policy)
    expected = _model(nights, found, share)
    anchors = found[-1].anchors.items
    assert anchors.ids.tolist() == sorted(expected)
    assert not anchors.vectors.flags.writeable
    for id_, vector in _by_id(anchors.ids, anchors.vectors).items():
        np.testing.assert_allclose(vector, expected[id_], atol=1e-5)


def _blended(side: AnchorSide | None, ids: Array, share: float) -> tuple[AnchorSide, Array]:
    """Return the reference rows of two time scales and each snapshot row's weight, by the documented formula."""
    assert side is not None
    assert side.recent is not None
    assert side.ages is not None
    ages = 1.0 + side.ages
    ages /= ages[np.isin(side.ids, ids)].mean()
    weight = share + (1 - share) * ages
    rows = (share * side.recent + ((1 - share) * ages)[:, None] * side.vectors) / weight[:, None]
    weight /= np.sqrt(np.linalg.norm(rows, axis=1))
    places = np.searchsorted(side.ids, ids) % len(side.ids)
    known = side.ids[places] == ids
    return AnchorSide(side.ids, rows.astype(np.float32), side.rate), np.where(known, weight[places], 1.0)


def test_two_time_scales_fit_to_a_blend_of_last_rows_and_slow_average() -> None:
    """Slow rows are weighted by age, all rows by norm; recent rows are those of the night the id was last present."""
    nights = [night(number, churn=0.1) for number in range(4)]
    found = _run(nights, "two_time_scales")
    last: dict[int, Array] = {}
    for made, result in zip(nights, found, strict=True):
        last |= _by_id(made.item_ids, result.items)
        recent = result.anchors.items.recent
        assert recent is not None
        assert not recent.flags.writeable
        assert _by_id(result.anchors.items.ids, recent).keys() == last.keys()
        for id_, vector in _by_id(result.anchors.items.ids, recent).items():
            np.testing.assert_allclose(vector, last[id_], atol=1e-6)
    made, before = nights[3], found[2].anchors
    assert made.user_ids is not None
    ids = {"item_ids": made.item_ids, "user_ids": made.user_ids}
    for share in (0.0, 0.4, 0.8):
        items, item_weights = _blended(before.items, made.item_ids, share)
        users, user_weights = _blended(before.users, made.user_ids, share)
        blended = embsync.stabilize(
            *made.both,
            **ids,
            anchors=Anchors(items, users),
            policy="previous",
            item_weights=item_weights,
            user_weights=user_weights,
        )
        two = embsync.stabilize(*made.both, **ids, anchors=before, parent_share=share)
        np.testing.assert_allclose(two.items, blended.items, atol=1e-5)


@pytest.mark.parametrize("policy", ["two_time_scales", "moving_average", "previous", "first"])
def test_ages_count_the_snapshots_that_updated_an_anchor(policy: Policy) -> None:
    """The age of a new id is 0, that of an absent id does not change, and all policies count, so switching works."""
    nights = [night(number, churn=0.1) for number in range(4)]
    away = nights[0].item_ids[nights[0].item_ids > 7 * 200 + 1000][:20]
    nights[2] = nights[2].without_items(away)
    times: dict[int, int] = {}
    for made, result in zip(nights, _run(nights, policy), strict=True):
        for id_ in made.item_ids.tolist():
            times[id_] = times.get(id_, -1) + 1
        items = result.anchors.items
        assert items.ages is not None
        assert items.ages.dtype == np.int32
        assert not items.ages.flags.writeable
        assert dict(zip(items.ids.tolist(), items.ages.tolist(), strict=True)) == times
    assert set(times.values()) == {0, 1, 2, 3}
    assert {times[id_] for id_ in away.tolist()} == {2}


def test_equal_vectors_in_other_axes_do_not_move_at_any_age() -> None:
    """If only the axes and the ids change, every id keeps its stable vector."""
    nights = [night(number, noise=0.0, churn=0.1) for number in range(5)]
    shown: dict[int, Array] = {}
    for made, result in zip(nights, _run(nights, "two_time_scales", standardize=False), strict=True):
        for id_, vector in _by_id(made.item_ids, result.items).items():
            np.testing.assert_allclose(vector, shown.setdefault(id_, vector), atol=1e-5)
    assert len(shown) > len(nights[0].items)


def test_two_time_scales_remember_more_than_the_version_before() -> None:
    """After twenty nights, they are nearer to the start than by ``previous``, to the last night than by ``first``."""
    nights = [night(number, items=400, users=300, noise=0.8, churn=0.0) for number in range(20)]
    figures = {}
    for policy in ("two_time_scales", "previous", "first"):
        found = _run(nights, policy)
        rows = [result.items[np.argsort(made.item_ids)] for made, result in zip(nights, found, strict=True)]
        steps = [_mean_cosine(one, other) for one, other in zip(rows[1:], rows[:-1], strict=True)]
        figures[policy] = (float(np.mean(steps)), _mean_cosine(rows[0], rows[-1]))
    two = figures["two_time_scales"]
    assert two[0] > figures["previous"][0] - 0.015
    assert two[1] > figures["first"][1] - 0.025
    assert two[1] >= figures["previous"][1]


def _mean_cosine(one: Array, other: Array) -> float:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / norms).mean())


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"parent_share": 1.5}, {"slow_weight": 0.0}, {"policy": "last"}])
def test_an_unknown_anchor_policy_is_refused(options: dict[str, Any]) -> None:
    """The message has the value found and the accepted ones."""
    with pytest.raises(
        UsageError, match=r"invalid anchor policy or weight; found .*; expected one of two_time_scales,"
    ):
        embsync.stabilize(*night(0).both, **options)


def test_the_weight_of_the_newest_vectors_is_configurable() -> None:
    """With a weight of 0.9 the result is nearly that of ``previous``."""
    nights = [night(number, churn=0.1) for number in range(3)]
    found = _run(nights, "moving_average", weight=0.9)
    expected = _model(nights, found, 0.9)
    for id_, vector in _by_id(found[-1].anchors.items.ids, found[-1].anchors.items.vectors).items():
        np.testing.assert_allclose(vector, expected[id_], atol=1e-5)


def test_the_previous_policy_copies_vectors_bit_for_bit() -> None:
    """Under ``previous`` the anchors of live ids are their published vectors, bit for bit."""
    nights = [night(number, churn=0.0).reordered(number) for number in range(2)]
    found = _run(nights, "previous")[-1]
    order = np.argsort(nights[-1].item_ids)
    assert found.anchors.items.vectors.tobytes() == found.items[order].tobytes()


def test_a_limited_number_of_anchors_keeps_the_same_ids() -> None:
    """With churn, most of the anchors chosen by the stable hash are the same ids, and the sampling rate is recorded."""
    nights = [night(number, churn=0.05) for number in range(3)]
    found = _run(nights, "moving_average", anchor_rows=60)
    ids = [set(result.anchors.items.ids.tolist()) for result in found]
    assert [len(chosen) for chosen in ids] == [60, 60, 60]
    assert len(ids[0] & ids[1]) > 50
    assert found[0].anchors.items.rate == pytest.approx(60 / 240)
    assert found[2].fit_items is not None
    assert found[2].fit_items.cosine is not None
    assert found[2].fit_items.cosine > 0.9


def test_a_sampled_side_has_the_weight_of_a_complete_one() -> None:
    """The cross-Gram matrix of sampled anchors is scaled up, so few anchors have the weight of all rows."""
    random = np.random.default_rng(6)
    T, W = random.standard_normal((2000, 6)), random.standard_normal((2000, 6))
    first = embsync.stabilize(T, W, anchor_rows=200)
    mine = first.anchors
    assert mine.users is not None
    # The users' anchors are mirrored, and represent more rows than the items', or fewer.
    for rate, sign in ((0.05, -1.0), (0.2, 1.0)):
        lying = Anchors(
            AnchorSide(mine.items.ids, mine.items.vectors, 0.1), AnchorSide(mine.users.ids, -mine.users.vectors, rate)
        )
        found = aligned(T, W, anchors=lying)
        np.testing.assert_allclose(found.items, sign * first.items, atol=1e-3)


def test_rows_can_be_weighted_in_the_fit() -> None:
    """If the half of the ids that is wrong has weight zero, the fit is that of the other half."""
    made = night(0, churn=0.0)
    first = embsync.stabilize(*made.both)
    ids = np.arange(len(made.items))
    wrong = ids.copy()
    wrong[:120] = np.roll(ids[:120], 7)
    weights = np.where(ids < 120, 0.0, 1.0)
    honest = aligned(*made.both, item_ids=ids, anchors=first.anchors)
    weighted = aligned(*made.both, item_ids=wrong, item_weights=weights, anchors=first.anchors)
    plain = aligned(*made.both, item_ids=wrong, anchors=first.anchors)
    np.testing.assert_allclose(weighted.items, honest.items, atol=1e-4)
    assert weighted.fit_items is not None
    assert weighted.fit_items.share_below_half == pytest.approx(0.5, abs=0.1)
    assert np.abs(plain.items - honest.items).max() > np.abs(weighted.items - honest.items).max()
