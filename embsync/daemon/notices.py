"""Log lines that are written once per change: about the watch, and what is not published or not pruned."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from embsync.logs import log
from embsync.watching.backlog import Entry
from embsync.watching.events import WatchHealth

#: Log lines of one kind per scan; one line counts the rest. At the start there may be thousands of old snapshots.
_MOST_LINES = 20

#: Prefixes of names that are not logged, since they show that it is not a snapshot.
_HIDDEN_PREFIXES = (".", "_")

_LEVELS = {
    "passed_over": logging.WARNING,
    "changed": logging.WARNING,
    "not_permitted": logging.WARNING,
    "skipped": logging.INFO,
    "not_a_snapshot": logging.INFO,
}


class Notices:
    """Remembers what was last logged about each snapshot, their order, the watch and unpruned versions.

    Attributes
    ----------
    health : WatchHealth or None
    unpruned : sequence of str
    """

    def __init__(self) -> None:
        self._logged: dict[str, tuple[str, str | None]] = {}
        self._order: str | None = None
        self.health: WatchHealth | None = None
        self.unpruned: Sequence[str] = ()

    def log_health(self, health: WatchHealth, path: Path) -> None:
        """Log the watch's health if it has changed, or at the start if there are no events."""
        before, self.health = self.health, health
        quiet = before is None and health.state == "events"
        if not quiet and (before is None or (health.state, health.reason) != (before.state, before.reason)):
            level = logging.INFO if health.state == "events" else logging.WARNING
            log(level, "watch", health=health.state, reason=health.reason or None, path=str(path))

    def log_unpruned(self, names: Sequence[str], path: Path) -> None:
        """Log old versions that could not be deleted, if they have changed; they take up space, but block nothing."""
        before, self.unpruned = self.unpruned, names
        if names and names != before:
            log(
                logging.WARNING,
                "not_pruned",
                count=len(names),
                path=str(path),
                reason=f"in use, or owned by another user: {', '.join(names[:5])}",
            )

    def log_entries(self, entries: Iterable[Entry], order: str | None) -> None:
        """Log the order and the snapshots that are not published, if they are new since the last call."""
        if order is not None and order != self._order:
            log(logging.INFO, "order", reason=order)
            self._order = order
        logged: dict[str, tuple[str, str | None]] = {}
        fresh: dict[str, list[Entry]] = {}
        for entry in entries:
            kind = _kind(entry)
            if kind is None:
                continue
            logged[entry.child.name] = kind, entry.child.stamp
            if self._logged.get(entry.child.name) != logged[entry.child.name]:
                fresh.setdefault(kind, []).append(entry)
        self._logged = logged
        for kind, those in fresh.items():
            for entry in those[-_MOST_LINES:]:
                log(_LEVELS[kind], kind, snapshot=entry.child.name, reason=entry.reason)
            if len(those) > _MOST_LINES:
                log(_LEVELS[kind], kind, count=len(those) - _MOST_LINES, reason="more snapshots, ordered before these")


def _kind(entry: Entry) -> str | None:
    """Return the log event for the state of an entry, or None if there is nothing to log."""
    if entry.passed_over:
        return "passed_over"
    if entry.state == "not_a_snapshot" and entry.child.name.startswith(_HIDDEN_PREFIXES):
        return None
    return entry.state if entry.state in _LEVELS else None
