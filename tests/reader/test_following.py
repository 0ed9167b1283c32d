"""Following a store: a version is verified before the switch; failures are reported, and following continues."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.nights import configured, night
from support.quick import quick_directory
from support.stores import sync
from support.waiting import PATIENCE, eventually, next_tick

import embsync
from embsync.errors import StoreError
from embsync.reader import Follower, ForeignSpace, Version, open_version
from embsync.reader.verification import verify
from embsync.store import Store

SIZES = {"items": 100, "users": 80, "width": 6}


@pytest.fixture
def root() -> Iterator[Path]:
    """A store with one version."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, **SIZES), "n0")
        yield directory / "S"


def wait_looks(follower: Follower, more: int = 3) -> None:
    """Wait until a follower has checked its store ``more`` times."""
    for _ in range(more):
        before = follower._checked
        eventually(lambda before=before: follower._checked != before)


def open_descriptors() -> int:
    """Return the number of this process's open descriptors."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def flip_a_bit(root: Path, number: int) -> None:
    """Damage a version without changing a file size."""
    file = root / f"versions/{number:06d}/items/vectors.npy"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_follower_switches_and_calls_back(root: Path) -> None:
    """The callback gets each new version when it is current, also after a rollback; the old one remains usable."""
    seen: list[tuple[int, int]] = []
    with embsync.open(root) as reader:
        first = reader.current
        follower = reader.follow(lambda version: seen.append((version.number, reader.current.number)), interval=0.01)
        assert follower.health.healthy
        sync(root, night(1, **SIZES), "n1", configured(store__keep_versions=1))
        eventually(lambda: seen == [(2, 2)])
        assert first.items.lookup([int(first.items.ids[0])]).shape == (1, 6)
        Store(root).rollback(1)
        eventually(lambda: seen == [(2, 2), (1, 1)])
        assert reader.refresh() is False
        health = follower.health
        assert (health.alive, health.serving, health.newest, health.error) == (True, 1, 1, None)
    assert not follower.health.alive


def test_a_damaged_version_is_refused_by_its_hash_and_reported(root: Path) -> None:
    """With one flipped bit and all sizes right, the old version stays; after the repair, the new one is used."""
    errors: list[Exception] = []
    with embsync.open(root) as reader:
        sync(root, night(1, **SIZES), "n1")
        flip_a_bit(root, 2)
        follower = reader.follow(on_error=errors.append, interval=0.01)
        eventually(lambda: errors)
        wait_looks(follower)
        assert reader.current.number == 1
        assert len(errors) == 1
        assert isinstance(follower.error, StoreError)
        assert "items/vectors.npy: damaged version" in str(follower.error)
        health = follower.health
        assert health.alive
        assert not health.healthy
        assert (health.serving, health.newest) == (1, 2)
        Store(root).rollback(1)  # a damaged version is not a parent
        sync(root, night(2, **SIZES), "n2", configured(store__keep_versions=9))
        eventually(lambda: reader.current.number == 3)
        assert follower.health.healthy


def test_a_rollback_to_the_served_version_clears_the_error(root: Path) -> None:
    """After a rollback away from a damaged version there is no error."""
    with embsync.open(root) as reader:
        sync(root, night(1, **SIZES), "n1")
        flip_a_bit(root, 2)
        follower = reader.follow(on_error=lambda _: None, interval=0.01)
        eventually(lambda: follower.error)
        Store(root).rollback(1)
        eventually(lambda: follower.health.healthy)


def test_an_exception_of_the_callback_does_not_end_the_follower(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The switch is complete, the error is kept and logged, and the next version is followed."""

    def refuse(version: Version) -> None:
        if version.number == 2:
            raise RuntimeError("no")

    with embsync.open(root) as reader, caplog.at_level(logging.ERROR, "embsync.reader"):
        follower = reader.follow(refuse, interval=0.01)
        sync(root, night(1, **SIZES), "n1")
        eventually(lambda: follower.error)
        assert str(follower.error) == "no"
        wait_looks(follower)
        assert follower.error is not None
        assert reader.current.number == 2
        assert [record.getMessage() for record in caplog.records] == ["still serving the previous version: no"]
        sync(root, night(2, **SIZES), "n2")
        eventually(lambda: reader.current.number == 3 and follower.health.healthy)


def test_a_store_that_disappears_for_a_while_is_found_again(root: Path) -> None:
    """There is an error only while the store is missing, and mapped data remain readable."""
    with embsync.open(root) as reader:
        follower = reader.follow(on_error=lambda _: None, interval=0.01)
        reader.current.open_files()
        away = root.with_name("away")
        root.rename(away)
        eventually(lambda: follower.error)
        assert np.isfinite(reader.current.search(reader.current.users.vectors[:2])[1]).all()
        away.rename(root)
        eventually(lambda: follower.health.healthy)
        (root / "current").rename(root / "former")
        eventually(lambda: "no version is current" in str(follower.error))
        (root / "former").rename(root / "current")
        eventually(lambda: follower.health.healthy)


@pytest.mark.parametrize("follows", [True, False])
def test_a_recreated_store_counts_as_a_new_one(root: Path, follows: bool) -> None:
    """Version 1 of the new store is switched to; the old version never uses the new store's files."""
    with embsync.open(root) as reader:
        old = reader.current
        assert old.users is not None
        if follows:
            reader.follow(on_error=lambda _: None, interval=0.01)
        shutil.rmtree(root)
        sync(root, night(1, **SIZES), "n1")
        if follows:
            eventually(lambda: reader.current is not old)
        else:
            assert reader.refresh() is True
        assert reader.refresh() is False
        assert (reader.current.number, reader.current.space_id == old.space_id) == (1, False)
        assert np.isfinite(old.users.vectors).all()
        for late in (lambda: old.items, lambda: old.transform, lambda: old.searcher):
            with pytest.raises(StoreError, match="deleted while it was in use"):
                late()


def test_another_space_is_refused_if_a_space_was_given(root: Path) -> None:
    """It is refused on opening, on refresh, when following and by number; a reader without space_id switches."""
    with embsync.open(root) as free:
        ours = free.current.space_id
        with embsync.open(root, space_id=ours) as reader:
            follower = reader.follow(on_error=lambda _: None, interval=0.01)
            sync(root, night(5, **SIZES, seed=9), "other", new_space=True)
            with pytest.raises(ForeignSpace, match=f"another space; found .*; expected {ours}"):
                reader.refresh()
            eventually(lambda: isinstance(follower.error, ForeignSpace))
            assert reader.current.number == 1
            with pytest.raises(ForeignSpace):
                reader.version(2)
        assert free.refresh()
        assert free.current.space_id != ours
    with pytest.raises(ForeignSpace):
        embsync.open(root, space_id=ours)


def test_only_an_unclosed_reader_warns(root: Path) -> None:
    """A version collected without ``close`` warns; one that was closed, left by ``with`` or replaced does not."""
    with pytest.warns(ResourceWarning, match="unclosed <embsync version 1"):
        open_version(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_version(root).close()
        with embsync.open(root) as reader:
            held = reader.current
            sync(root, night(1, **SIZES), "n1")
            reader.refresh()
            del held
            gc.collect()


def test_an_unclosed_follower_warns_and_ends_its_thread(root: Path) -> None:
    """The thread holds the store's path, but not the reader."""
    reader = embsync.open(root)
    follower = reader.follow(interval=0.01)
    reader.current.close()
    with pytest.warns(ResourceWarning, match="reader that follows"):
        del reader
    eventually(lambda: not follower.health.alive)


def test_no_descriptor_is_left_after_many_switches(root: Path) -> None:
    """After forty switches with readers in two threads, as many descriptors are open as before."""
    numbers = [Store(root).current(), sync(root, night(1, **SIZES), "n1").version]
    stop, failures = threading.Event(), list[BaseException]()

    with embsync.open(root) as reader:

        def read() -> None:
            try:
                while not stop.is_set():
                    version = reader.current
                    ids, scores = version.search(version.users.vectors[:3], k=2)
                    products = version.items.lookup(ids[0]) @ version.users.vectors[0]
                    np.testing.assert_allclose(products, scores[0], atol=1e-5)
            except BaseException as error:
                failures.append(error)

        follower = reader.follow(interval=0.001)
        reader.current.open_files()
        before = open_descriptors()
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(40):
            wanted = numbers[turn % 2]
            Store(root).rollback(wanted)
            eventually(lambda wanted=wanted: reader.current.number == wanted)
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert follower.health.healthy
        assert open_descriptors() <= before + 1


def _in_child(reader: embsync.StoreReader, root: Path, answers: multiprocessing.SimpleQueue[object]) -> None:
    version = reader.current
    ids, _ = version.search(np.asarray(version.users.vectors), k=3)
    alive = reader.follower.health.alive if reader.follower else None
    answers.put((ids.tolist(), alive, reader.refresh(), reader.current.number))
    reader.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_can_search_refresh_and_releases_nothing(root: Path) -> None:
    """After parallel searches in the parent, the child does not hang, and its exit does not unpin the parent's."""
    context = multiprocessing.get_context("fork")
    with embsync.open(root) as reader:
        version = reader.current
        expected, _ = version.search(np.asarray(version.users.vectors), k=3)
        follower = reader.follow(interval=60)
        with reader._switching:  # as if the follower had it at this moment
            sync(root, night(1, **SIZES), "n1")
            answers: multiprocessing.SimpleQueue[object] = context.SimpleQueue()
            child = context.Process(target=_in_child, args=(reader, root, answers))
            child.start()
            child.join(PATIENCE)
            hung = child.is_alive()
            if hung:
                child.kill()
            assert not hung
        assert child.exitcode == 0
        assert answers.get() == (expected.tolist(), False, True, 2)
        assert follower.health.alive
        sync(root, night(2, **SIZES), "n2", configured(store__keep_versions=1))
        assert 1 in Store(root).numbers()
        np.testing.assert_array_equal(version.search(version.users.vectors[:2], k=3)[0], expected[:2])


def test_a_repaired_version_is_switched_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next check the file differs from the one that was refused."""
    monkeypatch.setattr("embsync.reader.follower._TRY_AGAIN", 1e9)
    with embsync.open(root) as reader:
        sync(root, night(1, **SIZES), "n1")
        flip_a_bit(root, 2)
        follower = reader.follow(on_error=lambda _: None, interval=0.02)
        eventually(lambda: follower.error is not None)
        assert reader.current.number == 1
        next_tick(root / "versions/000002/items/vectors.npy")
        flip_a_bit(root, 2)  # back to what it was
        eventually(lambda: reader.current.number == 2)
        assert follower.error is None


def test_a_version_repaired_while_it_is_hashed_is_switched_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was read before the repair, so it is hashed again at the next check."""
    monkeypatch.setattr("embsync.reader.follower._TRY_AGAIN", 1e9)
    served: list[int] = []
    flip_a_bit(root, 1)

    def repaired_meanwhile(version: Version, stopping: Callable[[], bool]) -> None:
        try:
            verify(version, stopping)
        except StoreError:
            next_tick(root / "versions/000001/items/vectors.npy")
            flip_a_bit(root, 1)
            raise

    with Follower(
        root,
        lambda version: served.append(version.number) or version.close(),
        interval=0.001,
        on_error=lambda _: None,
        verify=repaired_meanwhile,
    ).start():
        eventually(lambda: served)
    assert served == [1]


def test_a_version_repaired_without_a_trace_is_retried_after_a_while(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may return wrong bytes once without a change of the file: it is hashed again, but not at every check."""
    monkeypatch.setattr("embsync.reader.follower._TRY_AGAIN", 0.2)
    served: list[int] = []
    hashed: list[int] = []

    def verify(version: Version, _: Callable[[], bool]) -> None:
        hashed.append(version.number)
        if len(hashed) < 3:
            raise StoreError("damaged version", where=version.path / "items/vectors.npy")

    with Follower(
        root,
        lambda version: served.append(version.number) or version.close(),
        interval=0.001,
        on_error=lambda _: None,
        verify=verify,
    ).start() as follower:
        eventually(lambda: hashed)
        wait_looks(follower, 10)
        eventually(lambda: served)
    assert hashed == [1, 1, 1]
    assert served == [1]
