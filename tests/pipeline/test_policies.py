"""The policies of a store's anchors: which one applies, what is stored, and how a change of policy begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from support.nights import Array, configured, night, write_npy
from support.quick import quick_directory
from support.stores import sync

import embsync
from embsync.errors import StoreDamaged
from embsync.manifest import Manifest
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.relabel import relabel
from embsync.pipeline.verify import verify
from embsync.pipeline.widen import widen
from embsync.store import Store


@pytest.fixture
def root() -> Iterator[Path]:
    """A path for a store."""
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
    """Only the slow average is stored; the manifest records the policy."""
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
    """Without a configured policy, the next version uses that of the last."""
    _publish(root, 0, space__anchors__policy=policy)
    found = _publish(root, 1).alignment
    assert (found.policy, found.parent_share) == (policy, None)


def test_the_pipeline_equals_the_array_api(root: Path) -> None:
    """``embsync.stabilize`` gives the same vectors for the same nights, including absent and new ids."""
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


def _ages(root: Path, side: Literal["items", "users"] = "items") -> dict[int, int]:
    with embsync.open(root) as reader:
        ids, _ = reader.current.reference("anchors", side)
        ages = reader.current.anchor_ages(side)
        assert ages is not None
        return dict(zip(ids.tolist(), ages.tolist(), strict=True))


def test_ages_of_anchors_survive_every_kind_of_version(root: Path) -> None:
    """Ages grow by one each night, and not by ``widen``, ``relabel`` or a rollback; a new space begins at 0."""
    for number in range(3):
        manifest = _publish(root, number)
    live, known = (set(night(number).item_ids.tolist()) for number in (2, 1))
    before = _ages(root)
    assert set(before.values()) == {0, 1, 2}
    assert all(before[id_] == 0 for id_ in live - known)
    assert {f"anchors/{side}_ages.npy" for side in ("item", "user")} <= {entry.path for entry in manifest.files}
    store, table = Store(root), root.parent / "labels.csv"
    table.write_text(f"item_id,stock\n{min(live)},true\n")
    relabel(store, table, configured())
    assert _ages(root) == before
    assert store.path(4).joinpath("anchors/item_ages.npy").samefile(store.path(3) / "anchors/item_ages.npy")
    widen(store, 10, configured())
    assert _ages(root) == before
    _publish(root, 3)
    live = set(night(3).item_ids.tolist())
    assert _ages(root) == {**before, **dict.fromkeys(live, 0), **{id_: before[id_] + 1 for id_ in live & set(before)}}
    store.rollback(3)
    assert _ages(root) == before
    path = write_npy(root.parent / "other", night(4))
    publish_snapshot(store, Request(path, new_space=True), configured())
    assert set(_ages(root).values()) | set(_ages(root, "users").values()) == {0}


def test_a_version_of_an_earlier_release_has_no_ages(root: Path) -> None:
    """Such a version is valid; its anchors count as equally old, and are one version old on the next night."""
    _publish(root, 0)
    _publish(root, 1)
    folder = root / "versions/000002"
    record = json.loads((folder / "manifest.json").read_bytes())
    record["files"] = [entry for entry in record["files"] if not entry["path"].endswith("_ages.npy")]
    for path in ("anchors/item_ages.npy", "anchors/user_ages.npy", "manifest.sha256"):
        (folder / path).unlink()
    (folder / "manifest.json").write_text(json.dumps(record))
    with embsync.open(root) as reader:
        assert reader.current.anchor_ages("items") is None
        assert verify(Store(root), reader.current, configured()).sound
    known = set(_anchors(root))
    _publish(root, 2)
    live = set(night(2).item_ids.tolist())
    assert _ages(root) == {**dict.fromkeys(known | live, 0), **dict.fromkeys(known & live, 1)}


def test_negative_ages_are_damage(root: Path) -> None:
    """The error names an age that no release writes."""
    _publish(root, 0)
    path = root / "versions/000001/anchors/item_ages.npy"
    ages = np.load(path)
    np.save(path, np.where(np.arange(len(ages)) == 3, np.int32(-2), ages))
    with embsync.open(root) as reader, pytest.raises(StoreDamaged, match="found an age of -2; expected at least 0"):
        reader.current.anchor_ages("items")


def test_a_change_of_policy_starts_from_the_stored_anchors(root: Path) -> None:
    """The slow average continues from the moving average, and the other way round."""
    _publish(root, 0, space__anchors__policy="moving_average")
    _publish(root, 1)
    for policy, weight in (("two_time_scales", 0.001), ("moving_average", 0.3)):
        before = _anchors(root)
        _publish(root, 2, space__anchors__policy=policy)
        rows, live = _rows(root), set(night(2).item_ids.tolist())
        for id_, vector in _anchors(root).items():
            if id_ in before and id_ in live:
                np.testing.assert_allclose(vector, before[id_] + weight * (rows[id_] - before[id_]), atol=1e-6)
