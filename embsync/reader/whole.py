"""Whether a version is whole: every file hashed against the manifest before anybody is served from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from embsync.errors import StoreError
from embsync.reader.version import Version

#: Bytes hashed between two looks at whether to stop: about 10 ms of work, and long enough to give up the GIL.
_BLOCK = 8 << 20


class Stopped(Exception):
    """The caller no longer wants the answer."""


def verify(version: Version, stopped: Callable[[], bool] = lambda: False, *, below: str = "") -> None:
    """Hash every file of a version, or those below one of its directories.

    Parameters
    ----------
    version : Version
    stopped : callable
        Asked every few milliseconds; True ends the work.
    below : str
        Such as ``transform/``.

    Raises
    ------
    StoreError
        A file is missing, or its size or hash is not what the manifest says.
    Stopped
    """
    for entry in version.record.files:
        if not entry.path.startswith(below):
            continue
        path = version.path / entry.path
        size, digest = _hash(path, stopped)
        if (size, digest) != (entry.bytes, entry.sha256):
            raise StoreError("damaged version", where=path, found=f"{size} bytes, sha256 {digest[:12]}…",
                             expected=f"{entry.bytes} bytes, sha256 {entry.sha256[:12]}…",
                             hint="embsync rollback goes back to a whole version")


def _hash(path: Path, stopped: Callable[[], bool]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                if stopped():
                    raise Stopped
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise StoreError("damaged version", where=path, found=error.strerror,
                         hint="embsync rollback goes back to a whole version") from error
    return size, digest.hexdigest()
