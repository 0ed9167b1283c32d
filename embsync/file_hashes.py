"""Sizes and hashes of a version's files, and whether a file still has them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

#: Bytes hashed between two checks whether to stop: about 10 ms of work, long enough to release the GIL.
HASHED_AT_ONCE = 8 << 20


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a version.

    Attributes
    ----------
    path : str
        Relative to the version's directory, with ``/`` between its parts.
    bytes : int
        Its size in bytes.
    sha256 : str
        Its SHA-256, 64 lowercase hexadecimal digits.
    """

    path: str
    bytes: int
    sha256: str


class Stopped(Exception):
    """The caller stopped the work."""


@dataclass(frozen=True)
class Mismatch:
    """A difference between a file and its entry; ``expected`` is None if the file cannot be read."""

    found: str
    expected: str | None


def mismatch(
    folder: Path, entry: FileEntry, stopped: Callable[[], bool] = lambda: False, *, hashed: bool = True
) -> Mismatch | None:
    """Compare a file of a version with its entry; return None if they match.

    Parameters
    ----------
    folder : Path
        The version's directory.
    entry : FileEntry
    stopped : callable
        Called every few milliseconds; True stops the work.
    hashed : bool
        Whether contents are compared, or only the size.

    Raises
    ------
    Stopped
        ``stopped`` returned True.
    """
    path = folder / entry.path
    try:
        size, digest = hash_file(path, stopped) if hashed else (path.stat().st_size, entry.sha256)
    except OSError as error:
        return Mismatch(error.strerror or str(error), None)
    if size != entry.bytes:
        return Mismatch(f"{size} bytes", f"{entry.bytes} bytes")
    if digest != entry.sha256:
        return Mismatch(f"sha256 {digest[:12]}…", f"{entry.sha256[:12]}…")
    return None


def hash_file(path: Path, stopped: Callable[[], bool] = lambda: False, *, drop_cache: bool = False) -> tuple[int, str]:
    """Return size and hexadecimal sha256 of a file; with ``drop_cache``, read it from the disk if the kernel can.

    Raises
    ------
    Stopped
        ``stopped`` returned True.
    """
    digest, size = hashlib.sha256(), 0
    # opening a FIFO in the file's place would block until there is a writer
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        if drop_cache:
            forget_pages(file)
        while block := file.read(HASHED_AT_ONCE):
            if stopped():
                raise Stopped
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def forget_pages(file: IO[bytes]) -> None:
    """Drop a file from the page cache, so that the next read comes from the disk."""
    with contextlib.suppress(OSError):  # advice only, which tmpfs and network file systems may reject
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
