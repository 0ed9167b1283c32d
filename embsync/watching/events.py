"""Events from the watched directory, each of which only means "scan now".

inotify loses events without an error when the root is deleted, renamed or mounted over, when its queue overflows, when
the limit of watches is reached, and on network file systems. So nothing depends on an event: the threads and the root's
device and inode are checked on each tick, and periodic rescans find what no event reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

#: Completing a snapshot always causes one of these. Reads cause none, nor do the single writes of a long copy.
_EVENT_TYPES: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
]
_JOIN_SECONDS = 2.0


@dataclass(frozen=True)
class WatchHealth:
    """Whether changes below the root are noticed by events.

    Attributes
    ----------
    state : str
        ``events`` (events and rescans), ``rescan`` (rescans only) or ``missing`` (the root does not exist).
    reason : str
        Why it is not ``events``.
    armed : int
        Number of times the watch was set up since the start: 1 if nothing went wrong.
    """

    state: Literal["events", "rescan", "missing"]
    reason: str = ""
    armed: int = 0


class _EventHandler(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        del event
        self._wake()


class Watcher:
    """The watch on one directory, which is set up again whenever it is lost.

    Parameters
    ----------
    path : Path
        The root; a link is followed to its current target.
    wake : callable
        Called from a thread when something may have changed.
    retry_seconds : float
        Pause before the watch is set up again after the kernel refused it.
    """

    def __init__(self, path: Path, wake: Callable[[], None], retry_seconds: float) -> None:
        self._path = path
        self._wake = wake
        self._retry_seconds = retry_seconds
        self._observer: BaseObserver | None = None
        self._identity: tuple[int, int] | None = None
        self._not_before = 0.0
        self._health = WatchHealth("missing", "not checked yet")

    def check(self, now: float) -> WatchHealth:
        """Set the watch up again if it was lost, and return its health."""
        try:
            identity = _identity(self._path)
        except OSError as error:
            self.close()
            self._health = WatchHealth("missing", error.strerror or str(error), self._health.armed)
            return self._health
        if (self._observer is None and now >= self._not_before) or not self._is_armed(identity):
            self._arm(identity, now)
        return self._health

    def close(self) -> None:
        """Stop the threads, if any."""
        observer, self._observer, self._identity = self._observer, None, None
        if observer is not None:
            observer.stop()
            observer.join(_JOIN_SECONDS)

    def _is_armed(self, identity: tuple[int, int]) -> bool:
        if self._observer is None:
            return self._identity == identity  # the kernel refused to watch this root; it is tried again later
        alive = self._observer.is_alive() and all(emitter.is_alive() for emitter in self._observer.emitters)
        return alive and self._identity == identity

    def _arm(self, identity: tuple[int, int], now: float) -> None:
        self.close()
        self._identity = identity
        observer = Observer()
        try:
            observer.schedule(
                _EventHandler(self._wake), os.path.realpath(self._path), recursive=True, event_filter=_EVENT_TYPES
            )
            observer.start()
        except (OSError, RecursionError) as error:
            why = "directories nested too deeply" if isinstance(error, RecursionError) else error.strerror
            self._not_before = now + self._retry_seconds
            self._health = WatchHealth("rescan", why or str(error), self._health.armed)
            return
        self._observer = observer
        self._health = WatchHealth("events", "", self._health.armed + 1)
        self._wake()  # for changes made before the watch was set up


def _identity(path: Path) -> tuple[int, int]:
    """Return device and inode of a directory; raise OSError if it is not a directory or cannot be listed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return (status.st_dev, status.st_ino)
