"""How a store's anchors move on: which policy is in force, what is stored, and what a switch starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.nights import Array, configured, night
from support.quick import quick_directory
from support.stores import sync

import embsync
from embsync.manifest import Manifest


@pytest.fixture
def root() -> Iterator[Path]:
    """A place for a store."""
    with quick_directory() as directory:
        yield directory / "S"


def _publish(root: Path, number: int, **options: object) -> Manifest:
    return sync(root, night(number), f"n{number}", configured(**options))


def _anchors(root: Path) -> dict[int, Array]:
    with embsync.open(root) as reader:
        ids, vectors = reader.current.reference("anchors", "items")
        return dict(zip(ids.tolist(), np.array(vectors), strict=True))


def _rows(root: Path) -> dict[int, Array]:
    with embsync.open(root) as reader:
        items = reader.current.items
        return dict(zip(items.ids.tolist(), np.array(items.vectors), strict=True))


def test_a_new_store_has_two_time_scales(root: Path) -> None:
    """Stored is the slow average alone; the manifest says how it moves."""
    first = _publish(root, 0).alignment
    assert (first.policy, first.weight, first.parent_share) == ("two_time_scales", 0.001, 0.45)
    slow = _anchors(root)
    _publish(root, 1)
    rows = _rows(root)
    for id_, vector in _anchors(root).items():
        live = id_ in set(night(1).item_ids.tolist())
        expected = slow[id_] + 0.001 * (rows[id_] - slow[id_]) if id_ in slow and live else slow.get(id_, rows[id_])
        np.testing.assert_allclose(vector, expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["moving_average", "previous", "first"])
def test_a_store_keeps_the_policy_it_was_made_with(root: Path, policy: str) -> None:
    """Without one in the configuration, the next version moves its anchors as the last did."""
    _publish(root, 0, space__anchors__policy=policy)
    found = _publish(root, 1).alignment
    assert (found.policy, found.parent_share) == (policy, None)


def test_the_pipeline_is_the_arrays_api(root: Path) -> None:
    """The same nights by ``embsync.stabilize`` give the same vectors, absent and new ids among them."""
    anchors = None
    for number in range(4):
        _publish(root, number)
        made = night(number)
        found = embsync.stabilize(
            made.items, made.users, item_ids=made.item_ids, user_ids=made.user_ids, anchors=anchors
        )
        anchors = found.anchors
    rows = _rows(root)
    for id_, vector in zip(made.item_ids.tolist(), found.items, strict=True):
        np.testing.assert_allclose(rows[id_], vector, atol=1e-5)


def test_a_switch_starts_from_the_anchors_that_are_stored(root: Path) -> None:
    """The slow average goes on from the moving average, and the moving average from the slow one."""
    _publish(root, 0, space__anchors__policy="moving_average")
    _publish(root, 1)
    for policy, weight in (("two_time_scales", 0.001), ("moving_average", 0.3)):
        before = _anchors(root)
        _publish(root, 2, space__anchors__policy=policy)
        rows, live = _rows(root), set(night(2).item_ids.tolist())
        for id_, vector in _anchors(root).items():
            if id_ in before and id_ in live:
                np.testing.assert_allclose(vector, before[id_] + weight * (rows[id_] - before[id_]), atol=1e-6)
