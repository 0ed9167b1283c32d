"""What lies in the watched directory and what of it is next, kept from look to look."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from embsync.config import Config
from embsync.errors import EmbsyncError
from embsync.logs import log
from embsync.snapshots.files import real_path
from embsync.store import Store, layout
from embsync.watching.backlog import Entry, survey
from embsync.watching.discovery import Child, Discovery, discover
from embsync.watching.events import Watcher, WatchHealth
from embsync.watching.stat_cache import StatCache

#: Between scans that events ask for: this, and twice what the last scan cost, so that a storm of events never takes
#: more than a third of a core and a marker is still seen well within a second.
_PAUSE_SECONDS = 0.05
_PAUSE_PER_COST = 2.0
#: What nobody touches any more but was never finished is judged ever more rarely; an event or a change ends that.
_REEVALUATION_SHARE = 0.1
_LONGEST_REEVALUATION_SECONDS = 600.0
_NOT_YET = ("waiting", "not_permitted")


class Scanner:
    """The watched directory as the daemon knows it.

    Parameters
    ----------
    config : Config
    store : Store
    wake : callable
        Called, from any thread, when a scan was asked for.

    Attributes
    ----------
    path : Path
    health : WatchHealth
    reported_health : WatchHealth or None
        What was said of it last, kept by who says it.
    entries : list of Entry
        Every child as of the last look.
    queue : list of Entry
        Those to be handled, in order.
    order : str or None
        What comes after what, in words; None before the first look.
    last_published : float
        Wall clock of the last publish from this directory.
    scanned : float or None
        Wall clock of the last scan.
    scans : int
    """

    def __init__(self, config: Config, store: Store, wake: Callable[[], None]) -> None:
        assert config.watch.path is not None
        self._config = config
        self._store = store
        self._wake = wake
        self._requested = False
        self.path = Path(config.watch.path)
        self._watcher = Watcher(self.path, self.request, config.watch.rescan_seconds)
        self._cache = StatCache()
        self._found = Discovery((), {})
        self._journal: tuple[int, ...] | None = None
        self._judged = 0.0
        self._last_change = 0.0
        self._not_before = 0.0
        self.rescan_at = 0.0
        self.health = WatchHealth("missing", "not looked at yet")
        self.reported_health: WatchHealth | None = None
        self.entries: list[Entry] = []
        self.queue: list[Entry] = []
        self.order: str | None = None
        self.last_published = 0.0
        self.scanned: float | None = None
        self.scans = 0

    def request(self) -> None:
        """Ask for a scan, from any thread; many requests are one."""
        self._requested = True
        self._wake()

    def check(self, now: float) -> None:
        """Check that the watch is not blind."""
        before = self.health
        self.health = self._watcher.check(now)
        if before.state == "missing" and self.health.state != "missing":
            self.request()

    def due_in(self, now: float) -> float:
        """Return the seconds until the next look is due."""
        wanted = self.rescan_at - now
        if self._requested:
            wanted = min(wanted, self._not_before - now)
        return max(wanted, 0.0)

    def scan(self, now: float) -> None:
        """Look at the directory, and at the journal, as far as anything changed.

        Raises
        ------
        EmbsyncError
            The watched directory or the store cannot be read.
        """
        requested, self._requested = self._requested, False
        begin = time.monotonic()
        self.rescan_at = now + self._config.watch.rescan_seconds
        try:
            self._discover(now, requested)
            self.refresh()
            self.scanned = time.time()
            self.scans += 1
        except EmbsyncError:
            self._cache.forget()
            self.entries, self.queue, self._journal = [], [], None  # what is not known to be so is not acted upon
            raise
        finally:
            cost = time.monotonic() - begin
            self._not_before = time.monotonic() + _PAUSE_SECONDS + _PAUSE_PER_COST * cost

    def refresh(self) -> None:
        """Bring the entries up to the journal: a command may have handled one of them meanwhile."""
        journal = journal_mark(self._store)
        if journal != self._journal:
            found = survey(self._store, self._config, self._found)
            found.order.keep(self._store)
            if found.order.damage is not None:
                log(logging.ERROR, "damaged", reason=str(found.order.damage))
            self.entries, self.queue, self.order = found.entries, found.queue, str(found.order)
            self.last_published = found.order.last_published
            self._journal = journal

    def put_off(self, child: Child, reason: str, now: float) -> None:
        """Wait for a snapshot that showed to be incomplete when it was read, for as long again as it was quiet.

        Another stamp ends that at once. Reading it all again and again would leave no time for others.
        """
        seen = self._found.memory.get(child.name)
        if seen is not None and seen.stamp == child.stamp:
            pause = min(max(now - seen.since, self._config.watch.rescan_seconds), _LONGEST_REEVALUATION_SECONDS)
            memory = {**self._found.memory, child.name: replace(seen, lacking=reason, again=now + pause)}
            children = (
                replace(one, state="waiting", reason=reason) if one.name == child.name else one
                for one in self._found.children
            )
            self._found = Discovery(tuple(children), memory)
            self._journal = None

    def close(self) -> None:
        """Stop watching."""
        self._watcher.close()

    def _discover(self, now: float, requested: bool) -> None:
        try:
            changed = self._cache.changed(real_path(self.path), time.time_ns())
        except OSError as error:
            self._cache.forget()
            self._found = Discovery((), {})
            self._journal = None
            if self.health.state != "missing":
                self.health = WatchHealth("missing", error.strerror or str(error), self.health.armed)
            return
        if changed:
            self._last_change = now
        if not changed and not self._judging_is_due(now, requested):
            return
        known = {
            child.name: child
            for child in self._found.children
            if child.state not in _NOT_YET and child.link is None and child.name not in self._cache.changed_names
        }
        self._found = discover(
            self.path, self._config.watch, self._config.snapshot, now=now, memory=self._found.memory, known=known
        )
        self._judged = now
        self._journal = None

    def _judging_is_due(self, now: float, requested: bool) -> bool:
        """Return whether what waits is to be judged although nothing changed: time passes, and writers let go."""
        if not any(child.state in _NOT_YET for child in self._found.children):
            return False
        patience = min(_REEVALUATION_SHARE * (now - self._last_change), _LONGEST_REEVALUATION_SECONDS)
        return requested or now - self._judged >= patience


def journal_mark(store: Store) -> tuple[int, ...]:
    """Return what changes whenever the journal does."""
    try:
        status = os.stat(store.root / layout.JOURNAL)  # noqa: PTH116
    except FileNotFoundError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def store_mark(store: Store) -> tuple[object, ...]:
    """Return what changes whenever a command changes the store, or a hand ``current`` or a file it leads to."""
    current, target = store.root / layout.CURRENT, None
    files: list[tuple[object, ...]] = []
    with contextlib.suppress(OSError):
        target = str(current.readlink())
        for folder, _, names in os.walk(current):
            for name in names:
                status = os.lstat(os.path.join(folder, name))  # noqa: PTH118
                files.append((name, status.st_ino, status.st_size, status.st_ctime_ns))
    return (journal_mark(store), target, sorted(files))
