"""Operations that change a store, and recovery of interrupted ones."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from embsync.errors import NotFoundError, OutOfSpace, StoreDamaged, StoreError, UsageError
from embsync.invocation import command, quoted
from embsync.manifest import Manifest, encode
from embsync.store import layout
from embsync.store.contents import MOVES, PUBLISHES, StoreContents
from embsync.store.critical import uninterrupted
from embsync.store.durable import (
    FULL,
    NotReverted,
    make_root,
    remove_file,
    remove_link,
    replace_file,
    storage_errors,
    switch_link,
    sync_directory,
    taking_effect,
)
from embsync.store.journal import Event, NotJournaled
from embsync.store.locks import exclusive
from embsync.store.modes import make_directory
from embsync.store.records import read_struct
from embsync.store.removal import delete, remove_unpublished, retire_version, retired_numbers, sweep
from embsync.store.staging import Staging
from embsync.store.version_manifest import decode, hash_line

#: Space kept free beyond a version's needs, for the journal and the file system's metadata.
_RESERVE_BYTES = 4 * 2**20
#: Represents a ``current`` that is a file or a directory.
_NO_LINK = "no link"


class Store(StoreContents):
    """A store on disk, for changes; consumers use :func:`embsync.open`.

    The constructor does no I/O; :meth:`create` creates the directories.

    Parameters
    ----------
    root : path
    wait : float
        Seconds to wait for the lock.
    """

    def __init__(self, root: str | Path, wait: float = 60.0) -> None:
        super().__init__(root)
        self._wait = wait

    def create(self) -> None:
        """Create the directories of an empty store, if it does not exist, to publish in it.

        Raises
        ------
        UsageError
            Its versions are pulled from elsewhere.
        """
        self._require_own()
        self.make()

    def _require_own(self) -> None:
        source = self.root / layout.SOURCE
        if source.exists():
            raise UsageError(
                "the store is a copy: its versions are pulled",
                where=source,
                expected="a store of its own",
                hint=f"publish where it is pulled from; or, to publish here from now on: rm {quoted(str(source))}",
            )

    def make(self) -> None:
        """Create the directories of an empty store, if it does not exist."""
        if self.versions.is_dir():
            return
        layout.require_directory(self.root)
        with storage_errors(self.root):
            if self.root.is_dir() and any(self.root.iterdir()) and not self.versions.is_dir():  # created concurrently
                raise StoreError(
                    "the directory is not a store",
                    where=self.root,
                    found="other files",
                    expected="an empty directory or a store",
                    hint="name another directory",
                )
            make_root(self.root)
            with contextlib.suppress(FileExistsError):  # created concurrently
                make_directory(self.versions)
            sync_directory(self.root)

    @contextlib.contextmanager
    def locked(self, *, even_when_full: bool = False) -> Iterator[None]:
        """Hold the store's lock, after removing leftovers of dead processes and completing the journal.

        Parameters
        ----------
        even_when_full : bool
            Whether to continue if the disk is too full to complete the journal; ``current`` must not be switched then.
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

    def stage(self, needed_bytes: int) -> Staging:
        """Return a staging directory, if there is space for ``needed_bytes``.

        Raises
        ------
        OutOfSpace
            There is too little space; nothing has been written.
        UsageError
            The versions of this store are pulled from elsewhere.
        """
        self._require_own()
        self.require_room(needed_bytes)
        with storage_errors(self.versions):
            return Staging(self.versions)

    def require_room(self, needed_bytes: int) -> None:
        """Raise OutOfSpace unless there is space for a version of ``needed_bytes``."""
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

    def publish(self, staging: Staging, manifest: Manifest, event: Event, data: bytes | None = None) -> None:
        """Make a sealed staging directory the current version; the lock must be held.

        ``data`` is the encoded manifest of a version that was published elsewhere.

        The commit point is the rename of ``current``. Until the journal line is written, the version contains it, so
        that the next process with the lock completes the publish if the version is current, and removes the version
        otherwise. After the commit point, only versions known not to be current are removed.
        """
        name = layout.version_name(manifest.version)
        with storage_errors(self.root), uninterrupted():
            _describe(staging, encode(manifest) if data is None else data)
            replace_file(staging.path / layout.PUBLISHING, msgspec.json.encode(event))
            staging.move(self.versions / name)
            staging.keep()
            before = _link(self.root)
            try:
                self._point_to(manifest.version)
                self.journal.append(event)
            except NotReverted as error:
                raise self._unfinished(manifest.version, error) from error
            except BaseException as error:
                self._revert(manifest.version, before, error)
                raise
            with contextlib.suppress(OSError):  # the next process with the lock sees that it is journaled
                remove_file(self.versions / name / layout.PUBLISHING)

    def _revert(self, number: int, before: str | None, error: BaseException) -> None:
        """Switch ``current`` back, and remove a version if that is known to have succeeded."""
        link = self.root / layout.CURRENT
        try:
            if _link(self.root) != before:
                if before is None:
                    remove_link(link)
                elif before == _NO_LINK:
                    raise OSError(errno.ENOTSUP, "the previous file or directory is gone", str(link))
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
        """Move ``current`` to an older version, by default its parent; return the two numbers.

        Raises
        ------
        NotFoundError
            There is no such version, or no older one.
        StoreDamaged
            The version is damaged.
        NotJournaled
            ``current`` was moved, but that could not be journaled.
        """
        with self.locked():
            before = self.served()
            if before is None:
                self.current()  # raises if versions have disappeared
                raise NotFoundError("nothing to roll back", where=self.root, found="a store without versions")
            target = self._last_intact(before) if number is None else number
            self._require_intact(target)
            if _link(self.root) == _NO_LINK and (self.root / layout.CURRENT).is_dir():
                layout.named_number(self.root)  # a rename cannot replace a directory: the error says what to do
            effect = f"rolled back from version {before} to version {target}"
            with uninterrupted(), storage_errors(self.root):
                with taking_effect(effect, lambda: layout.named_number(self.root) == target, self.root):
                    self._point_to(target)
                self.journal.record(Event(event="rolled_back", version=target, parent=before), effect)
            return before, target

    def _last_intact(self, number: int) -> int:
        """Return the version to roll back to: the parent, or the newest intact version before it."""
        damage = []
        for other in self._older(number):
            try:
                self._require_intact(other)
            except StoreError as error:
                damage.append(f"{other}: {error.found}")
            else:
                return other
        if damage:
            raise StoreDamaged(
                "no older version is intact",
                where=self.root,
                found="; ".join(damage)[:300],
                hint=self.repair_command(set(self._older(number))),
            )
        with contextlib.suppress(StoreError):
            if self.is_intact(number):
                raise NotFoundError("nothing to roll back to", where=self.root, found=f"version {number}, the first")
        raise StoreDamaged(
            "nothing to roll back to",
            where=self.root,
            found=f"version {number}, the first, which is damaged",
            hint=self.repair_command({number}),
        )

    def _older(self, number: int) -> list[int]:
        """Return the versions before a version, the parent first; if the link is damaged, the version itself first."""
        older = [other for other in reversed(self.numbers()) if other < number]
        with contextlib.suppress(StoreDamaged):
            self.current()
            with contextlib.suppress(StoreError, NotFoundError):
                parent = self.manifest(number).parent
                older = older if parent is None else [other for other in older if other <= parent]
            return older
        return [number, *older]

    def _require_intact(self, number: int) -> None:
        damaged = self.damaged_files(number)
        if damaged:
            raise StoreDamaged(
                f"version {number} is damaged",
                where=self.path(number),
                found=", ".join(damaged[:3]),
                hint=command("rollback", purpose="to return to an intact version", store=self.root),
            )

    def prune(self, keep: int) -> tuple[list[int], list[int]]:
        """Delete all versions except the ``keep`` newest and the current one; the lock must be held.

        Directories without a manifest do not count towards ``keep``: they may not be versions.

        Returns
        -------
        pruned, in_use : lists of int
            Deleted versions, and those kept because a reader uses them.
        """
        current = self.current()
        doomed = [number for number in self._beyond(keep) if number != current]
        pruned: list[int] = []
        in_use: list[int] = []
        with storage_errors(self.versions):
            if doomed:
                sync_directory(self.root)  # the link may not be on the disk yet
            for number in doomed:
                with uninterrupted(), contextlib.suppress(PermissionError):  # owned by another user: see unpruned
                    retired = retire_version(self.path(number))
                    if retired is None:
                        in_use.append(number)
                        continue
                    pruned.append(number)
                    self._journal_pruned([Event(event="pruned", version=number)], partial(delete, retired))
        return pruned, in_use

    def _journal_pruned(self, events: list[Event], delete: Callable[[], object]) -> None:
        """Journal pruned versions, then delete them; on a full disk, delete them first to free space."""
        unwritten = list(events)
        try:
            while unwritten:
                self.journal.append(unwritten[0])
                del unwritten[0]
        except OSError as error:
            if error.errno not in FULL:
                raise
        delete()
        for event in unwritten:
            self.journal.append(event)

    def _sweep(self) -> None:
        """Remove leftovers of dead processes, and journal the versions that they pruned."""
        retired = retired_numbers(self.versions)
        journaled = {event.version for event in self.journal.events() if event.event == "pruned"} if retired else set()
        left = [number for number in retired if number not in journaled]
        unwritten = [Event(event="pruned", version=number, recovered=True) for number in left]
        self._journal_pruned(unwritten, lambda: sweep(self.root, self.versions))

    def _recover(self) -> None:
        """Complete or undo publishes of dead processes, and journal the current version if that is missing."""
        marked, events = self._marked(), list(self.journal.events())
        published = {event.version for event in events if event.event in PUBLISHES}
        for number in marked:
            self._end_publishing(number, journaled=number in published)
        if marked:
            events = list(self.journal.events())
        with contextlib.suppress(StoreDamaged, NotFoundError):  # reported when it is read
            current = self.current()
            moves = [event.version for event in events if event.event in MOVES]
            if current is not None and current not in moves:
                self.journal.append(self._event_from_manifest(current))
            elif current is not None and moves[-1] != current:  # a crash between a rollback and its journal line
                self.journal.append(Event(event="rolled_back", version=current, parent=moves[-1], recovered=True))

    def _marked(self) -> list[int]:
        numbers = layout.directory_numbers(self.versions)
        return [number for number in numbers if layout.is_marked(self.versions / layout.version_name(number))]

    def _end_publishing(self, number: int, *, journaled: bool) -> None:
        """Complete an unfinished publish if its version is or was current; otherwise remove it if that is certain."""
        folder = self.versions / layout.version_name(number)
        try:
            named = layout.named_number(self.root)
        except StoreDamaged:
            return  # it may have been the target
        if number == named and not journaled:
            self.journal.append(self._event_from_marker(number))
        if number == named or journaled:
            remove_file(folder / layout.PUBLISHING)
            return
        others = set(layout.directory_numbers(self.versions)) - set(self._marked())
        if named in others or not (others or named):
            sync_directory(self.root)  # the link may not be on the disk yet
            remove_unpublished(folder)

    def _event_from_marker(self, number: int) -> Event:
        """Return the journal line in a version, or one made from the manifest if it is damaged."""
        with contextlib.suppress(StoreError):
            event = read_struct(self.versions / layout.version_name(number) / layout.PUBLISHING, Event)
            if event is not None and event.version == number:
                return msgspec.structs.replace(event, recovered=True)
        return self._event_from_manifest(number)


def _link(root: Path) -> str | None:
    """Return the target of ``current``, or None if it is missing."""
    try:
        return str((root / layout.CURRENT).readlink())
    except FileNotFoundError:
        return None
    except OSError:
        return _NO_LINK


def _describe(staging: Staging, data: bytes) -> None:
    """Write the manifest and its hash; both are read back, and the manifest is decoded as by a reader."""
    decode(data, staging.path / layout.MANIFEST)
    for name, content in ((layout.MANIFEST, data), (layout.MANIFEST_HASH, hash_line(data))):
        with staging.stream(name) as write:
            write(content)
