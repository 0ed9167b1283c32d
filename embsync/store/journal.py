"""``journal.jsonl``: one line an event, the store's memory of what was published, refused, rolled back, pruned."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import msgspec

from embsync.store.durable import append_line


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the journal; which fields there are depends on the event.

    Attributes
    ----------
    event : str
        published, refused, failed, rolled_back, pruned, held, resumed, widened.
    snapshot : dict
        name, path, fingerprint, stamp and mtime_ns (of its newest file, as text) of the snapshot concerned.
    checks : list
        Checks that did not pass; all of them where a check refused.
    error : dict
        Why a snapshot failed; of a published version, what was wrong with the parent's index.
    """

    event: str
    time: str = ""
    version: int | None = None
    parent: int | None = None
    space_id: str | None = None
    snapshot: dict[str, str | None] | None = None
    checks: list[dict[str, object]] | None = None
    error: dict[str, object] | None = None
    action: str | None = None
    reason: str | None = None
    seconds: float | None = None
    accepted: list[str] | None = None
    recovered: bool = False


def now() -> str:
    """Return the present as RFC 3339 UTC, to the second."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Journal:
    """The file, read whole and appended line by line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: Event) -> None:
        """Append an event durably, stamped with the time."""
        append_line(self._path, msgspec.json.encode(msgspec.structs.replace(event, time=now())))

    def events(self) -> Iterator[Event]:
        """Yield the events in order; a line torn by a crash is passed over."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        decoder = msgspec.json.Decoder(Event)
        for line in lines:
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
