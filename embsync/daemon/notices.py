"""Log lines about snapshots that are not published: one for each, so that nothing is skipped silently."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from embsync.logs import log
from embsync.watching.backlog import Entry

#: Log lines of one kind per scan; one line counts the rest. At the start there may be thousands of old snapshots.
_MOST_LINES = 20

#: Kinds that are not logged: their names already show that they are not snapshots.
_SPEAKING = (".", "_")

_LEVELS = {
    "passed_over": logging.WARNING,
    "changed": logging.WARNING,
    "not_permitted": logging.WARNING,
    "skipped": logging.INFO,
    "not_a_snapshot": logging.INFO,
}


class Notices:
    """Remembers what was logged about each snapshot and about their order."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, str | None]] = {}
        self._order: str | None = None

    def log_changes(self, entries: Iterable[Entry], order: str | None) -> None:
        """Log what is new since the last call."""
        if order is not None and order != self._order:
            log(logging.INFO, "order", reason=order)
            self._order = order
        said: dict[str, tuple[str, str | None]] = {}
        fresh: dict[str, list[Entry]] = {}
        for entry in entries:
            kind = _kind(entry)
            if kind is None:
                continue
            said[entry.child.name] = kind, entry.child.stamp
            if self._said.get(entry.child.name) != said[entry.child.name]:
                fresh.setdefault(kind, []).append(entry)
        self._said = said
        for kind, those in fresh.items():
            for entry in those[-_MOST_LINES:]:
                log(_LEVELS[kind], kind, snapshot=entry.child.name, reason=entry.reason)
            if len(those) > _MOST_LINES:
                log(_LEVELS[kind], kind, count=len(those) - _MOST_LINES, reason="more snapshots, ordered before these")


def _kind(entry: Entry) -> str | None:
    """Return the log event for the state of an entry, or None if there is nothing to log."""
    if entry.passed_over:
        return "passed_over"
    if entry.state == "not_a_snapshot" and entry.child.name.startswith(_SPEAKING):
        return None
    return entry.state if entry.state in _LEVELS else None
