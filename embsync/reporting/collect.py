"""Gathering the figures of a report from a version, its parent, the other kept versions and the journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embsync.dtypes import Array, Float64, Int64
from embsync.errors import EmbsyncError, NotFoundError, StoreError
from embsync.manifest import Manifest, RowCounts
from embsync.measurements import Moved, SideFitRecord
from embsync.progress import Progress, silent
from embsync.reader import Version, open_version
from embsync.reader.side import Side
from embsync.reporting.deliveries import deliveries
from embsync.reporting.figures import (
    CosineFigures,
    MapFigures,
    MovedItem,
    NamedItem,
    ReportFigures,
)
from embsync.reporting.history import version_history
from embsync.reporting.sampling import ReadRows, in_blocks
from embsync.reporting.space_map import axes, popular_rows, unit
from embsync.sides import NAMES, SideName, Sides
from embsync.similarity import row_cosines
from embsync.store.contents import StoreContents
from embsync.store.journal import Event

#: Number of neighbours shown of each item that moved.
NEIGHBOURS = 5
#: Number of items that moved most: as many as can be distinguished on a map.
MOVED = 8
_EVENTS = 20
#: Number of items on the map where more are read: at least this, and less than twice this.
_DOTS = 4000
#: Labels that name an item, in order of preference; otherwise the first label of strings.
_NAMES = ("title", "name", "label")


class OpenVersion(Protocol):
    """Pins a kept version by number."""

    def __call__(self, number: int, *, searched: bool = False) -> Version:
        """Pin the version; with ``searched``, its index will be searched."""


@dataclass(frozen=True)
class KeptVersions:
    """The kept versions of a store, and how they are opened.

    Attributes
    ----------
    contents : StoreContents
    numbers : callable
        Returns their numbers, ascending.
    open : OpenVersion
    """

    contents: StoreContents
    numbers: Callable[[], list[int]]
    open: OpenVersion

    @classmethod
    def of(cls, root: Path) -> KeptVersions:
        """Return the kept versions of a store on disk; their files are not hashed."""
        contents = StoreContents(root)

        def opened(number: int, *, searched: bool = False) -> Version:
            del searched
            return open_version(root, number, indexed=False)

        return cls(contents, contents.numbers, opened)


@dataclass
class _Collected:
    """The figures collected so far, and why others are missing."""

    version: Version
    kept: KeptVersions
    parent: Version | None = None
    missing: dict[str, str] = field(default_factory=dict)


def of_store(root: Path, number: int | None = None, progress: Progress = silent) -> ReportFigures:
    """Return the figures of a version, by default the current one; without versions, only events and deliveries.

    Raises
    ------
    NotFoundError
        There is no store, or no such version.
    StoreError
        The version is damaged.
    """
    contents = StoreContents(root)
    contents.require()
    if number is None and contents.current() is None:
        return ReportFigures(None, events=_last(list(contents.journal.events())), deliveries=deliveries(root))
    with open_version(root, number, indexed=False) as version:
        return of_version(version, progress)


def of_version(
    version: Version, progress: Progress = silent, kept: KeptVersions | None = None, *, vectors: bool = True
) -> ReportFigures:
    """Return the figures of an open version; its parent and other kept versions are opened temporarily.

    Parameters
    ----------
    version : Version
    progress : callable, optional
    kept : KeptVersions, optional
        How other versions of the store are opened.
    vectors : bool
        Whether to read vectors, for the distributions of cosines and the map.
    """
    collected = _Collected(version, kept or KeptVersions.of(version.path.parent.parent))
    progress("history", 0.0)
    figures = _recorded(collected)
    with contextlib.ExitStack() as opened:
        collected.parent = _open_parent(collected, opened)
        moved_ids = np.array([one.id for one in _moved_most(version.record)[:MOVED]])
        if vectors:
            figures = replace(figures, **_from_vectors(collected, moved_ids, progress))
        progress("neighbours", 0.8)
        figures = replace(figures, moved=_moved(collected, moved_ids))
    progress("page", 0.95)
    return figures


def _moved_most(record: Manifest) -> tuple[Moved, ...]:
    return () if record.drift is None else record.drift.items.moved_most


def _recorded(collected: _Collected) -> ReportFigures:
    """Return the figures from manifests and the journal."""
    record, contents = collected.version.record, collected.kept.contents
    events: list[Event] = []
    try:
        events = list(contents.journal.events())
    except StoreError as error:
        collected.missing["events"] = str(error)
    manifests, unreadable = _manifests(collected)
    current = None
    with contextlib.suppress(StoreError, NotFoundError):
        current = contents.current()
    return ReportFigures(
        manifest=record,
        current=current,
        parent=None if record.drift is None else record.drift.parent,
        checks=tuple(record.checks),
        history=version_history(manifests, events, unreadable),
        events=_last(events),
        deliveries=deliveries(contents.root),
        missing=collected.missing,
    )


def _from_vectors(collected: _Collected, moved_ids: Array, progress: Progress) -> dict[str, Any]:
    """Return the figures that are computed from vectors."""
    version, parent = collected.version, collected.parent
    progress("vectors", 0.2)
    popular, reason = popular_rows(version)
    reads = _SideReads(version, parent, NAMES.items, popular, version.items.rows(moved_ids))
    cosines = _cosines(collected, reads)
    progress("map", 0.5)
    return {
        "cosines": cosines,
        "map": _map(collected, reads, popular, reason, moved_ids),
        "singular_values": np.array(version.transform.maps.singular_values),
        "singular_values_before": None if parent is None else np.array(parent.transform.maps.singular_values),
    }


def _last(events: list[Event]) -> tuple[Event, ...]:
    return tuple(events[-_EVENTS:])


def _manifests(collected: _Collected) -> tuple[list[Manifest], tuple[int, ...]]:
    """Return the manifests of the kept versions, including this one's, and the numbers of the versions with damage."""
    found, damaged = {collected.version.number: collected.version.record}, []
    for number in collected.kept.numbers():
        if number not in found:
            try:
                found[number] = collected.kept.contents.manifest(number)
            except NotFoundError:  # pruned meanwhile
                continue
            except StoreError:
                damaged.append(number)
    return [found[number] for number in sorted(found)], tuple(damaged)


def _open_parent(collected: _Collected, opened: contextlib.ExitStack) -> Version | None:
    """Open the version that drift compares with, or record why there is none."""
    version = collected.version
    drift = version.record.drift
    if drift is None or drift.parent is None:
        why = (
            "This version is the first of its space: there is nothing to compare it with."
            if version.record.parent is None
            else "This version only changed the width of the space: its vectors are those of its parent."
        )
    else:
        try:
            parent = opened.enter_context(collected.kept.open(drift.parent, searched=True))
            _ = [(side.ids, side.vectors) for side in parent.sides], parent.transform  # maps them, or finds damage
        except NotFoundError:
            why = f"Version {drift.parent}, with which this one was compared, has been pruned."
        except StoreError as error:
            why = f"Version {drift.parent}, with which this one was compared, cannot be read: {error}"
        else:
            return parent
    collected.missing["parent"] = why
    return None


class _SideReads:
    """The rows of a side that a report reads from a version and its parent, each once."""

    def __init__(self, version: Version, parent: Version | None, name: SideName, *more: Int64) -> None:
        self.side = version.side(name)
        live = self.side.live_rows()
        self.sample = live[in_blocks(len(live), self.side.vectors.shape[1])]
        self.now = ReadRows.of(self.side, self.sample, *more)
        self.before: ReadRows | None = None
        self.common = np.empty(0, np.int64)
        self.common_before = np.empty(0, np.int64)
        if parent is not None:
            before = parent.side(name)
            self.common, self.common_before = _common(self.side, before, self.sample)
            extra = [before.rows(self.side.ids[rows]) for rows in more]
            self.before = ReadRows.of(before, self.common_before, *extra)


def _common(side: Side, before: Side, rows: Int64) -> tuple[Int64, Int64]:
    """Return those of the given live rows whose ids are live in both versions, and their rows in the earlier one."""
    old = before.rows(side.ids[rows])
    both = (old >= 0) & before.live[np.maximum(old, 0)]
    return rows[both], old[both]


def _cosines(collected: _Collected, items: _SideReads) -> Sides[CosineFigures] | None:
    version, parent = collected.version, collected.parent
    if parent is None:
        return None
    users = _SideReads(version, parent, "users") if version.users is not None and parent.users is not None else None
    record = version.record
    return Sides(items, users).map(partial(_cosines_of, version, parent), record.sides, record.alignment.sides)


def _cosines_of(
    version: Version, parent: Version, reads: _SideReads, counts: RowCounts, fit: SideFitRecord
) -> CosineFigures:
    assert reads.before is not None
    now, then = reads.now.at(reads.common), reads.before.at(reads.common_before)
    stable = row_cosines(then, now)
    raw = None
    maps, old_maps = version.transform.maps, parent.transform.maps
    if maps.invertible and old_maps.invertible and len(maps.items) == len(old_maps.items):
        name = reads.side.name
        raw = row_cosines(then @ old_maps.inverse(name), now @ maps.inverse(name))
        raw = raw[~np.isnan(raw)]
    return CosineFigures(counts.common, stable[~np.isnan(stable)], raw, fit.cosine_mismatched)


def _map(
    collected: _Collected,
    reads: _SideReads,
    popular: Int64,
    reason: str,
    moved_ids: Array,
) -> MapFigures | None:
    version = collected.version
    _, start = version.reference("start", "items")
    if len(start) < 3:
        collected.missing["map"] = "The space began with fewer than three items: there are no axes to draw them on."
        return None
    found, explained, extent = axes(unit(np.asarray(start, np.float64)))
    versions, trails = _trails(collected, reads, moved_ids, found)
    points = unit(reads.now.at(reads.sample[:: max(1, len(reads.sample) // _DOTS)])) @ found
    return MapFigures(
        axes=found,
        explained=explained,
        extent=extent,
        points=points[np.isfinite(points).all(axis=1)],
        popular=_named(version, popular),
        popular_points=unit(reads.now.at(popular)) @ found,
        popular_reason=reason,
        trail_versions=versions,
        trails=trails,
    )


def _trails(
    collected: _Collected,
    reads: _SideReads,
    moved_ids: Array,
    found: Float64,
) -> tuple[Int64, Float64]:
    """Return where the items that moved most were in each kept version of the space up to this one."""
    version, parent = collected.version, collected.parent
    columns: list[tuple[int, Float64]] = []
    for number in collected.kept.numbers() if len(moved_ids) else []:
        if number > version.number:
            break
        if number == version.number:
            vectors = reads.now.at(version.items.rows(moved_ids))
        elif parent is not None and number == parent.number and reads.before is not None:
            vectors = reads.before.at(parent.items.rows(moved_ids))
        else:
            try:
                with collected.kept.open(number) as other:
                    if other.space_id != version.space_id:
                        continue
                    vectors = other.items.lookup(moved_ids, "nan").astype(np.float64)
            except EmbsyncError:  # pruned meanwhile, or damaged, which the history reports
                continue
        columns.append((number, unit(vectors) @ found[: vectors.shape[1]]))
    numbers = np.array([number for number, _ in columns], np.int64)
    shape = (len(moved_ids), len(columns), 2)
    return numbers, np.stack([places for _, places in columns], axis=1) if columns else np.empty(shape)


def _moved(collected: _Collected, ids: Array) -> tuple[MovedItem, ...]:
    """Return the items that moved most, with their neighbours in both versions as far as indexes can be searched."""
    version, parent = collected.version, collected.parent
    if len(ids) == 0:
        return ()
    cosines = [one.cosine for one in _moved_most(version.record)]
    nothing: list[tuple[NamedItem, ...]] = [()] * len(ids)
    before = after = nothing
    try:
        after = _nearest(version, ids)
        before = nothing if parent is None else _nearest(parent, ids)
    except EmbsyncError as error:
        collected.missing["neighbours"] = f"Neighbours cannot be searched for: {error}"
    names = _named(version, version.items.rows(ids))
    return tuple(
        MovedItem(item, cosine, old, new, len({one.id for one in old} & {one.id for one in new}))
        for item, cosine, old, new in zip(names, cosines, before, after, strict=False)
    )


def _nearest(version: Version, ids: Array) -> list[tuple[NamedItem, ...]]:
    found, scores = version.search_by_item(ids, NEIGHBOURS, missing="nan")
    labels = _labels(version, found.ravel().tolist())
    rows = []
    for names, values in zip(found.tolist(), scores, strict=True):
        hits = [one for one, score in zip(names, values, strict=True) if np.isfinite(score)]
        rows.append(tuple(NamedItem(one, labels.get(one)) for one in hits))
    return rows


def _named(version: Version, rows: Int64) -> tuple[NamedItem, ...]:
    names = version.items.names(rows).tolist()
    labels = _labels(version, names)
    return tuple(NamedItem(name, labels.get(name)) for name in names)


def _labels(version: Version, ids: list[Any]) -> dict[Any, str]:
    """Return the label that names each item, by id; items without one are left out."""
    strings = [label.name for label in version.record.labels if label.kind == "string"]
    chosen = next((name for wanted in _NAMES for name in strings if name.lower() == wanted), next(iter(strings), None))
    if chosen is None or not ids:
        return {}
    return dict(_pairs(ids, version.labels_of(ids, [chosen])[chosen]))


def _pairs(ids: list[Any], values: list[Any]) -> Iterator[tuple[Any, str]]:
    for one, value in zip(ids, values, strict=True):
        if value is not None:
            yield one, str(value)
