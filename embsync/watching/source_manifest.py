"""The ``manifest.json`` that a training job may write last: a list of its files with sizes and hashes.

``{"files": [{"path": "items.npy", "bytes": 3614208, "sha256": "9f86…"}, …]}``; further keys are allowed. Paths are
relative to the snapshot and stay inside it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from embsync.errors import SnapshotError, SnapshotIncomplete
from embsync.snapshots.files import FileBytes, Place, file_size

NAME = "manifest.json"
_LONGEST = 32 * 1024**2
_PIECE = 1024**2


class ListedFile(msgspec.Struct, frozen=True):
    """One file in the list."""

    path: str
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class FileList(msgspec.Struct, frozen=True):
    """All files of a snapshot."""

    files: Annotated[tuple[ListedFile, ...], msgspec.Meta(min_length=1)]


class InvalidFileList(SnapshotError):
    """The file is not a list of files, or is only partly written."""


class FileListMismatch(SnapshotIncomplete):
    """A file's contents differ from the manifest; its writer may not have finished."""


def read_list(root: Place) -> FileList:
    """Return the manifest at a snapshot's root.

    Raises
    ------
    InvalidFileList
        The file is not a manifest of this form.
    SnapshotError
        The manifest names a file twice or outside the snapshot.
    """
    place = root.child(NAME)
    with place.open() as file:
        size = file_size(file)
        data = FileBytes(file, str(place)).read(min(size, _LONGEST), 0)
    try:
        listed = msgspec.json.decode(data, type=FileList)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidFileList(
            "not a list of files",
            where=str(place),
            found=str(error)[:200],
            expected='{"files": [{"path": …, "bytes": …, "sha256": …}]}',
        ) from None
    paths = [entry.path for entry in listed.files]
    for path in paths:
        below(root, path)
    if len(set(paths)) != len(paths):
        raise SnapshotError(
            "a file is listed twice", where=str(place), found=f"{len(paths)} entries", expected=f"{len(set(paths))}"
        )
    return listed


def below(root: Place, path: str) -> Place:
    """Return the place of a relative path inside a snapshot."""
    place = root
    try:
        for part in path.split("/"):
            place = place.child(part)
    except SnapshotError:
        raise SnapshotError(
            "not a path inside the snapshot",
            where=str(root.child(NAME)),
            found=repr(path[:120]),
            expected="paths relative to the snapshot",
        ) from None
    return place


def missing_from(listed: FileList, found: Mapping[str, os.stat_result]) -> str | None:
    """Return the first difference between the listed and the existing files, or None.

    Parameters
    ----------
    found : mapping of relative name to status
        The existing regular files, all of which should be listed.
    """
    for entry in listed.files:
        size = found[entry.path].st_size if entry.path in found else None
        if size != entry.bytes:
            return f"{entry.path}: {size or 0} of {entry.bytes} bytes"
    unlisted = set(found) - {entry.path for entry in listed.files}
    return f"{min(unlisted)} to be listed in {NAME}" if unlisted else None


def verify_listed_files(path: str | Path, progress: Callable[[float], None]) -> None:
    """Compare the hashes of a snapshot's files with its manifest, if it has one of this form.

    Parameters
    ----------
    path : str or Path
    progress : callable
        Called repeatedly with the fraction of bytes read, above 0 and at most 1.

    Raises
    ------
    FileListMismatch
        A file's contents differ from the manifest.
    """
    root = Place.at(path, follow_link=False)
    if root.kind() != "directory" or NAME not in root.entries():
        return
    try:
        listed = read_list(root)
    except InvalidFileList:
        return
    total, before = sum(entry.bytes for entry in listed.files), 0
    for entry in listed.files:
        place = below(root, entry.path)
        digest = hashlib.sha256()
        for piece in _pieces(place):
            digest.update(piece)
            before += len(piece)
            progress(before / max(total, before))
        if digest.hexdigest() != entry.sha256:
            raise FileListMismatch(
                "differs from the manifest",
                where=str(place),
                found=f"sha256 {digest.hexdigest()}",
                expected=entry.sha256,
            )


def _pieces(place: Place) -> Iterator[bytes]:
    with place.open() as file:
        content, position = FileBytes(file, str(place)), 0
        while piece := content.read(_PIECE, position):
            yield piece
            position += len(piece)
