"""The contents of a store: its versions, the current one, the events of the journal, and damage."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

from embsync.errors import NotFoundError, StoreDamaged, StoreError
from embsync.file_hashes import mismatch
from embsync.invocation import Command, command
from embsync.manifest import Manifest
from embsync.store import layout
from embsync.store.durable import storage_errors
from embsync.store.journal import Event, Journal
from embsync.store.order import read_decided
from embsync.store.records import damaged_file
from embsync.store.removal import leftovers
from embsync.store.version_manifest import read

#: Events that publish a version.
PUBLISHES = ("published", "widened", "relabelled", "pulled")
#: Versions kept per night: the newest, and the one to roll back to if its labels are wrong.
_OF_A_NIGHT = 2
#: Events whose version is current after them.
MOVES = (*PUBLISHES, "rolled_back")


class StoreContents:
    """A store on disk, for inspection; consumers use :func:`embsync.open`.

    Parameters
    ----------
    root : path
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.versions = self.root / layout.VERSIONS
        self.journal = Journal(self.root / layout.JOURNAL)

    def require(self) -> None:
        """Raise NotFoundError unless there is a store, damaged or not."""
        with contextlib.suppress(StoreDamaged):
            layout.current_number(self.root)

    def current(self) -> int | None:
        """Return the current version's number, None before the first."""
        return layout.current_number(self.root)

    def numbers(self) -> list[int]:
        """Return the numbers of all published versions on disk, ascending."""
        return layout.version_numbers(self.versions)

    def next_number(self) -> int:
        """Return the number of the next version: the highest ever plus one, or the next one whose name is unused.

        A directory that only looks like a version, such as a copy named by date, does not count.

        Raises
        ------
        StoreError
            The highest number has been used.
        """
        known = [event.version or 0 for event in self.journal.events()]
        with contextlib.suppress(StoreError, NotFoundError):
            known.append(layout.named_number(self.root) or 0)
        number = max([0, *known, *layout.described_numbers(self.versions)]) + 1
        while os.path.lexists(self.versions / layout.version_name(number)):
            number += 1
        if not layout.is_version_name(layout.version_name(number)):
            raise StoreError("version numbers are exhausted", where=self.versions, found=number - 1)
        return number

    def path(self, number: int) -> Path:
        """Return the directory of a version that exists.

        Raises
        ------
        NotFoundError
            The version does not exist; the message lists those that do.
        """
        path = self.versions / layout.version_name(number)
        if not path.is_dir() or number in layout.unpublished_numbers(self.versions):
            there = ", ".join(map(str, self.numbers())) or "none"
            raise NotFoundError(f"no version {number}", where=self.root, found=f"versions {there}")
        return path

    def manifest(self, number: int) -> Manifest:
        """Return a version's manifest.

        Raises
        ------
        NotFoundError
            There is no such version.
        StoreDamaged
            Its manifest is missing or damaged.
        """
        return read(self.path(number))[1]

    def served(self) -> int | None:
        """Return the current version's number, from the journal if the link is damaged."""
        try:
            return self.current()
        except StoreDamaged:
            moves = [event.version for event in self.journal.events() if event.event in MOVES]
            numbers = self.numbers()
            return next((number for number in reversed(moves) if number in numbers), max(numbers, default=None))

    def repair_command(self, damaged: Collection[int]) -> Command:
        """Return the command that recovers from damage: a rollback to the newest intact version, or a new space."""
        for number in reversed(self.numbers()):
            with contextlib.suppress(StoreError, NotFoundError):
                if number not in damaged and self.is_intact(number):
                    return command("rollback", number, store=self.root)
        none = "no other version is intact: restore the file from a copy, or start a new space"
        published = (event.snapshot or {} for event in self.journal.events() if event.event == "published")
        paths = [path for path in (snapshot.get("path") for snapshot in published) if path and Path(path).exists()]
        if not paths:
            purpose = f"{none} with `accept --new-space`; the snapshots published so far"
            return command("history", purpose=purpose, store=self.root)
        return command("accept", paths[-1], "--new-space", purpose=none, store=self.root)

    def unpruned(self, keep: int) -> list[str]:
        """Return what prune should have deleted but could not: used by a reader, or owned by another user."""
        with storage_errors(self.versions):
            current = self.current()
            numbers = [number for number in self._beyond(keep) if number != current]
            return [*map(layout.version_name, numbers), *leftovers(self.versions)]

    def _beyond(self, keep: int) -> list[int]:
        """Return the numbers of versions beyond those to keep, ascending.

        The ``keep`` newest nights that have a manifest are kept, with the two newest versions of each: a relabelled
        version belongs to the night of the original.
        """
        numbers = self.numbers()
        described = sorted(layout.described_numbers(self.versions).intersection(numbers))
        if len(described) <= min(keep, _OF_A_NIGHT):
            return []
        nights: dict[int, list[int]] = {}
        for number in described:
            nights.setdefault(self._night(number), []).append(number)
        newest = sorted(nights.values(), key=max)[-keep:]
        kept = {number for night in newest for number in night[-_OF_A_NIGHT:]}
        oldest = min(map(max, newest)) if len(nights) > keep else 0
        return [number for number in numbers if number not in kept and (number in described or number < oldest)]

    def _night(self, number: int) -> int:
        try:
            return self.manifest(number).night
        except (StoreError, NotFoundError):
            return number

    def is_intact(self, number: int, path: str | None = None) -> bool:
        """Return whether a version, or one file of it, matches its manifest."""
        return not self.damaged_files(number, path)

    def damaged_files(
        self, number: int, path: str | None = None, stopped: Callable[[], bool] = lambda: False
    ) -> list[str]:
        """Hash a version's files, or one of them, and return a line for each that does not match the manifest.

        ``stopped`` is called before each block of ``HASHED_AT_ONCE`` bytes.
        """
        folder = self.path(number)
        problems = []
        for entry in self.manifest(number).files:
            if path in (None, entry.path) and (wrong := mismatch(folder, entry, stopped)) is not None:
                expected = "" if wrong.expected is None else f", expected {wrong.expected}"
                problems.append(f"{entry.path}: {wrong.found}{expected}")
        return problems

    def wrong_sizes(self, number: int) -> list[StoreDamaged]:
        """Return an error for each file of a version that is missing or has another size; none is hashed."""
        folder = self.path(number)
        sizes = ((entry, mismatch(folder, entry, hashed=False)) for entry in self.manifest(number).files)
        return [damaged_file(folder, entry, wrong) for entry, wrong in sizes if wrong is not None]

    def damage(self) -> list[StoreDamaged]:
        """Return the damage found without hashing: of the current version, journal or order, and missing manifests."""
        found = [
            StoreDamaged(
                "damaged line",
                where=f"{self.root / layout.JOURNAL}:{line.number}",
                found=line.problem,
                expected="an unchanged line",
                hint="delete it while no command and no daemon runs",
            )
            for line in self.journal.damaged()
        ]
        found += layout.without_manifest(self.root)
        for problems in (self._damage_of_order, self._damage_of_current):
            try:
                found += problems()
            except StoreDamaged as error:
                found.insert(0, error)
            except (StoreError, NotFoundError) as error:
                found.insert(0, StoreDamaged(error.what, where=error.where, found=error.found, hint=error.hint))
        return found

    def _damage_of_order(self) -> list[StoreDamaged]:
        read_decided(self.root)
        return []

    def _damage_of_current(self) -> list[StoreDamaged]:
        number = self.current()
        return [] if number is None else self.wrong_sizes(number)

    def events(self) -> list[Event]:
        """Return the journal's events in order, with lost ones restored from manifests.

        A damaged line must not make a published snapshot look new: the manifest of every published version that still
        exists names its snapshot.
        """
        events = list(self.journal.events())
        written = {event.version for event in events if event.event in PUBLISHES}
        for number in sorted(self._published(events) - written):
            with contextlib.suppress(StoreError, NotFoundError):
                later = (place for place, event in enumerate(events) if (event.version or 0) > number)
                events.insert(next(later, len(events)), self._event_from_manifest(number))
        return events

    def _published(self, events: list[Event]) -> set[int]:
        """Return the versions on disk that are known to have been current."""
        known = {number for event in events for number in (event.version, event.parent) if number is not None}
        with contextlib.suppress(StoreError, NotFoundError):
            current = self.current()
            if current is not None:
                lineage = layout.map_array(self.path(current) / layout.LINEAGE, ("<i8",), (None,))
                known |= {current, *map(int, lineage)}
        with contextlib.suppress(StoreError):  # versions cannot be listed
            return known & set(self.numbers()) if known else known
        return set()

    def _event_from_manifest(self, number: int) -> Event:
        manifest = self.manifest(number)
        snapshot: dict[str, str | None] = {
            "name": manifest.snapshot.name,
            "fingerprint": manifest.snapshot.fingerprint,
            "mtime_ns": manifest.snapshot.mtime_ns,
        }
        made = "published" if manifest.relabels is None else "relabelled"
        return Event(
            event="pulled" if (self.root / layout.SOURCE).exists() else made,
            version=number,
            parent=manifest.parent,
            snapshot=snapshot if manifest.relabels is None else None,
            space_id=manifest.space_id,
            recovered=True,
        )
