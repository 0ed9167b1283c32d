"""The store as a whole: which version is current, and the few ways that changes."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from embsync.errors import NotFoundError, OutOfSpace, StoreDamaged, StoreError
from embsync.store import layout
from embsync.store.durable import (
    Staging,
    hash_file,
    remove_version,
    storage_errors,
    sweep,
    switch_link,
    sync_directory,
)
from embsync.store.journal import Event, Journal
from embsync.store.locks import exclusive
from embsync.store.manifest import Manifest, decode, encode, hash_line, read

#: Room kept free beyond what a version needs, for the journal and the file system's own tables.
_RESERVE_BYTES = 4 * 2**20
_PUBLISHES = ("published", "widened")
#: Events whose version is current after them.
_MOVES = (*_PUBLISHES, "rolled_back")


class Store:
    """A store on disk, for those who change it; consumers use :func:`embsync.open`.

    Constructing one touches nothing; :meth:`create` makes the directories.

    Parameters
    ----------
    root : path
    wait : float
        Seconds to wait for the lock.
    """

    def __init__(self, root: str | Path, wait: float = 60.0) -> None:
        self.root = Path(root).absolute()
        self.versions = self.root / layout.VERSIONS
        self.journal = Journal(self.root / layout.JOURNAL)
        self._wait = wait

    def create(self) -> None:
        """Make the directories of an empty store where there is none."""
        if self.versions.is_dir():
            return
        with storage_errors(self.root):
            if self.root.is_dir() and any(self.root.iterdir()):
                raise StoreError("the directory is not a store", where=self.root, found="other files",
                                 expected="an empty directory or a store", hint="name another directory")
            self.versions.mkdir(parents=True)
            sync_directory(self.root)

    def require(self) -> None:
        """Raise NotFoundError unless there is a store, damaged or not."""
        with contextlib.suppress(StoreDamaged):
            layout.current_number(self.root)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's lock, with leftovers of dead processes swept and the journal made whole."""
        with exclusive(self.root / layout.LOCK, self._wait, "the store"):
            with storage_errors(self.root):
                sweep(self.root, self.versions)
                self._recover()
            yield

    def current(self) -> int | None:
        """Return the current version's number, None before the first."""
        return layout.current_number(self.root)

    def numbers(self) -> list[int]:
        """Return the numbers of all versions on disk, ascending."""
        with storage_errors(self.versions):
            return layout.version_numbers(self.versions)

    def next_number(self) -> int:
        """Return the number of the next version: the highest ever plus one."""
        journaled = (event.version or 0 for event in self.journal.events())
        return max(max(journaled, default=0), max(self.numbers(), default=0)) + 1

    def path(self, number: int) -> Path:
        """Return the directory of a version that exists.

        Raises
        ------
        NotFoundError
            It does not; the message names those that do.
        """
        path = self.versions / layout.version_name(number)
        if not path.is_dir():
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

    def stage(self, needed_bytes: int) -> Staging:
        """Return a staging directory, when there is room for ``needed_bytes`` in it.

        Raises
        ------
        OutOfSpace
            Before anything is written.
        """
        with storage_errors(self.versions):
            free = os.statvfs(self.versions)
            available = free.f_bavail * free.f_frsize
            if available < needed_bytes + _RESERVE_BYTES:
                raise OutOfSpace("too little space for a version", where=self.root,
                                 found=f"{available:,} bytes free", expected=f"{needed_bytes + _RESERVE_BYTES:,} bytes",
                                 hint="free space or lower store.keep_versions, then run embsync prune")
            return Staging(self.versions)

    def publish(self, staging: Staging, manifest: Manifest, event: Event) -> None:
        """Make a sealed staging directory the current version; the lock must be held."""
        with storage_errors(self.root):
            _describe(staging, manifest)
            name = layout.version_name(manifest.version)
            staging.move(self.versions / name)
            before = self.served()
            try:
                self._point_to(manifest.version)
                self.journal.append(event)
            except OSError:
                if self.served() != before:
                    self._point_to(before)
                raise
            staging.keep()

    def _point_to(self, number: int | None) -> None:
        """Switch ``current`` to a version, or take it away in a store that had none."""
        link = self.root / layout.CURRENT
        if number is not None:
            switch_link(link, f"{layout.VERSIONS}/{layout.version_name(number)}")
        else:
            link.unlink(missing_ok=True)

    def rollback(self, number: int | None) -> tuple[int, int]:
        """Move ``current`` to an older version, its parent by default; return where from and where to."""
        with self.locked():
            before = self.served()
            if before is None:
                raise NotFoundError("nothing to roll back", where=self.root, found="a store without versions")
            target = self._last_whole(before) if number is None else number
            self._require_whole(target)
            with storage_errors(self.root):
                self._point_to(target)
                self.journal.append(Event(event="rolled_back", version=target, parent=before))
            return before, target

    def served(self) -> int | None:
        """Return the current version's number, from the journal where the link does not tell."""
        try:
            return self.current()
        except StoreDamaged:
            moves = [event.version for event in self.journal.events() if event.event in _MOVES]
            numbers = self.numbers()
            return next((number for number in reversed(moves) if number in numbers), max(numbers, default=None))

    def _last_whole(self, number: int) -> int:
        """Return where to roll back to: the parent, or what is whole of the versions before it."""
        damage = []
        for other in self._older(number):
            try:
                self._require_whole(other)
            except StoreError as error:
                damage.append(f"{other}: {error.found}")
            else:
                return other
        if damage:
            raise StoreDamaged("no older version is whole", where=self.root, found="; ".join(damage)[:300],
                               hint=f"embsync rollback N --store {shlex.quote(str(self.root))} takes any version that "
                                    "is whole; embsync accept SNAPSHOT --new-space begins anew")
        raise NotFoundError("nothing to roll back to", where=self.root, found=f"version {number}, the first")

    def _older(self, number: int) -> list[int]:
        """Return the versions before one, the parent first; with a damaged link, the version itself before them."""
        older = [other for other in reversed(self.numbers()) if other < number]
        with contextlib.suppress(StoreDamaged):
            self.current()
            with contextlib.suppress(StoreError, NotFoundError):
                parent = self.manifest(number).parent
                older = older if parent is None else [other for other in older if other <= parent]
            return older
        return [number, *older]

    def _require_whole(self, number: int) -> None:
        damaged = self.damaged_files(number)
        if damaged:
            raise StoreDamaged(f"version {number} is damaged", where=self.path(number), found=", ".join(damaged[:3]),
                               hint="roll back to another version")

    def prune(self, keep: int) -> tuple[list[int], list[int]]:
        """Delete all but the ``keep`` highest numbers and the current version; the lock must be held.

        Returns
        -------
        pruned, in_use : lists of int
            Deleted, and kept because a reader holds them.
        """
        current = self.current()
        doomed = [number for number in self.numbers()[:-keep] if number != current]
        pruned: list[int] = []
        in_use: list[int] = []
        with storage_errors(self.versions):
            for number in doomed:
                (pruned if remove_version(self.path(number)) else in_use).append(number)
            for number in pruned:
                self.journal.append(Event(event="pruned", version=number))
        return pruned, in_use

    def is_whole(self, number: int, path: str | None = None) -> bool:
        """Return whether a version, or one file of it, is as its manifest says."""
        return not self.damaged_files(number, path)

    def damaged_files(self, number: int, path: str | None = None) -> list[str]:
        """Re-hash a version's files, or one of them; return a line for each that is not as its manifest says."""
        folder = self.path(number)
        problems = []
        for entry in self.manifest(number).files:
            if path not in (None, entry.path):
                continue
            try:
                size, digest = hash_file(folder / entry.path)
            except OSError as error:
                problems.append(f"{entry.path}: {error.strerror}")
                continue
            if size != entry.bytes:
                problems.append(f"{entry.path}: {size} bytes, expected {entry.bytes}")
            elif digest != entry.sha256:
                problems.append(f"{entry.path}: sha256 {digest[:12]}…, expected {entry.sha256[:12]}…")
        return problems

    def damage(self) -> list[StoreDamaged]:
        """Return what is damaged of ``current``, the manifest it leads to, and the journal."""
        found = [StoreDamaged("damaged line, passed over", where=f"{self.root / layout.JOURNAL}:{line.number}",
                              found=line.problem, hint="it can be deleted while no command and no daemon runs")
                 for line in self.journal.damaged()]
        try:
            number = self.current()
            if number is not None:
                self.manifest(number)
        except StoreDamaged as error:
            found.insert(0, error)
        except StoreError as error:
            found.insert(0, StoreDamaged(error.what, where=error.where, found=error.found, hint=error.hint))
        return found

    def events(self) -> list[Event]:
        """Return the journal's events, and in their places those that only manifests still tell.

        A damaged line makes no published snapshot a new one: every version that is known to have been published and
        is still there says by its manifest what it was made from.
        """
        events = list(self.journal.events())
        told = {event.version for event in events if event.event in _PUBLISHES}
        for number in sorted(self._published(events) - told):
            with contextlib.suppress(StoreError, NotFoundError):
                later = (place for place, event in enumerate(events) if (event.version or 0) > number)
                events.insert(next(later, len(events)), self._told_by_manifest(number))
        return events

    def _published(self, events: list[Event]) -> set[int]:
        """Return the versions on disk that were current at some time, as far as anything tells."""
        known = {number for event in events for number in (event.version, event.parent) if number is not None}
        with contextlib.suppress(StoreError, NotFoundError):
            current = self.current()
            if current is not None:
                lineage = layout.map_array(self.path(current) / layout.LINEAGE, ("<i8",), (None,))
                known |= {current, *map(int, lineage)}
        return known & set(self.numbers()) if known else known

    def _told_by_manifest(self, number: int) -> Event:
        manifest = self.manifest(number)
        snapshot: dict[str, str | None] = {
            "name": manifest.snapshot.name, "fingerprint": manifest.snapshot.fingerprint,
        }
        return Event(event="published", version=number, parent=manifest.parent, snapshot=snapshot,
                     space_id=manifest.space_id, recovered=True)

    def _recover(self) -> None:
        """Journal a version that was switched to just before its publisher died."""
        with contextlib.suppress(StoreDamaged, NotFoundError):  # whoever reads it names the damage
            number = self.current()
            if number is not None and all(event.version != number for event in self.journal.events()):
                self.journal.append(self._told_by_manifest(number))


def _describe(staging: Staging, manifest: Manifest) -> None:
    """Write the manifest and its hash; both are read back, the manifest as what a reader will take it for."""
    data = encode(manifest)
    decode(data, staging.path / layout.MANIFEST)
    for name, content in ((layout.MANIFEST, data), (layout.MANIFEST_HASH, hash_line(data))):
        with staging.stream(name) as write:
            write(content)
