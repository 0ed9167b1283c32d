"""The layout of a pushed store: names of objects, the pointer, and the versions that are there.

::

    embsync.json                                 marks the prefix as embsync's
    current.json                                 the pointer: version, key and sha256 of its manifest
    versions/000042-SHA256/items/ids.npy …       the files of a version, never changed
    versions/000042-SHA256/manifest.json         written last; without it the version is incomplete

SHA256 is that of the manifest, so that the key of a file determines its content: two publishers never write
different files under one key.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from embsync.delivery.objects import ObjectEntry, Objects, push_line
from embsync.delivery.sink import Generation
from embsync.errors import Hint, NotFoundError, SinkConflict, SinkError, StoreError
from embsync.invocation import joined
from embsync.manifest import Manifest
from embsync.store import layout
from embsync.store.records import MALFORMED
from embsync.store.version_manifest import decode

FORMAT = 1
MARKER = "embsync.json"
POINTER = "current.json"
_FOLDER = re.compile(r"versions/([0-9]{6,18})-([0-9a-f]{64})/(.+)")
_SHA256 = re.compile("[0-9a-f]{64}")
#: Key of a manifest in a store rather than in a push, and the most keys that are searched for one.
_STORED = re.compile(r"versions/[0-9]{6,18}/manifest\.json")
_LOOKED_THROUGH = 10_000


class DamagedObject(SinkError):
    """An object does not match its manifest."""


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """``current.json``.

    Attributes
    ----------
    version : int
    sha256 : str
        Hash of its manifest.
    manifest : str
        The manifest's key.
    previous : int or None
        The version that was current before.
    token : str
        Different for every switch, so that a publisher recognises its own.
    """

    format: int
    version: int
    sha256: str
    manifest: str
    space_id: str
    previous: int | None
    token: str

    @classmethod
    def to(cls, found: Generation, previous: int | None) -> Pointer:
        """Return a pointer to a complete generation."""
        return cls(
            format=FORMAT,
            version=found.number,
            sha256=found.fingerprint,
            manifest=f"{folder_of(found.number, found.fingerprint)}/{layout.MANIFEST}",
            space_id=found.space_id or "",
            previous=previous,
            token=secrets.token_hex(16),
        )


@dataclass
class RemoteVersion:
    """The objects of one version, by their path in it."""

    number: int
    fingerprint: str
    objects: dict[str, ObjectEntry] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The prefix of its keys, without a trailing slash."""
        return folder_of(self.number, self.fingerprint)

    @property
    def complete(self) -> bool:
        """Whether its manifest exists."""
        return layout.MANIFEST in self.objects

    @property
    def finished(self) -> dt.datetime | None:
        """When its manifest was written, by the store's clock; None while it is incomplete."""
        return self.objects[layout.MANIFEST].modified if self.complete else None


def folder_of(number: int, fingerprint: str) -> str:
    """Return the prefix of a version's keys, without a trailing slash."""
    return f"versions/{layout.version_name(number)}-{fingerprint}"


def versions_in(objects: Objects) -> list[RemoteVersion]:
    """Return the existing versions, complete or not, ascending by number; other names are ignored."""
    found: dict[tuple[int, str], RemoteVersion] = {}
    for entry in objects.list("versions"):
        match = _FOLDER.fullmatch(entry.key)
        if match is not None:
            key = int(match[1]), match[2]
            found.setdefault(key, RemoteVersion(*key)).objects[match[3]] = entry
    return [found[key] for key in sorted(found)]


def read_pointer(objects: Objects) -> tuple[Pointer | None, bytes | None]:
    """Return the pointer and its bytes, None before the first commit.

    Raises
    ------
    SinkConflict
        The pointer is damaged, contradicts itself, or was not written by embsync.
    """
    data = objects.read(POINTER)
    if data is None:
        return None, None
    try:
        pointer = msgspec.json.decode(data, type=Pointer)
    except MALFORMED as error:
        raise _foreign(objects, str(error)[:200]) from None
    if pointer.format != FORMAT or not _SHA256.fullmatch(pointer.sha256) or pointer.version < 1:
        raise _foreign(objects, f"format {pointer.format}, version {pointer.version}")
    key = f"{folder_of(pointer.version, pointer.sha256)}/{layout.MANIFEST}"
    if pointer.manifest != key:
        raise _foreign(objects, f"manifest {pointer.manifest!r} of version {pointer.version}", f"{key!r} by its sha256")
    return pointer, data


def require_match(objects: Objects, pointer: Pointer, manifest: Manifest) -> None:
    """Raise unless a manifest is that of the version and space that the pointer names.

    Raises
    ------
    SinkConflict
        It is that of another version or space.
    """
    if (manifest.version, manifest.space_id) != (pointer.version, pointer.space_id):
        found, expected = (f"version {one.version} of space {one.space_id!r}" for one in (pointer, manifest))
        raise _foreign(objects, found, f"{expected}, by the manifest that it names")


def nothing_pushed(objects: Objects) -> NotFoundError:
    """Return the error for a place without a pointer; it states what was found there."""
    absence = objects.absence()
    if absence is not None:
        return NotFoundError(absence, where=objects.where, hint="check the URL; is it mounted?")
    if any(_STORED.fullmatch(entry.key) for entry in itertools.islice(objects.list("versions"), _LOOKED_THROUGH)):
        return _store_itself(objects)
    where, hint = f"{objects.where}/{POINTER}", f"check the URL; {push_line(objects)}"
    if objects.read(MARKER) is not None:
        return NotFoundError("no version was pushed completely yet", where=where, found=f"only {MARKER}", hint=hint)
    other = next(iter(objects.list()), None)
    if other is not None:
        found = f"objects that embsync did not push, such as {other.key}"
        return NotFoundError("nothing was pushed there", where=where, found=found, hint=hint)
    return NotFoundError("nothing was pushed there yet", where=where, hint=hint)


def _store_itself(objects: Objects) -> NotFoundError:
    """Return the error for the URL of a store, given instead of the URL that it is pushed to."""
    path = objects.where.removeprefix("file://")
    if path != objects.where:
        line = joined(["embsync", "status", "--store", path])
        hint = f"name what it is pushed to, or use the store where it is: {line}"
    else:
        hint = "name what it is pushed to: a store that was copied there cannot be pulled safely"
    return NotFoundError("a store, not the target of a push", where=objects.where, hint=hint)


def _foreign(
    objects: Objects, found: str, expected: str = f"what embsync push writes, of format {FORMAT}"
) -> SinkConflict:
    return SinkConflict(
        f"{POINTER} is damaged, or not embsync's",
        where=f"{objects.where}/{POINTER}",
        found=found,
        expected=expected,
        hint=("use another prefix, or delete that file there and push again", push_line(objects)),
    )


def read_manifest(
    objects: Objects, number: int, fingerprint: str, hint: Hint | None = None
) -> tuple[bytes, Manifest] | None:
    """Return a version's manifest, as bytes and parsed; None if it does not exist.

    ``hint`` says what to do if it is damaged; by default, to push it again from the publishing host.

    Raises
    ------
    SinkError
        Its hash is wrong, or it is not a manifest.
    """
    key = f"{folder_of(number, fingerprint)}/{layout.MANIFEST}"
    data = objects.read(key)
    if data is None:
        return None
    found = hashlib.sha256(data).hexdigest()
    if found != fingerprint:
        raise damaged_object(objects, key, f"sha256 {found[:12]}…", f"{fingerprint[:12]}…", hint)
    try:
        return data, decode(data, Path(layout.version_name(number)) / layout.MANIFEST)
    except StoreError as error:
        expected = str(error.expected or "a manifest")
        raise damaged_object(objects, key, str(error.found), expected, hint) from None


def damaged_object(objects: Objects, key: str, found: str, expected: str, hint: Hint | None = None) -> DamagedObject:
    """Return the error for an object that does not match its manifest."""
    return DamagedObject(
        "a damaged object",
        where=f"{objects.where}/{key}",
        found=found,
        expected=expected,
        hint=hint or push_line(objects, "--verify"),
    )


def generations_in(objects: Objects, hint: Hint) -> Iterator[Generation]:
    """Yield the existing versions, as a sink describes them; ``hint`` says what to do if a manifest is damaged."""
    for version in versions_in(objects):
        read = read_manifest(objects, version.number, version.fingerprint, hint) if version.complete else None
        manifest = None if read is None else read[1]
        yield Generation(
            version.number,
            version.fingerprint,
            version.complete,
            None if manifest is None else manifest.space_id,
            None if manifest is None else manifest.created,
        )
