"""Versions of several spaces, versions deleted or damaged, and allowed items that a graph misses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.nights import configured, night
from support.quick import quick_directory
from support.stores import sync
from support.waiting import eventually

import embsync
from embsync.errors import NotFoundError, UsageError
from embsync.reader import Follower, follower, open_version, search
from embsync.store import Store, layout

SIZES = {"items": 100, "users": 80, "width": 6}


@pytest.fixture
def root() -> Iterator[Path]:
    """A store with one version."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, **SIZES), "n0")
        yield directory / "S"


def test_raw_queries_of_another_space_are_refused(root: Path) -> None:
    """With that version's maps they would be vectors of its space, whose scores mean nothing in this one."""
    sync(root, night(1, **SIZES, seed=99), "other model", new_space=True)
    raw = night(0, **SIZES).both[1][:3]
    with embsync.open(root) as reader, reader.version(1) as old:
        for asked, source in ((reader.current, old), (old, reader.current)):
            with pytest.raises(UsageError, match="raw vectors of another space") as refused:
                asked.search(raw, space="snapshot", snapshot=source)
            assert (refused.value.found, refused.value.expected) == (source.space_id, asked.space_id)
        assert old.search(raw, space="snapshot", snapshot=old)[0].shape == (3, 10)


@pytest.mark.parametrize("times", [1, 5])
def test_a_version_deleted_before_it_is_pinned_is_not_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Whenever a newer version was published and the older one pruned, the newest is opened."""
    real = layout.current_number
    overtaken: list[int] = []

    def overtaking(place: Path) -> int | None:
        number = real(place)
        if len(overtaken) < times and number is not None:
            overtaken.append(number)
            with monkeypatch.context() as patch:
                patch.setattr(layout, "current_number", real)
                sync(root, night(number, **SIZES), f"n{number}", configured(store__keep_versions=1))
        return number

    monkeypatch.setattr(layout, "current_number", overtaking)
    with open_version(root) as version:
        assert version.number == times + 1
    assert overtaken == list(range(1, times + 1))
    assert Store(root).numbers() == [times + 1]
    with pytest.raises(NotFoundError, match="no version 1"):
        open_version(root, 1)


@pytest.mark.parametrize(("share", "held"), [(0.02, 2**20), (0.02, 4), (0.3, 2**20)])
def test_allowed_items_that_a_graph_misses_are_added(monkeypatch: pytest.MonkeyPatch, share: float, held: int) -> None:
    """With the least effort a graph search misses items; a scan adds them, and the result is exact."""
    monkeypatch.setattr(search, "_SCANNED", 10)
    monkeypatch.setattr(search, "_HELD", held)  # a few at a time, so that results have several parts
    with quick_directory() as directory:
        made = night(0, items=3000, users=60, width=6)
        sync(directory / "S", made, "n0", configured(index__factory="HNSW4", index__target_recall=0.1))
        with embsync.open(directory / "S") as reader:
            version = reader.current
            allowed = np.random.default_rng(1).choice(made.item_ids, int(share * 3000), replace=False)
            queries = version.users.lookup(made.user_ids)
            ids, scores = version.search(queries, 20, allowed=allowed, parameters={"efSearch": 1})
            bare, _ = version.searcher.search(queries, 20, {"efSearch": 1}, np.isin(version.items.ids, allowed))
            short = (bare < 0).any(axis=1)
            assert short.any()
            assert np.isin(ids, allowed).all()
            assert np.isfinite(scores).all()
            exact = queries @ version.items.lookup(np.sort(allowed)).T
            best = np.sort(allowed)[np.argsort(-exact, axis=1)[:, :20]]
            np.testing.assert_array_equal(np.sort(ids[short]), np.sort(best[short]))


def _wait_looks(follower: Follower, more: int = 5) -> None:
    for _ in range(more):
        before = follower._checked
        eventually(lambda before=before: follower._checked != before)


def test_a_lasting_error_is_reported_once(root: Path) -> None:
    """A missing store is logged once and not at each check; if it disappears again, it is logged again."""
    errors: list[Exception] = []
    aside = root.with_name("aside")
    with embsync.open(root) as reader:
        follower = reader.follow(on_error=errors.append, interval=0.005)
        for times in (1, 2):
            root.rename(aside)
            eventually(lambda times=times: len(errors) == times)
            _wait_looks(follower)
            assert len(errors) == times
            assert not follower.health.healthy
            aside.rename(root)
            eventually(lambda: follower.health.healthy)
        assert reader.current.number == 1


def test_k_is_limited_where_allowed_items_are_searched_in_the_index(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit also applies if more items are allowed than would be scanned."""
    monkeypatch.setattr(search, "_SCANNED", 5)
    with embsync.open(root) as reader:
        live = reader.current.items.names(np.flatnonzero(reader.current.items.live))
        ids, scores = reader.current.search(np.ones((2, 6), np.float32), 1000, allowed=live[:50])
        assert ids.shape == scores.shape == (2, 50)
        assert set(ids[0].tolist()) == set(live[:50].tolist())


def test_a_refused_version_is_hashed_again_after_a_while(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not hashed at every check, but after the pause, when a file repaired in place is found intact."""
    hashed, verify = [0], follower.verify
    looks, current_number = [0], layout.current_number

    def looked(path: Path) -> int | None:
        looks[0] += 1
        return current_number(path)

    def counted(*arguments: object) -> None:
        hashed[0] += 1
        verify(*arguments)

    monkeypatch.setattr(layout, "current_number", looked)
    monkeypatch.setattr(follower, "_TRY_AGAIN", 3600.0)
    with embsync.open(root) as reader:
        sync(root, night(1, **SIZES), "n1", configured(index__factory="HNSW16"))
        file = root / "versions/000002/items/vectors.npy"
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        errors: list[Exception] = []
        followed = follower.Follower(
            root,
            lambda version: setattr(reader, "current", version),
            serving=reader.current,
            on_error=errors.append,
            interval=0.01,
            verify=counted,
        )
        followed.start()
        eventually(lambda: errors)
        eventually(lambda end=looks[0] + 20: looks[0] > end)
        assert hashed == [1]
        followed.stop()
        monkeypatch.setattr(follower, "_TRY_AGAIN", 0.05)
        followed = follower.Follower(
            root,
            lambda version: setattr(reader, "current", version),
            serving=reader.current,
            on_error=errors.append,
            interval=0.01,
            verify=counted,
        )
        followed.start()
        eventually(lambda: hashed[0] >= 4)
        file.write_bytes(whole)
        eventually(lambda: reader.current.number == 2)
        followed.stop()
