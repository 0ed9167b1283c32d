"""The store as a whole: which version is current, and the operations that change it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import msgspec

from embsync.errors import NotFoundError, OutOfSpace, StoreDamaged, StoreError
from embsync.invocation import Command, command
from embsync.manifest import Manifest, encode, mismatch
from embsync.store import layout
from embsync.store.critical import uninterrupted
from embsync.store.durable import (
    FULL,
    NotTakenBack,
    make_root,
    remove_file,
    remove_link,
    replace_file,
    storage_errors,
    switch_link,
    sync_directory,
    taking_effect,
)
from embsync.store.journal import Event, Journal, NotJournaled
from embsync.store.locks import exclusive
from embsync.store.modes import make_directory
from embsync.store.order import read_decided
from embsync.store.records import read_struct
from embsync.store.removal import delete, leftovers, remove_unpublished, retire_version, retired_numbers, sweep
from embsync.store.staging import Staging
from embsync.store.version_manifest import decode, hash_line, read

#: Room kept free beyond what a version needs, for the journal and the file system's own tables.
_RESERVE_BYTES = 4 * 2**20
#: Stands for a ``current`` that is a file or a directory.
_NO_LINK = "no link"
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
                raise StoreError(
                    "the directory is not a store",
                    where=self.root,
                    found="other files",
                    expected="an empty directory or a store",
                    hint="name another directory",
                )
            make_root(self.root)
            with contextlib.suppress(FileExistsError):  # by somebody else, this moment
                make_directory(self.versions)
            sync_directory(self.root)

    def require(self) -> None:
        """Raise NotFoundError unless there is a store, damaged or not."""
        with contextlib.suppress(StoreDamaged):
            layout.current_number(self.root)

    @contextlib.contextmanager
    def locked(self, *, even_when_full: bool = False) -> Iterator[None]:
        """Hold the store's lock, with leftovers of dead processes swept and the journal made whole.

        Parameters
        ----------
        even_when_full : bool
            Whether to go on where the journal cannot be made whole for lack of space; nothing may be switched then.
        """
        with exclusive(self.root / layout.LOCK, self._wait, "the store"):
            with storage_errors(self.root), uninterrupted():
                self._sweep()
                try:
                    self._recover()
                except OSError as error:
                    if not (even_when_full and error.errno in FULL):
                        raise
            yield

    def current(self) -> int | None:
        """Return the current version's number, None before the first."""
        return layout.current_number(self.root)

    def numbers(self) -> list[int]:
        """Return the numbers of all published versions on disk, ascending."""
        return layout.version_numbers(self.versions)

    def next_number(self) -> int:
        """Return the number of the next version: the highest ever plus one, or the next that no name is in the way of.

        A directory that only looks like a version's, such as a copy under the date, does not count.

        Raises
        ------
        StoreError
            The highest ever was the last that a name can hold.
        """
        known = [event.version or 0 for event in self.journal.events()]
        with contextlib.suppress(StoreError, NotFoundError):
            known.append(layout.named_number(self.root) or 0)
        number = max([0, *known, *layout.described_numbers(self.versions)]) + 1
        while os.path.lexists(self.versions / layout.version_name(number)):
            number += 1
        if not layout.is_version_name(layout.version_name(number)):
            raise StoreError("no number is left for a version", where=self.versions, found=number - 1)
        return number

    def path(self, number: int) -> Path:
        """Return the directory of a version that exists.

        Raises
        ------
        NotFoundError
            It does not; the message names those that do.
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

    def stage(self, needed_bytes: int) -> Staging:
        """Return a staging directory, when there is room for ``needed_bytes`` in it.

        Raises
        ------
        OutOfSpace
            Before anything is written.
        """
        self.require_room(needed_bytes)
        with storage_errors(self.versions):
            return Staging(self.versions)

    def require_room(self, needed_bytes: int) -> None:
        """Raise OutOfSpace unless there is room for a version of ``needed_bytes``."""
        with storage_errors(self.versions):
            free = os.statvfs(self.versions)
        available, needed = free.f_bavail * free.f_frsize, needed_bytes + _RESERVE_BYTES
        if available < needed:
            raise OutOfSpace(
                "too little space for a version",
                where=self.root,
                found=f"{available:,} bytes free",
                expected=f"{needed:,} bytes",
                hint=command("prune", purpose="free space, or lower store.keep_versions and prune", store=self.root),
            )

    def publish(self, staging: Staging, manifest: Manifest, event: Event) -> None:
        """Make a sealed staging directory the current version; the lock must be held.

        The commit point is the rename of ``current``. The version carries its line for the journal along, so that
        whoever takes the lock next ends what was begun: a version with that line is finished where it is current, and
        removed where it is not. After the commit point only what is known not to be current is removed.
        """
        name = layout.version_name(manifest.version)
        with storage_errors(self.root), uninterrupted():
            _describe(staging, manifest)
            replace_file(staging.path / layout.PUBLISHING, msgspec.json.encode(event))
            staging.move(self.versions / name)
            staging.keep()
            before = _link(self.root)
            try:
                self._point_to(manifest.version)
                self.journal.append(event)
            except NotTakenBack as error:
                raise self._unfinished(manifest.version, error) from error
            except BaseException as error:
                self._take_back(manifest.version, before, error)
                raise
            with contextlib.suppress(OSError):  # whoever takes the lock next sees that it is journaled
                remove_file(self.versions / name / layout.PUBLISHING)

    def _take_back(self, number: int, before: str | None, error: BaseException) -> None:
        """Have ``current`` name what it named before, and remove a version, if the first is certain."""
        link = self.root / layout.CURRENT
        try:
            if _link(self.root) != before:
                if before is None:
                    remove_link(link)
                elif before == _NO_LINK:
                    raise OSError(errno.ENOTSUP, "what was there is replaced for good", str(link))
                else:
                    switch_link(link, before)
            remove_unpublished(self.versions / layout.version_name(number))
        except OSError as second:
            if layout.named_number(self.root) == number:
                raise self._unfinished(number, second) from error

    def _unfinished(self, number: int, error: Exception) -> StoreError:
        return NotJournaled(
            f"version {number} is current, but its publishing could not be completed",
            where=self.root,
            found=str(error),
            hint=command("prune", store=self.root, purpose="any command that changes the store completes it, such as"),
        )

    def _point_to(self, number: int) -> None:
        """Switch ``current`` to a version."""
        switch_link(self.root / layout.CURRENT, f"{layout.VERSIONS}/{layout.version_name(number)}")

    def rollback(self, number: int | None) -> tuple[int, int]:
        """Move ``current`` to an older version, its parent by default; return where from and where to.

        Raises
        ------
        NotFoundError
            There is no such version, or none before.
        StoreDamaged
            It is damaged.
        NotJournaled
            ``current`` was moved, but the journal does not tell.
        """
        with self.locked():
            before = self.served()
            if before is None:
                self.current()  # raises where versions are gone that there were
                raise NotFoundError("nothing to roll back", where=self.root, found="a store without versions")
            target = self._last_whole(before) if number is None else number
            self._require_whole(target)
            if _link(self.root) == _NO_LINK and (self.root / layout.CURRENT).is_dir():
                layout.named_number(self.root)  # a rename replaces no directory: the error says what to do
            effect = f"rolled back from version {before} to version {target}"
            with uninterrupted(), storage_errors(self.root):
                with taking_effect(effect, lambda: layout.named_number(self.root) == target, self.root):
                    self._point_to(target)
                self.journal.tell(Event(event="rolled_back", version=target, parent=before), effect)
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
            raise StoreDamaged(
                "no older version is intact",
                where=self.root,
                found="; ".join(damage)[:300],
                hint=self.way_out(set(self._older(number))),
            )
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
            raise StoreDamaged(
                f"version {number} is damaged",
                where=self.path(number),
                found=", ".join(damaged[:3]),
                hint=command("rollback", purpose="to go back to a whole version", store=self.root),
            )

    def way_out(self, damaged: Collection[int]) -> Command:
        """Return the command that leads out of damage: to the newest other version that is whole, or to a new space."""
        for number in reversed(self.numbers()):
            with contextlib.suppress(StoreError, NotFoundError):
                if number not in damaged and self.is_whole(number):
                    return command("rollback", number, store=self.root)
        none = "no other version is whole: restore the file from a copy, or start a new space"
        published = (event.snapshot or {} for event in self.journal.events() if event.event == "published")
        paths = [path for path in (snapshot.get("path") for snapshot in published) if path and Path(path).exists()]
        if not paths:
            return command("accept", "--help", purpose=f"{none} from a snapshot", store=self.root)
        return command("accept", paths[-1], "--new-space", purpose=none, store=self.root)

    def prune(self, keep: int) -> tuple[list[int], list[int]]:
        """Delete all below the ``keep`` highest numbers but the current version; the lock must be held.

        What has no manifest does not count as kept: it may be no version at all.

        Returns
        -------
        pruned, in_use : lists of int
            Deleted, and kept because a reader holds them.
        """
        current = self.current()
        doomed = [number for number in self._beyond(keep) if number != current]
        pruned: list[int] = []
        in_use: list[int] = []
        with storage_errors(self.versions):
            if doomed:
                sync_directory(self.root)  # what current names may not be on the disk yet
            for number in doomed:
                with uninterrupted(), contextlib.suppress(PermissionError):  # another user's: see unpruned
                    retired = retire_version(self.path(number))
                    if retired is None:
                        in_use.append(number)
                        continue
                    pruned.append(number)
                    self._tell_pruned([Event(event="pruned", version=number)], partial(delete, retired))
        return pruned, in_use

    def unpruned(self, keep: int) -> list[str]:
        """Return what prune would delete and has not: in use by a reader, or another user's to delete."""
        with storage_errors(self.versions):
            current = self.current()
            numbers = [number for number in self._beyond(keep) if number != current]
            return [*map(layout.version_name, numbers), *leftovers(self.versions)]

    def _beyond(self, keep: int) -> list[int]:
        """Return the numbers below the ``keep`` highest of versions that have a manifest, ascending."""
        numbers = self.numbers()
        described = layout.described_numbers(self.versions).intersection(numbers)
        if len(described) <= keep:
            return []
        return [number for number in numbers if number < sorted(described)[-keep]]

    def _tell_pruned(self, events: list[Event], delete: Callable[[], object]) -> None:
        """Journal what was pruned, then delete it; on a full disk the other way round, as deleting makes room."""
        untold = list(events)
        try:
            while untold:
                self.journal.append(untold[0])
                del untold[0]
        except OSError as error:
            if error.errno not in FULL:
                raise
        delete()
        for event in untold:
            self.journal.append(event)

    def is_whole(self, number: int, path: str | None = None) -> bool:
        """Return whether a version, or one file of it, is as its manifest says."""
        return not self.damaged_files(number, path)

    def damaged_files(self, number: int, path: str | None = None) -> list[str]:
        """Re-hash a version's files, or one of them; return a line for each that is not as its manifest says."""
        folder = self.path(number)
        problems = []
        for entry in self.manifest(number).files:
            if path in (None, entry.path) and (wrong := mismatch(folder, entry)) is not None:
                expected = "" if wrong.expected is None else f", expected {wrong.expected}"
                problems.append(f"{entry.path}: {wrong.found}{expected}")
        return problems

    def damage(self) -> list[StoreDamaged]:
        """Return what is damaged of ``current``, the manifest it leads to, the journal, and the decided order.

        Also versions that have no manifest.
        """
        found = [
            StoreDamaged(
                "damaged line",
                where=f"{self.root / layout.JOURNAL}:{line.number}",
                found=line.problem,
                expected="a line as it was written",
                hint="it can be deleted while no command and no daemon runs",
            )
            for line in self.journal.damaged()
        ]
        found += layout.without_manifest(self.root)
        for record in (partial(read_decided, self.root), self._read_current):
            try:
                record()
            except StoreDamaged as error:
                found.insert(0, error)
            except (StoreError, NotFoundError) as error:
                found.insert(0, StoreDamaged(error.what, where=error.where, found=error.found, hint=error.hint))
        return found

    def _read_current(self) -> Manifest | None:
        number = self.current()
        return None if number is None else self.manifest(number)

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
        with contextlib.suppress(StoreError):  # versions that cannot be listed tell nothing
            return known & set(self.numbers()) if known else known
        return set()

    def _told_by_manifest(self, number: int) -> Event:
        manifest = self.manifest(number)
        snapshot: dict[str, str | None] = {
            "name": manifest.snapshot.name,
            "fingerprint": manifest.snapshot.fingerprint,
            "mtime_ns": manifest.snapshot.mtime_ns,
        }
        return Event(
            event="published",
            version=number,
            parent=manifest.parent,
            snapshot=snapshot,
            space_id=manifest.space_id,
            recovered=True,
        )

    def _sweep(self) -> None:
        """Remove what dead processes left, and journal what they pruned."""
        retired = retired_numbers(self.versions)
        told = {event.version for event in self.journal.events() if event.event == "pruned"} if retired else set()
        untold = [Event(event="pruned", version=number, recovered=True) for number in retired if number not in told]
        self._tell_pruned(untold, lambda: sweep(self.root, self.versions))

    def _recover(self) -> None:
        """End the publishing of dead processes, and have the journal know what is current."""
        marked, events = self._marked(), list(self.journal.events())
        published = {event.version for event in events if event.event in _PUBLISHES}
        for number in marked:
            self._end_publishing(number, journaled=number in published)
        if marked:
            events = list(self.journal.events())
        with contextlib.suppress(StoreDamaged, NotFoundError):  # whoever reads it names the damage
            current = self.current()
            moves = [event.version for event in events if event.event in _MOVES]
            if current is not None and current not in moves:
                self.journal.append(self._told_by_manifest(current))
            elif current is not None and moves[-1] != current:  # a crash came between a rollback and its line
                self.journal.append(Event(event="rolled_back", version=current, parent=moves[-1], recovered=True))

    def _marked(self) -> list[int]:
        numbers = layout.directory_numbers(self.versions)
        return [number for number in numbers if layout.is_marked(self.versions / layout.version_name(number))]

    def _end_publishing(self, number: int, *, journaled: bool) -> None:
        """Finish a version whose publishing was begun, if it is or was current; else remove it, where that is sure."""
        folder = self.versions / layout.version_name(number)
        try:
            named = layout.named_number(self.root)
        except StoreDamaged:
            return  # it may be the one that was meant
        if number == named and not journaled:
            self.journal.append(self._told_by_marker(number))
        if number == named or journaled:
            remove_file(folder / layout.PUBLISHING)
            return
        others = set(layout.directory_numbers(self.versions)) - set(self._marked())
        if named in others or not (others or named):
            sync_directory(self.root)  # what current names may not be on the disk yet
            remove_unpublished(folder)

    def _told_by_marker(self, number: int) -> Event:
        """Return the line a version carries along, from its manifest where that is damaged."""
        with contextlib.suppress(StoreError):
            event = read_struct(self.versions / layout.version_name(number) / layout.PUBLISHING, Event)
            if event is not None and event.version == number:
                return msgspec.structs.replace(event, recovered=True)
        return self._told_by_manifest(number)


def _link(root: Path) -> str | None:
    """Return what ``current`` says, None where it is missing."""
    try:
        return str((root / layout.CURRENT).readlink())
    except FileNotFoundError:
        return None
    except OSError:
        return _NO_LINK


def _describe(staging: Staging, manifest: Manifest) -> None:
    """Write the manifest and its hash; both are read back, the manifest as what a reader will take it for."""
    data = encode(manifest)
    decode(data, staging.path / layout.MANIFEST)
    for name, content in ((layout.MANIFEST, data), (layout.MANIFEST_HASH, hash_line(data))):
        with staging.stream(name) as write:
            write(content)
