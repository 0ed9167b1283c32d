"""``embsync pull``: copies the current version at a prefix to a store on this host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from embsync.delivery import remote
from embsync.delivery.objects import Objects, push_line
from embsync.delivery.remote import DamagedObject, Pointer
from embsync.delivery.source import PullSource, require_pullable, write_source
from embsync.errors import NotFoundError, SinkConflict, SinkError, SinkUnavailable, StoreBusy, StoreDamaged
from embsync.file_hashes import FileEntry, hash_file
from embsync.invocation import command
from embsync.manifest import Manifest
from embsync.progress import Counted, Progress, Stage, silent
from embsync.reader import Version, open_version
from embsync.store import Store, layout
from embsync.store.durable import storage_errors
from embsync.store.hold import HeldError, held
from embsync.store.journal import Event
from embsync.store.locks import exclusive
from embsync.store.received import ReceivedVersion
from embsync.store.version_manifest import read

#: Files that are downloaded at once.
_AT_ONCE = 4
#: How often the version of the pointer may be deleted while it is copied before an error is raised.
_ATTEMPTS = 5
#: Bytes allowed for the manifest and the journal line.
_SMALL_FILES = 1 << 20


class ObjectGone(SinkUnavailable):
    """An object no longer exists: its version was deleted while it was copied."""


@dataclass(frozen=True)
class Pulled:
    """The result of a pull.

    Attributes
    ----------
    version : int
        The current version.
    changed : bool
        Whether another version was current before.
    transferred, linked : int
        Bytes transferred, and bytes of files that existed here.
    """

    version: int
    changed: bool
    transferred: int = 0
    linked: int = 0


class Pull:
    """Copies versions from a prefix to a store. Of several pulls on one host, one transfers and the others wait.

    Parameters
    ----------
    store : Store
    objects : Objects
    keep : int
        Versions to keep in the store.
    wait : float
        Seconds to wait for another pull.
    alive : callable
        Called whenever a transfer makes progress.
    progress : callable
        Called with the bytes that have arrived.
    notice : callable
        Called, on any thread, with the key of an object that is transferred once more, and why.
    """

    def __init__(
        self,
        store: Store,
        objects: Objects,
        keep: int,
        wait: float = 600.0,
        alive: Callable[[], None] = lambda: None,
        progress: Progress = silent,
        notice: Callable[[str, str], None] = lambda key, why: None,
    ) -> None:
        self._store = store
        self._objects = objects
        self._keep = keep
        self._wait = wait
        self._alive = alive
        self._progress = progress
        self._notice = notice

    def once(self) -> Pulled:
        """Make the pointer's version current, even if a newer one is current here.

        Raises
        ------
        NotFoundError
            Nothing was pushed yet.
        HeldError
            The store is on hold.
        StoreError, UsageError
            The store may not be pulled into, or cannot be written.
        SinkError
            An object is damaged, or the source cannot be reached.
        """
        pointer = self._pointer()  # first, so that no store is created for a mistyped URL
        with self._alone() as known:
            return self._bring(pointer, known)

    def follow_once(self) -> Pulled | None:
        """Do the same as :meth:`once` if the pointer names another version than last time; otherwise return None.

        A local rollback therefore lasts until another version is pushed or, with a hold, until it is released.
        """
        pointer = self._pointer()
        with self._alone() as known:
            if (known.version, known.sha256) == (pointer.version, pointer.sha256):
                return None
            return self._bring(pointer, known)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[PullSource]:
        """Hold the lock for pulling, after checking that the store may be pulled into and is not on hold."""
        self._store.make()
        with exclusive(self._store.root / layout.PULL_LOCK, self._wait, "pulling into the store"):
            known = require_pullable(self._store.root, self._objects.where)
            found = held(self._store.root)
            if found is not None:
                raise HeldError(
                    "the store is on hold",
                    where=self._store.root,
                    found=f"hold since {found.time}",
                    hint=command("resume", purpose="to continue", store=self._store.root),
                )
            yield known

    def _pointer(self) -> Pointer:
        pointer, _ = remote.read_pointer(self._objects)
        if pointer is None:
            raise remote.nothing_pushed(self._objects)
        return pointer

    def _bring(self, pointer: Pointer, known: PullSource) -> Pulled:
        """Switch to the pointer's version; if that is deleted meanwhile, to the version that the pointer names then."""
        for _ in range(_ATTEMPTS):
            try:
                pulled = self._switch(pointer)
            except ObjectGone:
                now = self._pointer()
                if now == pointer:
                    raise
                pointer = now
            else:
                current = _with_pointer(known, pointer)
                if current != known:
                    write_source(self._store.root, current)
                return pulled
        raise SinkUnavailable("each version was deleted while it was copied", where=self._objects.where)

    def _switch(self, pointer: Pointer) -> Pulled:
        found = remote.read_manifest(self._objects, pointer.version, pointer.sha256)
        if found is None:
            raise self._gone(pointer.manifest)
        data, manifest = found
        remote.require_match(self._objects, pointer, manifest)
        if pointer.version in self._store.numbers():
            return self._switch_back(pointer.version, data)
        with storage_errors(self._store.root):
            name = f"{layout.version_name(pointer.version)}-{pointer.sha256[:16]}"
            with ReceivedVersion(self._store.versions, name) as staging:
                try:
                    transferred, linked = self._receive(staging, manifest, pointer)
                except DamagedObject:
                    staging.discard()
                    raise
                event = Event(
                    event="pulled",
                    version=manifest.version,
                    parent=manifest.parent,
                    space_id=manifest.space_id,
                    reason=f"from {self._objects.where}",
                )
                with self._store.locked():
                    self._store.publish(staging, manifest, event, data)
        self._prune()
        return Pulled(pointer.version, True, transferred, linked)

    def _switch_back(self, number: int, data: bytes) -> Pulled:
        """Make an existing version current."""
        if read(self._store.path(number))[0] != data:
            raise SinkConflict(
                f"the store has a different version {number}",
                where=self._store.path(number),
                expected=f"version {number} of {self._objects.where}",
                hint="the store there was recreated: pull into another directory, named with --store",
            )
        if self._store.current() == number:
            return Pulled(number, False)
        self._store.rollback(number)
        return Pulled(number, True)

    def _receive(self, staging: ReceivedVersion, manifest: Manifest, pointer: Pointer) -> tuple[int, int]:
        """Get every file: from an interrupted pull, from a local version with the same file, or by transfer."""
        folder = remote.folder_of(pointer.version, pointer.sha256)
        with self._newest_here() as here:
            own = (
                {} if here is None else {(entry.path, entry.sha256, entry.bytes): entry for entry in here.record.files}
            )
            missing, linked = [], 0
            for entry in manifest.files:
                self._alive()
                if staging.has(entry):
                    continue
                same = own.get((entry.path, entry.sha256, entry.bytes))
                if here is not None and same is not None and _is_intact(here, same):
                    staging.link(same, here.path)
                    linked += entry.bytes
                else:
                    missing.append(entry)
        needed = {entry.path: entry.bytes - min(staging.received(entry), entry.bytes) for entry in missing}
        total = sum(needed.values())
        self._store.require_room(total + _SMALL_FILES)
        arrived = Counted(Stage("copying", total, "bytes"), self._progress)
        self._download(staging, sorted(missing, key=lambda entry: -entry.bytes), folder, arrived)
        return total, linked

    @contextlib.contextmanager
    def _newest_here(self) -> Iterator[Version | None]:
        """Pin the newest version of the store; None if there is none or it is damaged."""
        with contextlib.ExitStack() as stack:
            found = None
            numbers = self._store.numbers()
            if numbers:
                with contextlib.suppress(StoreDamaged, NotFoundError):
                    found = stack.enter_context(open_version(self._store.root, numbers[-1], indexed=False))
            yield found

    def _download(self, staging: ReceivedVersion, missing: list[FileEntry], folder: str, arrived: Counted) -> None:
        errors: list[BaseException] = []

        def watched(pieces: Iterator[Any]) -> Iterator[Any]:
            for piece in pieces:
                if errors:
                    raise SinkError("stopped because another file could not be copied")
                self._alive()
                arrived.add(len(piece))
                yield piece

        def download(entry: FileEntry) -> None:
            try:
                if not errors:
                    self._download_one(staging, entry, f"{folder}/{entry.path}", watched)
            except BaseException as error:
                errors.append(error)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(download, missing))
        if errors:  # later errors may be consequences of the first
            raise errors[0]

    def _download_one(
        self, staging: ReceivedVersion, entry: FileEntry, key: str, watched: Callable[[Iterator[Any]], Iterator[Any]]
    ) -> None:
        @contextlib.contextmanager
        def pieces(start: int) -> Iterator[Any]:
            with self._objects.stream(key, start) as arriving:
                if arriving is None:
                    raise self._gone(key)
                yield watched(arriving)

        try:
            with storage_errors(staging.path):
                staging.receive(entry, pieces, lambda found: self._notice(key, found))
        except StoreDamaged as error:
            found = f"{error.found}, transferred twice"
            raise remote.damaged_object(self._objects, key, found, str(error.expected)) from None

    def _gone(self, key: str) -> ObjectGone:
        hint = "check that nothing else deletes there", push_line(self._objects)
        return ObjectGone("an object is missing", where=f"{self._objects.where}/{key}", hint=hint)

    def _prune(self) -> None:
        with contextlib.suppress(StoreBusy), self._store.locked():
            self._store.prune(self._keep)


def _with_pointer(known: PullSource, pointer: Pointer) -> PullSource:
    """Return the record of the source, with the pointer's version."""
    return msgspec.structs.replace(known, version=pointer.version, sha256=pointer.sha256)


def _is_intact(here: Version, entry: FileEntry) -> bool:
    with contextlib.suppress(OSError):
        return hash_file(here.path / entry.path) == (entry.bytes, entry.sha256)
    return False
