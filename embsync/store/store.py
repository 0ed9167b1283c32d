"""The store as a whole: which version is current, and the few ways that changes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from embsync.errors import NotFoundError, OutOfSpace, StoreError
from embsync.store import layout
from embsync.store.durable import (
    Staging,
    hash_file,
    remove_version,
    replace_file,
    storage_errors,
    sweep,
    switch_link,
    sync_directory,
)
from embsync.store.journal import Event, Journal
from embsync.store.locks import exclusive
from embsync.store.manifest import Manifest, decode, encode

#: Room kept free beyond what a version needs, for the journal and the file system's own tables.
_RESERVE_BYTES = 4 * 2**20


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
        """Raise NotFoundError unless there is a store."""
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
        """Return a version's manifest."""
        path = self.path(number) / layout.MANIFEST
        try:
            return decode(path.read_bytes(), str(path))
        except OSError as error:
            raise StoreError("manifest missing or unreadable", where=path, found=error.strerror,
                             hint="embsync rollback goes back to a whole version") from error

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
            replace_file(staging.path / layout.MANIFEST, encode(manifest))
            name = layout.version_name(manifest.version)
            staging.move(self.versions / name)
            before = self.current()
            try:
                self._point_to(manifest.version)
                self.journal.append(event)
            except OSError:
                if self.current() != before:
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
            before = self.current()
            if before is None:
                raise NotFoundError("nothing to roll back", where=self.root, found="a store without versions")
            target = self._version_before(before) if number is None else number
            damaged = self.damaged_files(target)
            if damaged:
                raise StoreError(f"version {target} is damaged", where=self.path(target), found=", ".join(damaged[:3]),
                                 hint="roll back to another version")
            with storage_errors(self.root):
                self._point_to(target)
                self.journal.append(Event(event="rolled_back", version=target, parent=before))
            return before, target

    def _version_before(self, number: int) -> int:
        """Return the parent of a version; of the first of a space, the next lower number there is."""
        parent = self.manifest(number).parent
        older = [parent] if parent is not None else [other for other in self.numbers() if other < number]
        if not older:
            raise NotFoundError("nothing to roll back to", where=self.root, found=f"version {number}, the first")
        return older[-1]

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

    def damaged_files(self, number: int) -> list[str]:
        """Re-hash a version's files; return a line for each that is not as its manifest says."""
        folder = self.path(number)
        problems = []
        for entry in self.manifest(number).files:
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

    def _recover(self) -> None:
        """Journal a version that was switched to just before its publisher died."""
        number = self.current()
        if number is None or any(event.version == number for event in self.journal.events()):
            return
        manifest = self.manifest(number)
        snapshot: dict[str, str | None] = {
            "name": manifest.snapshot.name, "fingerprint": manifest.snapshot.fingerprint,
        }
        self.journal.append(Event(event="published", version=number, parent=manifest.parent, snapshot=snapshot,
                                  space_id=manifest.space_id, recovered=True))
