"""The watched directory against the journal: what was handled, what waits, what is next."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embsync.config import Config
from embsync.errors import SnapshotError
from embsync.pipeline.progress import Progress, silent
from embsync.pipeline.run import Request, UnchangedError, process
from embsync.snapshots import Child, Found, discover, order_key, require_as_listed
from embsync.store import Store
from embsync.store.journal import DamagedLine, Event
from embsync.store.manifest import Manifest

State = Literal["published", "refused", "failed", "unchanged", "next", "waiting", "skipped", "not_a_snapshot"]

_HANDLED = ("published", "refused", "failed", "unchanged")


@dataclass(frozen=True)
class Entry:
    """What one child of the watched directory is.

    Attributes
    ----------
    child : Child
    state : str
        published, refused, failed, unchanged (handled before with the same contents), next (to be handled),
        waiting (incomplete), skipped, or not_a_snapshot.
    reason : str
    version : int or None
        Of a published one.
    fingerprint : str or None
        Contents handled last under this name.
    """

    child: Child
    state: State
    reason: str
    version: int | None = None
    fingerprint: str | None = None


def survey(store: Store, config: Config, found: Found | None = None) -> list[Entry]:
    """Say of every child of ``watch.path`` what it is, in order.

    Parameters
    ----------
    store : Store
    config : Config
    found : Found, optional
        A look at the directory; default: one look now, without memory of earlier ones.
    """
    assert config.watch.path is not None
    if found is None:
        found = discover(config.watch.path, config.watch, config.snapshot, now=time.time())
    handled = _handled(store, Path(config.watch.path))
    highest = _highest(handled, found, config)
    damaged = store.journal.damaged()
    entries = [_entry_of_damage(child, damaged) or _entry(child, handled, highest, config)
               for child in found.children]
    waiting = [entry for entry in entries if entry.state == "next"]
    if config.watch.backlog == "newest" and len(waiting) > 1:
        newest = waiting[-1].child.name
        entries = [
            Entry(entry.child, "skipped", f"{newest} is newer, and watch.backlog is newest")
            if entry.state == "next" and entry.child.name != newest else entry
            for entry in entries
        ]
    return entries


def handle(store: Store, entry: Entry, config: Config, progress: Progress = silent) -> Manifest:
    """Run the pipeline on an entry of the backlog; what only a new snapshot can mend is journaled, once.

    Raises
    ------
    UnchangedError
        The contents are those handled last under this name; journaled.
    NotAsListed
        The contents are not what completed the snapshot: its manifest lists others.
    """
    request = Request(entry.child.path, known_fingerprint=entry.fingerprint, follow_link=False)
    try:
        if config.watch.complete in {"auto", "manifest"}:
            require_as_listed(entry.child.path, lambda share: progress("comparing", share))
        return process(store, request, config, progress)
    except UnchangedError:
        _journal(store, entry, Event(event="unchanged", reason="the same contents as before"), entry.fingerprint)
        raise
    except SnapshotError as error:
        if not error.transient:
            _journal(store, entry, Event(event="failed", reason=str(error), error=error.as_dict()), None)
        raise


def set_aside(store: Store, entry: Entry, reason: str) -> None:
    """Journal an entry as failed without trying it again: it is not taken until it changes."""
    _journal(store, entry, Event(event="failed", reason=reason), None)


def _journal(store: Store, entry: Entry, event: Event, fingerprint: str | None) -> None:
    child = entry.child
    named = {"name": child.name, "path": str(child.path.absolute()), "fingerprint": fingerprint, "stamp": child.stamp,
             "mtime_ns": str(child.mtime_ns)}
    store.create()
    with store.locked():
        store.journal.append(Event(event=event.event, reason=event.reason, error=event.error, snapshot=named))


def _handled(store: Store, watched: Path) -> dict[str, Event]:
    """Return the last event of each snapshot of the watched directory."""
    place = os.path.realpath(watched)  # unlike Path.resolve it takes links in a circle
    last: dict[str, Event] = {}
    for event in store.events():
        snapshot = event.snapshot or {}
        path = snapshot.get("path")
        if event.event in _HANDLED and path is not None and os.path.realpath(Path(path).parent) == place:
            last[Path(path).name] = event
        elif event.recovered and path is None and (name := snapshot.get("name")) is not None:
            # whoever journaled it knew the manifest only; the fingerprint tells whether it is the same snapshot
            last[name] = event
    return last


def _highest(handled: Mapping[str, Event], found: Found, config: Config) -> tuple[object, ...] | None:
    """Return the order of the highest snapshot handled, also of one that was deleted since: there is no way back."""
    present = {child.name: child.mtime_ns for child in found.children}
    return max((order_key(name, int((event.snapshot or {}).get("mtime_ns") or present.get(name, 0)), config.watch)
                for name, event in handled.items()), default=None)


def _entry_of_damage(child: Child, damaged: Sequence[DamagedLine]) -> Entry | None:
    """Return the entry of a child whose stamp stands in a damaged line: it was handled as it is now."""
    stamp = None if child.stamp is None or child.state != "ready" else child.stamp.encode()
    line = next((line for line in damaged if stamp is not None and stamp in line.data), None)
    if line is None:
        return None
    return Entry(child, "skipped", f"handled before, as line {line.number} of the journal shows, which is damaged")


def _entry(child: Child, handled: Mapping[str, Event], highest: tuple[object, ...] | None, config: Config) -> Entry:
    if child.state != "ready":
        return Entry(child, child.state, child.reason)
    event = handled.get(child.name)
    if event is None:
        if highest is not None and order_key(child.name, child.mtime_ns, config.watch) < highest:
            return Entry(child, "skipped", "ordered before what was handled already")
        return Entry(child, "next", child.reason)
    snapshot = event.snapshot or {}
    if snapshot.get("stamp") != child.stamp:
        return Entry(child, "next", "changed since it was handled", fingerprint=snapshot.get("fingerprint"))
    state: State = "published" if event.event == "unchanged" else event.event  # type: ignore[assignment]
    return Entry(child, state, event.reason or "", event.version, snapshot.get("fingerprint"))


