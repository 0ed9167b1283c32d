"""Reading small files of a store, any byte of which may be damaged."""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from embsync.errors import StoreDamaged, StoreError
from embsync.file_hashes import FileEntry, Mismatch
from embsync.invocation import Command, command
from embsync.store import layout
from embsync.store.durable import storage_errors

_Struct = TypeVar("_Struct", bound=msgspec.Struct)

#: Exceptions raised by parsing damaged JSON and converting the result.
MALFORMED = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)


#: Fifty times as fast as strptime: every line of a journal has a time.
_TIME = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def timestamp(seconds: float | None = None) -> str:
    """Return a wall-clock time, by default the current one, as RFC 3339 UTC, to the second."""
    moment = dt.datetime.now(dt.UTC) if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def require_time(text: str) -> None:
    """Raise ValueError unless ``text`` is a time in RFC 3339 UTC, to the second, like all times in a store."""
    if _TIME.fullmatch(text) is None:
        raise ValueError(f"not a time: {text!r}")
    dt.datetime.fromisoformat(text)


def open_record(path: Path) -> BinaryIO | None:
    """Open a file of a store for reading, or return None if it does not exist.

    Raises
    ------
    StoreDamaged
        It is not a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would wait for a writer
    except FileNotFoundError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise StoreDamaged("damaged file", where=path, found="not a regular file", expected="a regular file")


def read_record(path: Path, longest: int) -> bytes | None:
    """Return the bytes of a small file, or None if it does not exist.

    Raises
    ------
    StoreDamaged
        It is not a regular file, or has more than ``longest`` bytes.
    StoreError
        It cannot be read.
    """
    with storage_errors(path):
        file = open_record(path)
        if file is None:
            return None
        with file:
            data = bytearray()
            while len(data) <= longest and (piece := file.read(longest + 1 - len(data))):
                data += piece
    if len(data) > longest:
        raise StoreDamaged("damaged file", where=path, found=f"more than {longest:,} bytes")
    return bytes(data)


def read_struct(path: Path, kind: type[_Struct], longest: int = 2**20) -> _Struct | None:
    """Return a small JSON file as a struct, or None if it does not exist.

    Raises
    ------
    StoreDamaged
        It is not a regular file, or does not hold such a struct.
    StoreError
        It cannot be read.
    """
    data = read_record(path, longest)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except MALFORMED as error:
        raise StoreDamaged("damaged file", where=path, found=str(error)[:200], hint="it can be deleted") from None


def damage_hint(folder: Path) -> Command:
    """Return the command to run when a version's directory is damaged."""
    root = folder.parent.parent
    try:
        current = layout.current_number(root)
    except StoreError:
        current = None
    if current is not None and folder.name == layout.version_name(current):
        return command("rollback", purpose="to return to the last intact version", store=root)
    return command("status", purpose="to see the other versions", store=root)


def damaged_file(folder: Path, entry: FileEntry, wrong: Mismatch) -> StoreDamaged:
    """Return the error for a version's file that does not match its manifest."""
    return StoreDamaged(
        "damaged version",
        where=folder / entry.path,
        found=wrong.found,
        expected=wrong.expected,
        hint=damage_hint(folder),
    )
