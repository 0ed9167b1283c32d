"""Layout npz: one ``.npz`` file with the arrays of layout npy, or the model that ``implicit`` saves.

Member names are labels, never paths. A member is read as a stream and never extracted under its name; its stated size
is checked before it is read, and against the bytes that are read.
"""

from __future__ import annotations

import errno
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO

import numpy as np

from embsync.config import SnapshotConfig
from embsync.dtypes import Array
from embsync.errors import SnapshotError
from embsync.numpy_header import LONGEST_HEADER, ArrayHeader, parse_header
from embsync.snapshots.accounting import Claim
from embsync.snapshots.arrays import Content, Stored
from embsync.snapshots.files import FileBytes, Place, file_size, unreadable
from embsync.snapshots.named_arrays import ITEM_NAMES, USER_NAMES, configured_name, found_sides, open_named_sides
from embsync.snapshots.names import side_of
from embsync.snapshots.npy import NpyFile, ids_beside
from embsync.snapshots.sides import ITEMS, USERS, IdentifiedSide

EXPECTS = "one .npz file with arrays items and item_ids (users, user_ids), or implicit's item_factors (user_factors)"
_SUFFIX = ".npz"
_IMPLICIT = {ITEMS: "item_factors", USERS: "user_factors"}

#: Names of arrays that may be vectors, including NumPy's default names.
_VECTORS = re.compile(r"emb|vec|factor|latent|^arr_\d+$", re.IGNORECASE)
#: An archive of more arrays than this is never dismissed as foreign.
_MOST_FOREIGN = 64

#: Most bytes read at once: the zip reader reads the archive's entire directory at once, and members in pieces.
_LONGEST_READ = 4 * 1024**2
_PIECE = 1024**2
#: Deflate expands one byte to at most 1,032 (zlib's technical notes); a member that claims more is forged.
_MOST_INFLATION = 1032
_ENCRYPTED = 0x1

_ILL_FORMED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
    LookupError,
    OSError,
)


def recognise(place: Place) -> bool:
    """Return whether the names at ``place`` match this layout."""
    return place.name.endswith(_SUFFIX) if place.kind() == "file" else bool(_archives(place))


def is_foreign(place: Place) -> bool:
    """Return whether the archive at ``place`` is intact, but has no array that could be vectors.

    That is, no matrix and no array with a name of a side or of vectors. An example is the metrics of an evaluation.
    """
    try:
        archive = _archive(place)
        members = _members(archive)
        if not 0 < len(members) <= _MOST_FOREIGN or any(side_of(name) or _VECTORS.search(name) for name in members):
            return False
        return all(len(NpzMember(archive, member).header().shape) < 2 for member in members.values())
    except SnapshotError:
        return False


def claim(place: Place, config: SnapshotConfig) -> Claim:
    """Return which entries at ``place`` this layout reads."""
    archive = _archive(place)
    beside = _beside(place)
    taken = {*_find(archive, _members(archive), config), *beside}
    entries = frozenset({archive.name, *(file.place.name for file in beside.values())}) - {place.name}
    return Claim(found_sides(taken, config), entries)


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, IdentifiedSide | None]:
    """Return the sides at ``place``, checked by their headers; ids and weights may be in files beside the archive."""
    archive = _archive(place)
    members = _members(archive)
    found: dict[str, Stored] = {**_find(archive, members, config)}
    if not found:
        raise SnapshotError(
            "no arrays of a snapshot", where=str(archive), found=", ".join(members)[:200], expected=EXPECTS
        )
    for name, file in _beside(place).items():
        if name in found:
            raise SnapshotError(
                f"more than one {name}",
                where=str(place),
                found=f"{found[name]} and {file}",
                expected="one",
                hint=f"delete {file.place.name}, or save the archive without it",
            )
        found[name] = file
    return open_named_sides(found, str(archive), config, _other_members(place, members))


@dataclass(frozen=True)
class NpzMember:
    """One array of an ``.npz`` file."""

    archive: Place
    member: str

    def __str__(self) -> str:
        return f"{self.archive}({self.member})"

    @contextmanager
    def open(self) -> Iterator[tuple[ArrayHeader, Content]]:
        """Open the archive; yield the array's header and its bytes."""
        with self._stream() as (info, stream):
            with _refusing(str(self)):
                start = stream.read(min(LONGEST_HEADER, info.file_size))
            header = parse_header(start, info.file_size, str(self))
            if header.fortran_order and len(header.shape) > 1:
                with self._unpacked(start, stream, info.file_size) as content:
                    yield header, content
            else:
                yield header, _Stream(stream, start, info.file_size, str(self))

    def header(self) -> ArrayHeader:
        """Return the header alone."""
        with self._stream() as (info, stream):
            with _refusing(str(self)):
                start = stream.read(min(LONGEST_HEADER, info.file_size))
            return parse_header(start, info.file_size, str(self))

    @contextmanager
    def _stream(self) -> Iterator[tuple[zipfile.ZipInfo, IO[bytes]]]:
        where = str(self)
        with self.archive.open() as file:
            with _refusing(where):
                packed = zipfile.ZipFile(_ShortReads(file, where))
                info = packed.getinfo(self.member)
                _require_plausible_size(info, file_size(file), where)
                stream = packed.open(info)
            with packed, stream:
                yield info, stream

    @contextmanager
    def _unpacked(self, start: bytes, stream: IO[bytes], size: int) -> Iterator[FileBytes]:
        # a stream in column order would have to be read once for each block: copy it to an anonymous file on disk
        with tempfile.TemporaryFile() as spool:
            spool.write(start)
            content = _Stream(stream, start, size, str(self))
            for piece in content.rest():
                spool.write(piece)
            spool.flush()
            yield FileBytes(spool, str(self))


class _Stream:
    """The bytes of a member, in ascending order only."""

    def __init__(self, stream: IO[bytes], start: bytes, size: int, where: str) -> None:
        self._stream = stream
        self._start = start
        self._position = 0
        self._read = len(start)
        self._size = size
        self._where = where

    def fill(self, target: Array, offset: int) -> None:
        """Fill an array with the bytes at ``offset``, which is where the last call ended, or within the start."""
        view = target.reshape(-1).view(np.uint8).data
        done = 0
        if offset < len(self._start):
            done = min(len(view), len(self._start) - offset)
            view[:done] = self._start[offset : offset + done]
        elif offset != self._read:
            raise RuntimeError("a stream is read forwards")
        while done < len(view):
            piece = self._piece(min(_PIECE, len(view) - done))
            view[done : done + len(piece)] = piece
            done += len(piece)

    def rest(self) -> Iterator[bytes]:
        """Yield the bytes after the start."""
        while self._read < self._size:
            yield self._piece(min(_PIECE, self._size - self._read))

    def _piece(self, size: int) -> bytes:
        with _refusing(self._where):
            piece = self._stream.read(size)
            self._read += len(piece)
            if self._read >= self._size:
                self._stream.read(1)  # the stream verifies the checksum at its end
        if not piece:
            raise SnapshotError("ends early", where=self._where, found=f"{self._read} bytes", expected=f"{self._size}")
        return piece


class _ShortReads:
    """A file that refuses long reads, which a forged archive with a very long directory would cause."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file = file
        self._where = where
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        data = b"" if size > _LONGEST_READ else self._file.read(_LONGEST_READ + 1 if size < 0 else size)
        if size > _LONGEST_READ or len(data) > _LONGEST_READ:
            raise SnapshotError(
                "ill-formed archive",
                where=self._where,
                found=f"a directory of {size} bytes",
                expected=f"at most {_LONGEST_READ}",
            )
        return data


def _archive(place: Place) -> Place:
    if place.kind() == "file":
        return place
    names = _archives(place)
    if len(names) != 1:
        raise SnapshotError("not one .npz file", where=str(place), found=", ".join(names) or "none", expected="one")
    return place.child(names[0])


def _find(archive: Place, members: dict[str, str], config: SnapshotConfig) -> dict[str, NpzMember]:
    found = {name: NpzMember(archive, members[name]) for name in (*ITEM_NAMES, *USER_NAMES) if name in members}
    for side, factors in _IMPLICIT.items():
        if side not in members and factors in members:
            found[side] = NpzMember(archive, members[factors])
    for side, (vectors, ids, _) in ((ITEMS, ITEM_NAMES), (USERS, USER_NAMES)):
        for array, value in ((vectors, config.vector_column), (ids, config.id_column)):
            name = configured_name(value, side)
            if name is not None and name not in members:
                raise SnapshotError("no such array", where=str(archive), found=", ".join(members)[:200], expected=name)
            if name is not None:
                found[array] = NpzMember(archive, members[name])
    return found


def _beside(place: Place) -> dict[str, NpyFile]:
    """Return ids and weights beside the archive, since implicit's models have none."""
    if place.kind() == "file":
        return {}
    entries = place.entries()
    return {
        name: NpyFile(place.child(f"{name}.npy"))
        for vectors, *parts in (ITEM_NAMES, USER_NAMES)
        for name in parts
        if f"{name}.npy" in entries and f"{vectors}.npy" not in entries
    }


def _other_members(place: Place, members: dict[str, str]) -> list[str]:
    """Return the names of members, and of entries beside the archive, that this layout does not know."""
    inside = [name for name in members if name not in {*ITEM_NAMES, *USER_NAMES, *_IMPLICIT.values()}]
    return inside + (
        ids_beside(place)
        if place.kind() == "file"
        else [name for name in place.entries() if name.removesuffix(".npy") not in {*ITEM_NAMES, *USER_NAMES}]
    )


def _archives(place: Place) -> list[str]:
    return [name for name in place.entries() if name.endswith(_SUFFIX) and not name.startswith((".", "_"))]


def _members(archive: Place) -> dict[str, str]:
    where = str(archive)
    with archive.open() as file, _refusing(where), zipfile.ZipFile(_ShortReads(file, where)) as packed:
        names = packed.namelist()
    if len(set(names)) != len(names):
        raise SnapshotError(
            "member names repeat",
            where=where,
            found=f"{len(names) - len(set(names))} repeated",
            expected="each name once",
        )
    return {name.removesuffix(".npy"): name for name in names}


def _require_plausible_size(info: zipfile.ZipInfo, archive_bytes: int, where: str) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise SnapshotError("an encrypted member", where=where, expected="a plain one")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise SnapshotError(
            "unknown compression",
            where=where,
            found=f"method {info.compress_type}",
            expected="stored or deflated, as NumPy writes",
        )
    most = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else _MOST_INFLATION)
    if info.compress_size > archive_bytes or info.file_size > most:
        raise SnapshotError(
            "a member of impossible size",
            where=where,
            found=f"{info.file_size} bytes from {info.compress_size} in a file of {archive_bytes}",
            expected=f"at most {most}",
        )


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    try:
        yield
    except _ILL_FORMED as error:
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:  # EINVAL: a forged offset
            raise unreadable(where, error) from error
        raise SnapshotError("ill-formed archive", where=where, found=str(error) or type(error).__name__) from error
