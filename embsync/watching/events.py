"""Events from the watched directory, which only ever mean "look now".

inotify goes blind without an error when the root is deleted, renamed or mounted over, when its queue overflows, when
the limit of watches is reached and on every network file system. So nothing depends on an event coming: the threads
and the root's device and inode are checked on each tick, and the rescan finds what no event told of.
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

#: Whatever completes a snapshot makes one of these. Reads make none, nor does each write of a long copy.
_TELLING: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
]
_JOIN_SECONDS = 2.0


@dataclass(frozen=True)
class WatchHealth:
    """How well the root is watched.

    Attributes
    ----------
    state : str
        ``events`` (events and rescans), ``rescan`` (rescans alone) or ``missing`` (no root).
    reason : str
        Why it is not ``events``.
    armed : int
        How often the root was armed since the start: 1 in a quiet life.
    """

    state: Literal["events", "rescan", "missing"]
    reason: str = ""
    armed: int = 0


class _Nudge(FileSystemEventHandler):
    def __init__(self, nudge: Callable[[], None]) -> None:
        self._nudge = nudge

    def on_any_event(self, event: FileSystemEvent) -> None:
        del event
        self._nudge()


class Watcher:
    """One root, armed and armed again for as long as the daemon lives.

    Parameters
    ----------
    path : Path
        The root; a link is followed to where it leads now.
    nudge : callable
        Called from a thread when something may have changed.
    retry_seconds : float
        Pause before arming is tried again after the kernel refused.
    """

    def __init__(self, path: Path, nudge: Callable[[], None], retry_seconds: float) -> None:
        self._path = path
        self._nudge = nudge
        self._retry_seconds = retry_seconds
        self._observer: BaseObserver | None = None
        self._identity: tuple[int, int] | None = None
        self._not_before = 0.0
        self._health = WatchHealth("missing", "not looked at yet")

    def check(self, now: float) -> WatchHealth:
        """Return the watch's health, armed again where it went blind."""
        try:
            identity = _identity(self._path)
        except OSError as error:
            self.close()
            self._health = WatchHealth("missing", error.strerror or str(error), self._health.armed)
            return self._health
        if (self._observer is None and now >= self._not_before) or not self._sees(identity):
            self._arm(identity, now)
        return self._health

    def close(self) -> None:
        """Stop the threads, if there are any."""
        observer, self._observer, self._identity = self._observer, None, None
        if observer is not None:
            observer.stop()
            observer.join(_JOIN_SECONDS)

    def _sees(self, identity: tuple[int, int]) -> bool:
        if self._observer is None:
            return self._identity == identity  # refused by the kernel for this very root: tried again later
        alive = self._observer.is_alive() and all(emitter.is_alive() for emitter in self._observer.emitters)
        return alive and self._identity == identity

    def _arm(self, identity: tuple[int, int], now: float) -> None:
        self.close()
        self._identity = identity
        observer = Observer()
        try:
            observer.schedule(_Nudge(self._nudge), os.path.realpath(self._path), recursive=True, event_filter=_TELLING)
            observer.start()
        except (OSError, RecursionError) as error:
            why = "directories nested too deeply" if isinstance(error, RecursionError) else error.strerror
            self._not_before = now + self._retry_seconds
            self._health = WatchHealth("rescan", why or str(error), self._health.armed)
            return
        self._observer = observer
        self._health = WatchHealth("events", "", self._health.armed + 1)
        self._nudge()  # what came before the first event could


def _identity(path: Path) -> tuple[int, int]:
    """Return device and inode of the directory a path leads to now; OSError unless it is one and may be listed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return (status.st_dev, status.st_ino)
