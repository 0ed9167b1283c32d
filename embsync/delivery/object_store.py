"""A sink of kind ``object_store``: a pushed store, which ``embsync pull`` copies to other hosts."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from embsync.config import ObjectStoreConfig
from embsync.delivery import remote
from embsync.delivery.endpoints import open_objects
from embsync.delivery.remote import Pointer, RemoteVersion
from embsync.delivery.sink import Generation, Probe, fingerprint_of, moved, require_same
from embsync.errors import SinkConflict, SinkError, SinkUnavailable
from embsync.file_hashes import FileEntry
from embsync.invocation import Command, command
from embsync.progress import Counted, Progress, Stage, silent
from embsync.reader import Version
from embsync.reader.verification import verify
from embsync.store import layout
from embsync.store.version_manifest import hash_line

#: Files that are uploaded at once, each in parts.
_AT_ONCE = 4
#: Seconds by which an object's date may be later than now: services round dates to seconds.
_FUTURE = dt.timedelta(seconds=2)


class ObjectStoreSink:
    """Versions under immutable keys, and one pointer that is switched by a conditional write; see ``remote``.

    Parameters
    ----------
    config : ObjectStoreConfig
    progress : callable
        Called with the bytes of every file that has been uploaded or hashed.
    hashed : bool
        Whether a version's objects are read back and hashed; otherwise only their sizes are compared.
    """

    def __init__(self, config: ObjectStoreConfig, progress: Progress = silent, *, hashed: bool = False) -> None:
        self._config = config
        self._progress = progress
        self._hashed = hashed
        self._objects = open_objects(config)
        #: Fingerprints of versions whose damaged manifest was rewritten.
        self._rewritten: set[str] = set()

    def _verifying(self) -> Command:
        return command("push", self._objects.where, *self._objects.push_options, "--verify")

    def check(self, version: Version) -> tuple[str, ...]:
        """Raise unless the prefix is reachable, is empty or embsync's, and has no other version of this number.

        Objects of the current version that were deleted there, have another size or, if hashed, other contents are
        written again, and their paths are returned.
        """
        marker = self._objects.read(remote.MARKER)
        if marker is None:
            self._require_empty()
            self._objects.write(remote.MARKER, msgspec.json.encode({"format": remote.FORMAT, "made_by": "embsync"}))
        self._objects.notes()
        pointer, _ = remote.read_pointer(self._objects)
        there = remote.versions_in(self._objects)
        self._require_same(version, there)
        if self._hashed:
            self._restore_manifests(version.path.parent, there)
        if pointer is not None and pointer.sha256 == fingerprint_of(version):
            return self._complete(version)
        return ()

    def _restore_manifests(self, versions: Path, there: list[RemoteVersion]) -> None:
        """Rewrite damaged manifests of versions that the store still has: until then, nothing can be pushed."""
        for found in there:
            path = versions / layout.version_name(found.number) / layout.MANIFEST
            good = path.read_bytes() if path.is_file() else b""
            key = f"{found.folder}/{layout.MANIFEST}"
            if hashlib.sha256(good).hexdigest() == found.fingerprint and self._objects.read(key) not in (None, good):
                self._objects.write(key, good)
                self._rewritten.add(found.fingerprint)

    def _require_empty(self) -> None:
        for entry in itertools.islice(self._objects.list(), 1):
            raise SinkConflict(
                "the prefix contains objects of another program",
                where=self._objects.where,
                found=entry.key,
                expected=f"nothing, or {remote.MARKER}",
                hint="use a separate prefix, such as the URL followed by /embsync",
            )

    def _require_same(self, version: Version, there: list[RemoteVersion]) -> None:
        for found in there:
            if found.number == version.number:
                hint = "two stores are pushed to one prefix, or the store was recreated: name another prefix"
                require_same(version, found.fingerprint, f"{self._objects.where}/{found.folder}", hint)

    def generations(self) -> list[Generation]:
        """Return the versions that are there; one without a manifest is incomplete."""
        return list(remote.generations_in(self._objects, self._verifying()))

    def current(self) -> int | None:
        """Return the version that the pointer names."""
        pointer, _ = remote.read_pointer(self._objects)
        return None if pointer is None else pointer.version

    def stage(self, version: Version) -> None:
        """Hash the version's files, and upload those that are not there yet; the manifest last."""
        self._complete(version)

    def _complete(self, version: Version) -> tuple[str, ...]:
        """Upload the objects of a version that are missing or differ, and return their paths."""
        there = remote.versions_in(self._objects)
        self._require_same(version, there)
        ours = RemoteVersion(version.number, fingerprint_of(version))
        ours = next((found for found in there if found.fingerprint == ours.fingerprint), ours)
        missing = self._missing(version.record.files, ours)
        manifest = (layout.MANIFEST,) if not ours.complete or ours.fingerprint in self._rewritten else ()
        if ours.complete and not missing:
            return manifest
        if not there and self._objects.read(remote.MARKER) is None:
            self._objects.write(remote.MARKER, msgspec.json.encode({"format": remote.FORMAT, "made_by": "embsync"}))
        verify(version)
        known = {} if self._hashed else self._known_files(there, ours)
        missing.sort(key=lambda entry: -entry.bytes)
        self._upload(version, ours, missing, known)
        self._objects.write(f"{ours.folder}/{layout.MANIFEST_HASH}", hash_line(version.manifest_bytes))
        self._objects.write(f"{ours.folder}/{layout.MANIFEST}", version.manifest_bytes)
        return (*sorted(entry.path for entry in missing), *manifest)

    def _missing(self, files: Iterable[FileEntry], ours: RemoteVersion) -> list[FileEntry]:
        """Return the files that are missing there, or have another size or, if hashed, other contents."""
        there = {entry.path: _is_uploaded(entry, ours) for entry in files}
        if self._hashed:
            present = [entry for entry in files if there[entry.path]]
            read = Counted(Stage("hashing", sum(entry.bytes for entry in present), "bytes"), self._progress)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                same = pool.map(lambda entry: self._has(entry, ours, read), present)
                there |= zip((entry.path for entry in present), same, strict=True)
        return [entry for entry in files if not there[entry.path]]

    def _has(self, entry: FileEntry, ours: RemoteVersion, read: Counted) -> bool:
        """Return whether an object has the contents of a file."""
        digest = hashlib.sha256()
        with self._objects.stream(f"{ours.folder}/{entry.path}") as pieces:
            for piece in pieces or ():
                digest.update(piece)
                read.add(len(piece))
        return digest.hexdigest() == entry.sha256

    def _known_files(self, there: list[RemoteVersion], ours: RemoteVersion) -> Mapping[tuple[str, int], str]:
        """Return the keys of files of other complete versions, by hash and size: these need not be transferred."""
        known = {}
        for found in there[-self._config.keep_versions :]:
            if found.complete and found is not ours:
                read = remote.read_manifest(self._objects, found.number, found.fingerprint, self._verifying())
                for entry in () if read is None else read[1].files:
                    if _is_uploaded(entry, found):
                        known[entry.sha256, entry.bytes] = f"{found.folder}/{entry.path}"
        return known

    def _upload(
        self, version: Version, ours: RemoteVersion, missing: list[FileEntry], known: Mapping[tuple[str, int], str]
    ) -> None:
        errors: list[BaseException] = []

        uploaded = Counted(Stage("copying", sum(entry.bytes for entry in missing), "bytes"), self._progress)

        def upload(entry: FileEntry) -> None:
            key = f"{ours.folder}/{entry.path}"
            source = known.get((entry.sha256, entry.bytes))
            try:
                if not errors and (source is None or not self._objects.copy(source, key)):
                    self._objects.upload(key, version.path / entry.path)
                uploaded.add(entry.bytes)
            except BaseException as error:
                errors.append(error)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(upload, missing))
        if errors:
            raise errors[0]

    def probe(self, version: Version) -> Probe:
        """Compare the size of every object with the manifest."""
        there = {found.fingerprint: found for found in remote.versions_in(self._objects)}
        ours = there.get(fingerprint_of(version))
        wrong = [] if ours is None else [entry for entry in version.record.files if not _is_uploaded(entry, ours)]
        if ours is None or not ours.complete or wrong:
            raise SinkError(
                f"version {version.number} is incomplete",
                where=self._objects.where,
                found=", ".join(entry.path for entry in wrong[:3]) or "no manifest",
                expected="every file of the manifest, in its size",
                hint="the next run pushes it again; check that nothing else deletes there",
            )
        rows = version.record.sides.map(lambda counts: counts.rows)
        return Probe(rows.items, rows.users, notes=self._objects.notes())

    def commit(self, number: int, expected: int | None) -> None:
        """Switch the pointer, if it still names ``expected``."""
        found = next((found for found in self.generations() if found.number == number and found.complete), None)
        if found is None:
            raise SinkError(f"version {number} is incomplete", where=self._objects.where, hint="stage it first")
        pointer, data = remote.read_pointer(self._objects)
        seen = None if pointer is None else pointer.version
        if seen != expected or not self._swap(Pointer.to(found, seen), data):
            raise moved(f"{self._objects.where}/{remote.POINTER}", self.current(), expected)

    def _swap(self, pointer: Pointer, before: bytes | None) -> bool:
        data = msgspec.json.format(msgspec.json.encode(pointer), indent=1) + b"\n"
        return self._objects.swap(remote.POINTER, data, before)

    def drop(self, number: int) -> None:
        """Delete a version's objects, the manifest first, once no pull should still be copying it."""
        pointer, _ = remote.read_pointer(self._objects)
        if pointer is not None and pointer.version == number:
            raise SinkError("the current version is not deleted", where=self._objects.where, found=f"version {number}")
        there = remote.versions_in(self._objects)
        for found in there:
            if found.number == number:
                if found.complete and not self._is_past(there, found, pointer):
                    raise SinkUnavailable(
                        f"version {number} is kept for pulls that are copying it",
                        where=self._objects.where,
                        expected=f"{self._config.grace_seconds:g} s since another one replaced it",
                    )
                names = sorted(found.objects, key=lambda name: name != layout.MANIFEST)
                self._objects.delete([f"{found.folder}/{name}" for name in names])

    def _is_past(self, there: list[RemoteVersion], doomed: RemoteVersion, pointer: Pointer | None) -> bool:
        """Return whether the grace period has passed since the next version was written and since this was current."""
        if not self._config.grace_seconds:
            return True
        times = [found.finished for found in there if found.number > doomed.number and found.finished is not None][:1]
        if pointer is not None and pointer.previous == doomed.number:
            times += [entry.modified for entry in self._objects.list() if entry.key == remote.POINTER]
        now = self._objects.now()
        self._date_again(there, now)
        return bool(times) and now - max(times) >= dt.timedelta(seconds=self._config.grace_seconds)

    def _date_again(self, there: list[RemoteVersion], now: dt.datetime) -> None:
        """Rewrite manifests whose date is later than now because the clock there was set back.

        Otherwise the versions that they replaced would be kept until the clock has caught up.
        """
        for found in there:
            if found.finished is not None and found.finished > now + _FUTURE:
                key = f"{found.folder}/{layout.MANIFEST}"
                data = self._objects.read(key)
                if data is not None:
                    self._objects.write(key, data)

    def close(self) -> None:
        """Do nothing: the library manages the connections."""


def _is_uploaded(entry: FileEntry, found: RemoteVersion) -> bool:
    there = found.objects.get(entry.path)
    return there is not None and there.bytes == entry.bytes
