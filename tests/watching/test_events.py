"""The watch on a directory: armed again whenever it stops working, with events of the real kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import PATIENCE, eventually
from watchdog.observers.api import BaseObserver

from embsync.watching.events import Watcher


class Watch:
    """A watcher, and whether it has called back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nudged = threading.Event()
        self.watcher = Watcher(path, self.nudged.set, retry_seconds=10.0)

    def armed(self, now: float = 0.0) -> int:
        """Check the watch; return how often it has been armed."""
        return self.watcher.check(now).armed

    def assert_sees(self, folder: Path | None = None) -> None:
        """Assert that a new entry of the directory is reported."""
        self.nudged.clear()
        ((folder or self.path) / f"new-{len(list((folder or self.path).iterdir()))}").mkdir()
        assert self.nudged.wait(PATIENCE)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """A directory that is watched."""
    (tmp_path / "watch").mkdir()
    found = Watch(tmp_path / "watch")
    health = found.watcher.check(0.0)
    if health.state != "events":
        pytest.skip(f"no events here: {health.reason}")
    yield found
    found.watcher.close()


def _renamed(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.mkdir()


def _replaced(path: Path) -> None:
    path.with_name("fresh").mkdir()
    path.rmdir()
    path.with_name("fresh").rename(path)


def _linked(path: Path) -> None:
    path.with_name("other").mkdir()
    path.rename(path.with_name("aside"))
    path.symlink_to("other")


@pytest.mark.parametrize("replace", [_renamed, _replaced, _linked])
def test_a_replaced_watched_directory_is_watched_again(watch: Watch, replace: Callable[[Path], None]) -> None:
    """Changes in the new directory are noticed after the next check; an unchanged directory is armed once."""
    assert [watch.armed() for _ in range(3)] == [1, 1, 1]
    watch.assert_sees()
    for child in watch.path.iterdir():
        child.rmdir()
    replace(watch.path)
    assert watch.armed() == 2
    watch.assert_sees()
    assert watch.armed() == 2


def test_a_moved_directory_is_no_longer_watched(watch: Watch) -> None:
    """Only changes in the new directory are noticed."""
    aside = watch.path.with_name("aside")
    _renamed(watch.path)
    watch.armed()
    emitters = list(watch.watcher._observer.emitters)
    assert len(emitters) == 1
    (aside / "stray").mkdir()
    watch.assert_sees()


def test_a_missing_watched_directory_is_watched_once_it_appears(watch: Watch) -> None:
    """While the directory is missing, no thread is left."""
    watch.path.rmdir()
    health = watch.watcher.check(0.0)
    assert (health.state, health.armed) == ("missing", 1)
    assert watch.watcher._observer is None
    watch.path.mkdir()
    assert watch.armed() == 2
    watch.assert_sees()


def _dead_emitter(observer: Any) -> None:
    for emitter in observer.emitters:
        emitter.queue_events = _fail


def _dead_dispatcher(observer: Any) -> None:
    observer.dispatch_events = _fail


def _fail(*_: object) -> None:
    raise RuntimeError("as a bug in a library would")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kill", [_dead_emitter, _dead_dispatcher])
def test_a_dead_event_thread_is_replaced(watch: Watch, kill: Callable[[Any], None]) -> None:
    """It holds for the thread that reads the kernel's events and the one that dispatches them."""
    observer: Any = watch.watcher._observer
    threads = [observer, *observer.emitters]
    kill(observer)
    (watch.path / "wake").mkdir()
    (watch.path / "wake too").mkdir()
    eventually(lambda: not all(thread.is_alive() for thread in threads))
    assert watch.armed() == 2
    watch.assert_sees()


def test_a_refused_watch_is_retried_after_a_pause(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then, there are only rescans, with the reason; another directory is tried at once."""
    real = BaseObserver.start
    asked: list[int] = []

    def refuse(self: BaseObserver) -> None:
        asked.append(1)
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(BaseObserver, "start", refuse)
    _renamed(watch.path)
    for now in (0.0, 5.0, 9.0):
        health = watch.watcher.check(now)
        assert (health.state, health.reason) == ("rescan", "inotify watch limit reached")
    assert len(asked) == 1
    watch.watcher.check(11.0)
    assert len(asked) == 2
    watch.path.rmdir()
    watch.path.symlink_to("aside")
    watch.watcher.check(12.0)
    assert len(asked) == 3
    monkeypatch.setattr(BaseObserver, "start", real)
    assert watch.watcher.check(25.0).state == "events"
    watch.assert_sees()
