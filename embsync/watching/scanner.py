"""The state of the watched directory, kept from scan to scan."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from embsync.config import Config
from embsync.errors import EmbsyncError, UsageError
from embsync.logs import log
from embsync.snapshots.files import real_path
from embsync.store import Store, layout
from embsync.watching.backlog import Entry, survey
from embsync.watching.discovery import Child, Discovery, discover
from embsync.watching.events import Watcher, WatchHealth
from embsync.watching.stat_cache import StatCache

#: Pause between scans caused by events: this, plus twice the duration of the last scan, so that a burst of events never
#: takes more than a third of a core and a marker is still noticed well within a second.
_PAUSE_SECONDS = 0.05
_PAUSE_PER_COST = 2.0
#: Incomplete snapshots that no longer change are evaluated less and less often, until an event or a change.
_REEVALUATION_SHARE = 0.1
_LONGEST_REEVALUATION_SECONDS = 600.0
_PENDING = ("waiting", "not_permitted")


class Scanner:
    """The watched directory as of the daemon's last scan.

    Parameters
    ----------
    config : Config
    store : Store
    wake : callable
        Called from any thread when a scan is requested.

    Attributes
    ----------
    path : Path
    health : WatchHealth
    entries : list of Entry
        Every child as of the last scan.
    queue : list of Entry
        The entries to be handled, in order.
    order : str or None
        The order in words; None before the first scan.
    last_published : float
        Wall-clock time of the last publish from this directory.
    scanned : float or None
        Wall-clock time of the last scan.
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
        self._evaluated = 0.0
        self._last_change = 0.0
        self._not_before = 0.0
        self.rescan_at = 0.0
        self.health = WatchHealth("missing", "not checked yet")
        self.entries: list[Entry] = []
        self.queue: list[Entry] = []
        self.order: str | None = None
        self.last_published = 0.0
        self.scanned: float | None = None
        self.scans = 0

    def request(self) -> None:
        """Request a scan, from any thread; several requests cause one scan."""
        self._requested = True
        self._wake()

    def check(self, now: float) -> None:
        """Set the watch up again if it was lost."""
        before = self.health
        self.health = self._watcher.check(now)
        if before.state == "missing" and self.health.state != "missing":
            self.request()

    def due_in(self, now: float) -> float:
        """Return the seconds until the next scan is due."""
        wanted = self.rescan_at - now
        if self._requested:
            wanted = min(wanted, self._not_before - now)
        return max(wanted, 0.0)

    def scan(self, now: float) -> None:
        """Read the directory and the journal again if they have changed.

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
            self.entries, self.queue, self._journal = [], [], None  # nothing is done on the basis of stale entries
            raise
        finally:
            cost = time.monotonic() - begin
            self._not_before = time.monotonic() + _PAUSE_SECONDS + _PAUSE_PER_COST * cost

    def refresh(self) -> None:
        """Update the entries from the journal: a command may have handled one of them in the meantime."""
        journal = journal_state(self._store)
        if journal != self._journal:
            found = survey(self._store, self._config, self._found)
            found.order.save(self._store)
            if found.order.damage is not None:
                log(logging.ERROR, "damaged", reason=str(found.order.damage))
            self.entries, self.queue, self.order = found.entries, found.queue, str(found.order)
            self.last_published = found.order.last_published
            self._journal = journal

    def defer(self, child: Child, reason: str, now: float) -> None:
        """Defer a snapshot that was found incomplete when it was read, by as long as it has not changed so far.

        A change of its stamp ends the deferral. Reading it repeatedly would leave no time for others.
        """
        seen = self._found.memory.get(child.name)
        if seen is not None and seen.stamp == child.stamp:
            pause = min(max(now - seen.since, self._config.watch.rescan_seconds), _LONGEST_REEVALUATION_SECONDS)
            memory = {**self._found.memory, child.name: replace(seen, missing=reason, retry_at=now + pause)}
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
        if not changed and not self._evaluation_due(now, requested):
            return
        known = {
            child.name: child
            for child in self._found.children
            if child.state not in _PENDING and child.link is None and child.name not in self._cache.changed_names
        }
        self._found = discover(
            self.path, self._config.watch, self._config.snapshot, now=now, memory=self._found.memory, known=known
        )
        self._evaluated = now
        self._journal = None

    def _evaluation_due(self, now: float, requested: bool) -> bool:
        """Return whether to evaluate incomplete snapshots although nothing changed: writers may have closed files."""
        if not any(child.state in _PENDING for child in self._found.children):
            return False
        interval = min(_REEVALUATION_SHARE * (now - self._last_change), _LONGEST_REEVALUATION_SECONDS)
        return requested or now - self._evaluated >= interval


def journal_state(store: Store) -> tuple[int, ...]:
    """Return a value that changes whenever the journal does."""
    try:
        status = os.stat(store.root / layout.JOURNAL)  # noqa: PTH116
    except FileNotFoundError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def store_state(store: Store) -> tuple[object, ...]:
    """Return a value that changes whenever a command or a person changes the journal or the current version's files."""
    current, target = store.root / layout.CURRENT, None
    files: list[tuple[object, ...]] = []
    with contextlib.suppress(OSError):
        target = str(current.readlink())
        for folder, _, names in os.walk(current):
            for name in names:
                status = os.lstat(os.path.join(folder, name))  # noqa: PTH118
                files.append((name, status.st_ino, status.st_size, status.st_ctime_ns))
    return (journal_state(store), target, sorted(files))


def require_watched(config: Config) -> Config:
    """Return a configuration that has ``watch.path``.

    Raises
    ------
    UsageError
        It has none.
    """
    if config.watch.path is None:
        raise UsageError("no directory to watch", found="no watch.path", hint="set watch.path in the configuration")
    return config
