"""The watched directory against the journal: what was handled, what waits, what is next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from embsync.config import Config
from embsync.invocation import command
from embsync.snapshots import Signature
from embsync.store import Store
from embsync.store.journal import DamagedLine, Event
from embsync.watching.discovery import Child, Discovery, discover
from embsync.watching.history import Handled, history_of, snapshot_event
from embsync.watching.order import Order, order_of

State = Literal[
    "published", "refused", "failed", "next", "waiting", "not_permitted", "skipped", "changed", "not_a_snapshot"
]


@dataclass(frozen=True)
class Entry:
    """What one child of the watched directory is.

    Attributes
    ----------
    child : Child
    state : str
        published, refused, failed (handled before, and as it was then), next (to be handled), waiting (incomplete),
        not_permitted (to be read), skipped (others come after it that were published, or will be), changed (since it
        was handled, and skipped all the same), or not_a_snapshot.
    reason : str
    version : int or None
        Of a published one.
    fingerprint : str or None
        Contents handled last under this name.
    younger : bool
        Skipped or changed, although its contents are younger than all that was published.
    """

    child: Child
    state: State
    reason: str
    version: int | None = None
    fingerprint: str | None = None
    younger: bool = False


@dataclass(frozen=True)
class Survey:
    """Every child of the watched directory as an entry, in order, and the order, which whoever acts on it has kept."""

    entries: list[Entry]
    order: Order

    @property
    def queue(self) -> list[Entry]:
        """Entries to be handled, in order."""
        return [entry for entry in self.entries if entry.state == "next"]


def survey(store: Store, config: Config, found: Discovery | None = None) -> Survey:
    """Say of every child of ``watch.path`` what it is, in order.

    Parameters
    ----------
    store : Store
    config : Config
    found : Discovery, optional
        A look at the directory; default: one look now, without memory of earlier ones.
    """
    assert config.watch.path is not None
    if found is None:
        found = discover(config.watch.path, config.watch, config.snapshot, now=time.time())
    history = history_of(store.events(), config.watch.path)
    order = order_of(store, config.watch, history, found.children)
    damaged = store.journal.damaged()
    entries = [
        _entry_of_damage(child, damaged) or _entry(child, history.last.get(child.name), order, config)
        for child in order.sorted(found.children)
    ]
    if config.watch.backlog == "newest":
        entries = _only_newest(entries)
    return Survey(entries, order)


def _entry_of_damage(child: Child, damaged: Sequence[DamagedLine]) -> Entry | None:
    """Return the entry of a child whose stamp stands in a damaged line: it was handled as it is now."""
    stamp = None if child.stamp is None or child.state != "ready" else child.stamp.encode()
    line = next((line for line in damaged if stamp is not None and stamp in line.data), None)
    if line is None:
        return None
    return Entry(child, "skipped", f"handled before, as line {line.number} of the journal shows, which is damaged")


def _entry(child: Child, done: Handled | None, order: Order, config: Config) -> Entry:
    as_it_was = done is not None and done.listing is not None and done.listing == child.listing
    if child.state != "ready" and not (child.state == "not_permitted" and as_it_was):
        return Entry(child, child.state, child.reason)
    if done is not None and done.stamp == child.stamp:
        return Entry(child, done.outcome, done.reason, done.version, done.fingerprint)
    later = order.ahead_of(child)
    if later is None and child.state == "ready":
        reason = child.reason if done is None else "changed since it was handled"
        return Entry(child, "next", reason, fingerprint=None if done is None else done.fingerprint)
    if done is not None and as_it_was:  # moved, copied with its times, or closed to us since
        return Entry(child, done.outcome, done.reason, done.version, done.fingerprint)
    younger = order.is_younger(child)
    reason = f"{later} comes after it and was published"
    if done is not None:
        reason = f"changed since it was handled, but {reason}"
    if younger:
        reason += f", though it is younger; {_advice(child, order, config)}"
    elif done is not None:
        reason += f"; {_by_hand(child, config)}"
    return Entry(
        child,
        "skipped" if done is None else "changed",
        reason,
        fingerprint=None if done is None else done.fingerprint,
        younger=younger,
    )


def _advice(child: Child, order: Order, config: Config) -> str:
    by_hand = _by_hand(child, config)
    return by_hand if order.kind == "mtime" else f"watch.order: mtime takes the newest; {by_hand}"


def _by_hand(child: Child, config: Config) -> str:
    return str(command("sync", child.path, purpose="to publish it", store=Path(config.store.path).absolute()))


def _only_newest(entries: Sequence[Entry]) -> list[Entry]:
    """Skip all that is next but the last."""
    newest = next((entry for entry in reversed(entries) if entry.state == "next"), None)
    return [
        replace(entry, state="skipped", reason=f"{newest.child.name} is newer, and watch.backlog is newest")
        if newest is not None and entry is not newest and entry.state == "next"
        else entry
        for entry in entries
    ]


def set_aside(store: Store, entry: Entry, reason: str) -> None:
    """Journal an entry as failed without trying it again: it is not taken until it changes."""
    journal(store, entry, Event(event="failed", reason=reason), None)


def journal(store: Store, entry: Entry, event: Event, fingerprint: str | None) -> None:
    """Journal what became of an entry as it was found."""
    child = entry.child
    signature = Signature(child.stamp or "", child.listing or "", child.mtime_ns)
    snapshot = snapshot_event(child.path.name, child.path.absolute(), fingerprint, signature)
    store.create()
    with store.locked():
        store.journal.append(Event(event=event.event, reason=event.reason, error=event.error, snapshot=snapshot))
