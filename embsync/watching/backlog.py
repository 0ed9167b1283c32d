"""The watched directory compared with the journal: what was handled, what is waiting, what is next."""

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

EntryState = Literal[
    "published", "refused", "failed", "next", "waiting", "not_permitted", "skipped", "changed", "not_a_snapshot"
]


@dataclass(frozen=True)
class Entry:
    """The state of one child of the watched directory.

    Attributes
    ----------
    child : Child
    state : str
        published, refused, failed (handled before and unchanged since), next (to be handled), waiting (incomplete),
        not_permitted (cannot be read), skipped (a later one was or will be published), changed (since it was handled,
        but skipped for the same reason), or not_a_snapshot.
    reason : str
    version : int or None
        The version published from it.
    fingerprint : str or None
        Fingerprint of the contents last handled under this name.
    passed_over : bool
        Skipped or changed, although its contents are newer than everything published.
    """

    child: Child
    state: EntryState
    reason: str
    version: int | None = None
    fingerprint: str | None = None
    passed_over: bool = False


@dataclass(frozen=True)
class Survey:
    """Every child of the watched directory, in order, and the order itself, which the caller saves before acting."""

    entries: list[Entry]
    order: Order

    @property
    def queue(self) -> list[Entry]:
        """The entries to be handled, in order."""
        return [entry for entry in self.entries if entry.state == "next"]


def survey(store: Store, config: Config, found: Discovery | None = None) -> Survey:
    """Return the state of every child of ``watch.path``, in order.

    Parameters
    ----------
    store : Store
    config : Config
    found : Discovery, optional
        A scan of the directory; by default a single scan is made, without memory of earlier ones.
    """
    assert config.watch.path is not None
    if found is None:
        found = discover(config.watch.path, config.watch, config.snapshot, now=time.time())
    history = history_of(store.events(), config.watch.path)
    order = order_of(store, config.watch, history, found.children)
    damaged = store.journal.damaged()
    entries = [
        _from_damaged_line(child, damaged) or _entry(child, history.last.get(child.name), order, config)
        for child in order.sorted(found.children)
    ]
    if config.watch.backlog == "newest":
        entries = _only_newest(entries)
    return Survey(entries, order)


def _from_damaged_line(child: Child, damaged: Sequence[DamagedLine]) -> Entry | None:
    """Return the entry of a child whose stamp occurs in a damaged line of the journal: it was handled in this state."""
    stamp = None if child.stamp is None or child.state != "ready" else child.stamp.encode()
    line = next((line for line in damaged if stamp is not None and stamp in line.data), None)
    if line is None:
        return None
    return Entry(child, "skipped", f"handled before, according to line {line.number} of the journal, which is damaged")


def _entry(child: Child, done: Handled | None, order: Order, config: Config) -> Entry:
    unchanged = done is not None and done.listing is not None and done.listing == child.listing
    if child.state != "ready" and not (child.state == "not_permitted" and unchanged):
        return Entry(child, child.state, child.reason)
    if done is not None and done.stamp == child.stamp:
        return Entry(child, done.outcome, done.reason, done.version, done.fingerprint)
    later = order.published_after(child)
    if later is None and child.state == "ready":
        reason = child.reason if done is None else "changed since it was handled"
        return Entry(child, "next", reason, fingerprint=None if done is None else done.fingerprint)
    if done is not None and unchanged:  # moved, copied with its times, or made unreadable since
        return Entry(child, done.outcome, done.reason, done.version, done.fingerprint)
    passed_over = order.is_newer(child)
    reason = f"{later} comes after it and was published"
    if done is not None:
        reason = f"changed since it was handled, but {reason}"
    if passed_over:
        reason += f", although it is newer; {_advice(child, order, config)}"
    elif done is not None:
        reason += f"; {_by_hand(child, config)}"
    return Entry(
        child,
        "skipped" if done is None else "changed",
        reason,
        fingerprint=None if done is None else done.fingerprint,
        passed_over=passed_over,
    )


def _advice(child: Child, order: Order, config: Config) -> str:
    by_hand = _by_hand(child, config)
    return by_hand if order.kind == "mtime" else f"watch.order: mtime takes the newest; {by_hand}"


def _by_hand(child: Child, config: Config) -> str:
    return str(command("sync", child.path, purpose="to publish it", store=Path(config.store.path).absolute()))


def _only_newest(entries: Sequence[Entry]) -> list[Entry]:
    """Skip every entry that is next, except the last."""
    newest = next((entry for entry in reversed(entries) if entry.state == "next"), None)
    return [
        replace(entry, state="skipped", reason=f"{newest.child.name} is newer, and watch.backlog is newest")
        if newest is not None and entry is not newest and entry.state == "next"
        else entry
        for entry in entries
    ]


def set_aside(store: Store, entry: Entry, reason: str) -> None:
    """Journal an entry as failed, so that it is not tried again until it changes."""
    journal(store, entry, Event(event="failed", reason=reason), None)


def journal(store: Store, entry: Entry, event: Event, fingerprint: str | None) -> None:
    """Journal an event about an entry, with the state in which it was found."""
    child = entry.child
    signature = Signature(child.stamp or "", child.listing or "", child.mtime_ns)
    snapshot = snapshot_event(child.path.name, child.path.absolute(), fingerprint, signature)
    store.create()
    with store.locked():
        store.journal.append(Event(event=event.event, reason=event.reason, error=event.error, snapshot=snapshot))
