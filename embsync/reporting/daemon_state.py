"""The state of a store's daemon, for pages: read from ``status.json``, as any consumer may do."""

from __future__ import annotations

from pathlib import Path

import msgspec

from embsync.errors import StoreError
from embsync.reporting.numerals import local, plural
from embsync.store import layout
from embsync.store.locks import is_held
from embsync.store.records import MALFORMED, read_record

#: Bytes; more than the names of a large backlog take.
_LONGEST = 16 * 1024**2


class _State(msgspec.Struct, frozen=True):
    """The fields that a page shows."""

    state: str
    since: str
    updated: str
    doing: str
    queue: list[str] = []
    held: dict[str, str | None] | None = None


def daemon_sentence(root: Path) -> str:
    """Return in one sentence what the daemon of a store is doing."""
    try:
        data = read_record(root / layout.STATUS, _LONGEST)
        if data is None:
            return "No daemon has ever run here: snapshots are published by command."
        found = msgspec.json.decode(data, type=_State)
        running = is_held(root / layout.DAEMON_LOCK)
    except (StoreError, *MALFORMED):
        return "The state of the daemon cannot be read."
    if not running:
        return f"The daemon is not running; it was {found.state} at {local(found.updated)}."
    more = f"; {plural(len(found.queue), 'snapshot')} waiting" if found.queue else ""
    held = ""
    if found.held is not None:
        held = f" Publishing is on hold{_because(found.held.get('reason'))}."
    return f"The daemon has been {found.state} since {local(found.since)}: {found.doing}{more}.{held}"


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""
