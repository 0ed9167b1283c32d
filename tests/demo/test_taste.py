"""The taste model: likes that follow tastes, of users who come and go."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from embsync.demo import taste, titles
from embsync.demo.taste import World


def played(world: World, count: int, seed: int = 1) -> tuple[taste.Catalogue, list[taste.Night]]:
    """Return all nights; likes are copied from that night's state."""
    random = np.random.default_rng(seed)
    known = taste.catalogue(world, count, random)
    return known, list(taste.nights(world, known, count, random))


def test_likes_follow_tastes_and_popularity(small: World) -> None:
    """Liked pairs have a higher affinity than others, and popular items more likes."""
    known, (night,) = played(small, 1)
    affinity = known.user_tastes[night.users] @ known.item_tastes[night.items].T
    liked = night.likes.toarray() > 0
    assert affinity[liked].mean() > affinity[~liked].mean() + 0.2
    likes = np.asarray(night.likes.sum(axis=0))
    assert np.corrcoef(known.log_popularity[night.items], np.log(likes))[0, 1] > 0.4
    assert np.sort(likes)[-len(likes) // 10 :].sum() > 0.2 * likes.sum()


def test_a_night_has_no_rows_of_absent_users_and_no_rare_items(small: World) -> None:
    """An absent user has no row, and every trained item has enough likes."""
    _, nights = played(small, 4)
    for before, night in itertools.pairwise(nights):
        assert len(night.away) > 0
        assert not np.isin(night.away, night.users).any()
        assert len(np.setdiff1d(night.users, before.users)) > 0
        assert len(np.setdiff1d(before.users, np.concatenate([night.users, night.away]))) > 0
        assert np.asarray(night.likes.sum(axis=0)).min() >= small.fewest_likes


def test_rows_are_in_random_order(small: World) -> None:
    """Rows have no order, as training jobs guarantee none."""
    _, (night,) = played(small, 1)
    assert (np.diff(night.items) < 0).any()
    assert (np.diff(night.users) < 0).any()


def test_the_requested_number_of_new_likes_is_drawn(small: World) -> None:
    """Nothing is liked twice, and only available items are liked."""
    known, (night,) = played(small, 1)
    users, offered = night.users[:50], np.sort(night.items)[:300]
    before = night.liked.copy()
    wanted = np.arange(50) % 7
    taste.like(night.liked, known, small.focus, users, offered, wanted, np.random.default_rng(0))
    added = night.liked & ~before
    np.testing.assert_array_equal(added[users].sum(axis=1), wanted)
    assert added[:, np.setdiff1d(np.arange(added.shape[1]), offered)].sum() == 0


def test_without_focus_likes_follow_popularity_alone(small: World) -> None:
    """With focus 0, likes do not depend on affinity."""
    known, (night,) = played(replace(small, focus=0.0), 1)
    affinity = known.user_tastes[night.users] @ known.item_tastes[night.items].T
    liked = night.likes.toarray() > 0
    assert abs(affinity[liked].mean() - affinity[~liked].mean()) < 0.03


def test_every_item_has_a_distinct_title() -> None:
    """Titles are distinct even if there are more items than pairs of words."""
    assert len({titles.title(number) for number in range(9000)}) == 9000
    assert titles.title(5000).endswith(" 2")
