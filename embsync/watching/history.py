"""The journal's record of a watched directory: how each snapshot was handled, and what was published from it."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from embsync.snapshots import Signature
from embsync.snapshots.files import real_path
from embsync.store.journal import Event

Outcome = Literal["published", "refused", "failed"]

_HANDLED: Mapping[str, Outcome] = {"published": "published", "refused": "refused", "failed": "failed"}
#: If the mtime of the newest file is later than its publication by more than this, the mtime is wrong.
_CLOCK_TOLERANCE_NS = 86_400 * 10**9


@dataclass(frozen=True)
class Handled:
    """How a snapshot was last handled, and its state at that time."""

    outcome: Outcome
    reason: str
    version: int | None
    fingerprint: str | None
    stamp: str | None
    listing: str | None


@dataclass(frozen=True)
class Publication:
    """A publication: the snapshot's name, the mtime in ns of its newest file, and the time of publishing in seconds."""

    name: str
    mtime_ns: int
    published: float


@dataclass
class History:
    """The journal's events about one watched directory.

    Attributes
    ----------
    last : dict of name to Handled
    publications : list of Publication
        In the order of the journal, including what was deleted or rolled back since.
    by_earlier_release : bool
        Part of the journal was written by a release that ordered snapshots by name alone.
    """

    last: dict[str, Handled] = field(default_factory=dict)
    publications: list[Publication] = field(default_factory=list)
    by_earlier_release: bool = False


def snapshot_event(name: str, path: Path, fingerprint: str | None, signature: Signature) -> dict[str, str | None]:
    """Return the ``snapshot`` of a journal event; ``path`` is absolute."""
    return {
        "name": name,
        "path": str(path),
        "fingerprint": fingerprint,
        "stamp": signature.stamp or None,
        "listing": signature.listing or None,
        "mtime_ns": str(signature.mtime_ns),
    }


def history_of(events: Iterable[Event], watched: str | Path) -> History:
    """Return what the events say about a directory's snapshots.

    Parameters
    ----------
    events : iterable of Event
        All events of the journal, in order, and those recovered from manifests in place of lost lines.
    watched : str or Path
        The directory; its snapshots are identified by their path below it.
    """
    places = _RelativeNames(watched)
    found = History()
    for event in events:
        snapshot = event.snapshot or {}
        name = places.name_of(snapshot.get("path"))
        if name is None and event.recovered and snapshot.get("path") is None:
            name = snapshot.get("name")  # recovered from a manifest, which has no path
        found.by_earlier_release |= (
            event.event in _HANDLED and not event.recovered and bool(snapshot) and snapshot.get("listing") is None
        )
        if name is None:
            continue
        known = found.last.get(name)
        if event.event == "unchanged":
            known = known or Handled("published", event.reason or "", None, snapshot.get("fingerprint"), None, None)
            found.last[name] = replace(known, stamp=snapshot.get("stamp"), listing=snapshot.get("listing"))
        elif event.event in _HANDLED:
            found.last[name] = Handled(
                _HANDLED[event.event],
                event.reason or "",
                event.version,
                snapshot.get("fingerprint"),
                snapshot.get("stamp"),
                snapshot.get("listing"),
            )
        if event.event == "published":
            found.publications.append(_publication(name, event, found.publications))
    return found


def _publication(name: str, event: Event, before: list[Publication]) -> Publication:
    """Return the publication that an event records; missing times are those of the publication before it."""
    earlier = before[-1] if before else Publication(name, 0, 0.0)
    published = dt.datetime.fromisoformat(event.time).timestamp() if event.time else earlier.published
    mtime_ns = int((event.snapshot or {}).get("mtime_ns") or earlier.mtime_ns)
    if mtime_ns > published * 1e9 + _CLOCK_TOLERANCE_NS:
        mtime_ns = int(published * 1e9)
    return Publication(name, mtime_ns, published)


class _RelativeNames:
    """Names of paths below a directory, after following links."""

    def __init__(self, watched: str | Path) -> None:
        self._root = real_path(watched)  # unlike Path.resolve, it accepts circular links
        self._folders: dict[str, str] = {}

    def name_of(self, path: str | None) -> str | None:
        """Return the name of a path below the directory, or None if it is elsewhere."""
        if path is None:
            return None
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = real_path(folder)
        place = self._folders[folder]
        if place == self._root:
            return name
        return f"{place[len(self._root) + 1 :]}/{name}" if place.startswith(f"{self._root}/") else None
