"""The daemon's reports about itself: status.json, metrics.prom and the service manager's status line."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from embsync.daemon import metrics, status
from embsync.daemon.status import Current, DaemonPhase, Problem, Retry, SnapshotStatus, Status, Watch, Work
from embsync.errors import EmbsyncError
from embsync.logs import log
from embsync.manifest import Manifest
from embsync.notify import notify
from embsync.store import Store
from embsync.store.hold import Hold
from embsync.store.records import timestamp
from embsync.watching.backlog import Entry
from embsync.watching.scanner import Scanner, journal_state

#: Seconds between updates of the file while progress is the only change.
_PROGRESS_SECONDS = 1.0
#: Snapshots listed in the file, which is written at every rescan: the newest, and the total with notable others.
_MOST_RECENT, _MOST_LISTED = 100, 1_000


@dataclass
class DaemonState:
    """The daemon's state at one moment."""

    state: DaemonPhase
    doing: str
    scanner: Scanner
    held: Hold | None = None
    work: Work | None = None
    retry: Retry | None = None
    last_error: Problem | None = None
    on_publish: str | None = None
    damage: str | None = None
    counters: Counter[str] = field(default_factory=Counter)
    unpruned: int = 0


class StatusWriter:
    """Writes the reports when something has changed, at a limited rate, since each write is a disk sync."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._started = self._since = time.time()
        self._state: DaemonPhase | None = None
        self._key: object = None
        self._written = 0.0
        self._manifest: Manifest | None = None
        self._notified = ""
        self._journal: tuple[int, ...] | None = None
        self._outcomes: Counter[str] = Counter()
        self._refusal: Problem | None = None
        self._damage: list[str] = []
        self._inspected: object = None

    def write(self, now: DaemonState, require: Callable[[], None]) -> bool:
        """Write the reports if something has changed; return whether anything was written.

        Parameters
        ----------
        now : DaemonState
        require : callable
            Called before each file is replaced; raises if the store has been replaced.

        Raises
        ------
        EmbsyncError
            The store cannot be read or written.
        """
        if now.state != self._state:
            self._state, self._since = now.state, time.time()
        if now.doing != self._notified:
            self._notified = now.doing
            notify(f"STATUS={now.doing}")
        moment = time.monotonic()
        key = (
            now.state,
            now.doing,
            now.held,
            now.last_error,
            now.on_publish,
            now.damage,
            now.scanner.scans,
            now.scanner.health,
        )
        progressed = now.work is not None and moment - self._written >= _PROGRESS_SECONDS
        if key == self._key and not progressed:
            return False
        self._key, self._written = key, moment  # if the disk is full, the next scan tries again
        self._write_files(now, require)
        return True

    def _write_files(self, now: DaemonState, require: Callable[[], None]) -> None:
        self._check_damage(now.scanner.scans)
        self._read_journal()
        manifest = self._current()
        wall = time.time()
        document = self._status(now, manifest, wall)
        status.write(self._store, document, require)
        metrics.write(
            self._store,
            metrics.Figures(
                document,
                manifest,
                self._outcomes,
                {**now.counters, "embsync_scans_total": now.scanner.scans},
                _counts(now),
                wall,
                now.scanner.scanned,
                self._started,
            ),
            require,
        )

    def _read_journal(self) -> None:
        journal = journal_state(self._store)
        if journal == self._journal:
            return
        self._journal, self._outcomes = journal, Counter()
        for event in self._store.journal.events():
            self._outcomes[event.event] += 1
            if event.event == "refused":
                self._refusal = Problem(event.time, event.reason or "", (event.snapshot or {}).get("name"))
            elif event.event == "published" and self._refusal is not None and self._refusal.over is None:
                self._refusal = msgspec.structs.replace(self._refusal, over=event.time)

    def _check_damage(self, scans: int) -> None:
        """Check the store's own records at every scan; log each damage once."""
        state = (scans, journal_state(self._store))
        if state == self._inspected:
            return
        self._inspected = state
        before, self._damage = self._damage, [str(error) for error in self._store.damage()]
        for what in self._damage:
            if what not in before:
                log(logging.ERROR, "damaged", reason=what)

    def _current(self) -> Manifest | None:
        """Return the current version's manifest, or None if there is none or it is unreadable."""
        with contextlib.suppress(EmbsyncError):
            number = self._store.current()
            if number is not None and (self._manifest is None or self._manifest.version != number):
                self._manifest = self._store.manifest(number)
            return None if number is None else self._manifest
        return None

    def _status(self, now: DaemonState, manifest: Manifest | None, wall: float) -> Status:
        scanner = now.scanner
        return Status(
            state=now.state,
            since=timestamp(self._since),
            started=timestamp(self._started),
            updated=timestamp(wall),
            doing=now.doing,
            current=None
            if manifest is None
            else Current(manifest.version, manifest.snapshot.name, manifest.created, metrics.age(manifest, wall)),
            queue=[entry.child.name for entry in scanner.queue],
            waiting=_waiting(scanner.entries),
            snapshots=_listed(scanner.entries),
            order=scanner.order,
            work=now.work,
            retry=now.retry,
            held=None if now.held is None else msgspec.to_builtins(now.held),
            last_refusal=self._refusal,
            last_error=now.last_error,
            on_publish=now.on_publish,
            watch=Watch(
                str(scanner.path),
                scanner.health.state,
                scanner.health.reason,
                scanner.health.armed,
                None if scanner.scanned is None else timestamp(scanner.scanned),
                timestamp(wall + max(scanner.rescan_at - time.monotonic(), 0.0)),
            ),
            damage=[*([] if now.damage is None else [now.damage]), *self._damage],
        )


def _waiting(entries: list[Entry]) -> dict[str, str]:
    return {entry.child.name: entry.reason for entry in entries if entry.state in {"waiting", "not_permitted"}}


def _listed(entries: list[Entry]) -> dict[str, SnapshotStatus]:
    """Return the newest snapshots, and notable ones among the rest."""
    shown = [
        entry
        for place, entry in enumerate(reversed(entries))
        if place < _MOST_RECENT or entry.passed_over or entry.state in {"not_permitted", "changed"}
    ]
    return {
        entry.child.name: SnapshotStatus(entry.state, entry.reason, entry.passed_over)
        for entry in reversed(shown[:_MOST_LISTED])
    }


def _counts(now: DaemonState) -> Counter[str]:
    found: Counter[str] = Counter(entry.state for entry in now.scanner.entries)
    found["passed_over"] = sum(entry.passed_over for entry in now.scanner.entries)
    found["unpruned"] = now.unpruned
    return found
