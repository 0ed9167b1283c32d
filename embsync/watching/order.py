"""The order of snapshots: by name, by time, or by both.

``auto`` is time with one exception: within a series of names (``day=9``, ``day=10``; anything with a date) the number
or date decides. A date does so at once; numbers do once they are known to grow with time, which is decided once, saved
to ``order.json``, and never revised: training an old day again must not make it the newest.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from embsync.config import WatchConfig
from embsync.errors import StoreError
from embsync.snapshots.natural_order import natural_key
from embsync.store import Store, layout
from embsync.store.durable import replace_file, storage_errors
from embsync.store.order import Decided, read_decided
from embsync.watching.discovery import Child
from embsync.watching.history import History, Publication
from embsync.watching.series import Position, numbers_follow_time, position

OrderBy = Literal["auto", "name", "mtime"]
Key = tuple[object, ...]

#: Contents newer by more than this count as newer than everything published; others may have been copied together.
_NEWER_NS = 3600 * 10**9


@dataclass(frozen=True)
class _Published:
    """A publication prepared for comparison: its key, and its position in a series where that decides."""

    name: str
    key: Key
    position: Position | None


class Order:
    """The order of one watched directory.

    Parameters
    ----------
    kind : str
    history : History
    children : sequence of Child
        The present children.
    decided : Decided or None
        The saved decision.
    damage : StoreError, optional
        Why the saved decision could not be read.

    Attributes
    ----------
    last_published : float
        Wall-clock time of the last publish from this directory, 0 before the first.
    """

    def __init__(
        self,
        kind: OrderBy,
        history: History,
        children: Sequence[Child],
        decided: Decided | None,
        damage: StoreError | None = None,
    ) -> None:
        self.damage = damage
        self._now = time.time()
        self._before = decided
        self.kind: OrderBy = kind
        if kind == "auto":
            decided = _decided(decided, history, children, self._now)
            self.kind = decided.order
        self.decided = decided
        self._series = frozenset(decided.series if decided is not None and self.kind == "auto" else ())
        self._published = sorted(
            (self._compared(one) for one in history.publications), key=lambda one: one.key, reverse=True
        )
        self._youngest = max((one.mtime_ns for one in history.publications), default=0)
        self.last_published = max((one.published for one in history.publications), default=0.0)

    def __str__(self) -> str:
        """Return the order in words."""
        if self.kind != "auto":
            return {"name": "by name", "mtime": "by time"}[self.kind]
        series = ", ".join(sorted(self._series))
        return "by time; by date where the name has one" + (f"; by number in {series}" if series else "")

    def save(self, store: Store) -> None:
        """Save a new decision in an existing store.

        Raises
        ------
        StoreError
            The store cannot be written.
        """
        if self.decided is not None and self.decided != self._before:
            with storage_errors(store.root):
                replace_file(store.root / layout.ORDER, msgspec.json.encode(self.decided) + b"\n")
            self._before = self.decided

    def published_after(self, child: Child) -> str | None:
        """Return a published snapshot that comes after a child, or None if there is none.

        The child's own earlier contents do not count: if the newest snapshot is overwritten, it is new.
        """
        mine = self._position(child.name, self._now)
        key = self._key(child.name, child.mtime_ns)
        for other in self._published:
            if other.name == child.name:
                continue
            theirs = other.position
            later = other.key > key
            if mine is not None and theirs is not None and mine.series == theirs.series and mine != theirs:
                later = theirs.numbers > mine.numbers
            if later:
                return other.name
        return None

    def is_newer(self, child: Child) -> bool:
        """Return whether a child's contents are newer than everything published, so that skipping it is reported."""
        return child.mtime_ns > self._youngest and (
            child.mtime_ns > self.last_published * 1e9 or child.mtime_ns - self._youngest > _NEWER_NS
        )

    def sorted(self, children: Iterable[Child]) -> list[Child]:
        """Return children in order; a member of a series never counts as newer than one with a higher number."""
        named = [(self._position(child.name, self._now), child) for child in children]
        ceilings: dict[str, int] = {}
        keys: dict[str, Key] = {}
        for place, child in sorted(named, key=lambda one: () if one[0] is None else one[0].numbers, reverse=True):
            mtime_ns = child.mtime_ns
            numbers = () if place is None else place.numbers
            if place is not None:
                mtime_ns = ceilings[place.series] = min(mtime_ns, ceilings.get(place.series, mtime_ns))
            name = natural_key(_last_part(child.name))
            keys[child.name] = (name,) if self.kind == "name" else (mtime_ns, numbers, name)
        return sorted((child for _, child in named), key=lambda child: keys[child.name])

    def _compared(self, one: Publication) -> _Published:
        return _Published(one.name, self._key(one.name, one.mtime_ns), self._position(one.name, one.published))

    def _key(self, name: str, mtime_ns: int) -> Key:
        named = natural_key(_last_part(name))
        return (named,) if self.kind == "name" else (mtime_ns, named)

    def _position(self, name: str, seen: float) -> Position | None:
        found = position(_last_part(name), seen) if self.kind == "auto" else None
        return found if found is not None and (found.dated or found.series in self._series) else None


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def order_of(store: Store, watch: WatchConfig, history: History, children: Sequence[Child]) -> Order:
    """Return the order of a watched directory; the caller saves it before acting on it.

    If ``order.json`` is damaged, the order is decided again from the journal, and :attr:`Order.damage` says so.
    """
    decided, damage = None, None
    if watch.order == "auto":
        try:
            decided = read_decided(store.root)
        except StoreError as error:
            damage = error
    return Order(watch.order, history, children, decided, damage)


def _decided(before: Decided | None, history: History, children: Sequence[Child], now: float) -> Decided:
    """Return the decision, extended by the series that are now known to follow time."""
    if before is None:
        before = Decided(order="name" if history.by_earlier_release else "auto")
    if before.order == "name":
        return before
    members, published = _members(history, children, now)
    named = sorted(
        series
        for series, times in members.items()
        if series not in before.series and numbers_follow_time(list(times.items()), new=series not in published)
    )
    return msgspec.structs.replace(before, series=[*before.series, *named]) if named else before


def _members(
    history: History, children: Sequence[Child], now: float
) -> tuple[dict[str, dict[tuple[int, ...], int]], set[str]]:
    """Return the members of each numbered series with the time each was first written, and the published series.

    For a published snapshot the first time counts, since writing it again says nothing about its number.
    """
    members: dict[str, dict[tuple[int, ...], int]] = {}
    published: set[str] = set()

    def add(name: str, mtime_ns: int, seen: float) -> str | None:
        place = position(_last_part(name), seen)
        if place is None or place.dated:
            return None
        members.setdefault(place.series, {}).setdefault(place.numbers, mtime_ns)
        return place.series

    for one in history.publications:
        published.add(add(one.name, one.mtime_ns, one.published) or "")
    for child in children:
        if child.state in {"ready", "waiting"} and child.mtime_ns > 0 and child.name not in history.last:
            add(child.name, child.mtime_ns, now)
    return members, published
