"""Whether a version is whole: every file hashed against the manifest before anybody is served from it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

from embsync.errors import StoreDamaged
from embsync.reader.version import Version
from embsync.store.records import damage_hint

#: Bytes hashed between two looks at whether to stop: about 10 ms of work, and long enough to give up the GIL.
_BLOCK = 8 << 20


class Stopped(Exception):
    """The caller no longer wants the answer."""


def verify(
    version: Version, stopped: Callable[[], bool] = lambda: False, *, below: str = "", without: Collection[str] = ()
) -> None:
    """Hash every file of a version, or those below one of its directories.

    Parameters
    ----------
    version : Version
    stopped : callable
        Asked every few milliseconds; True ends the work.
    below : str
        Such as ``transform/``.
    without : collection of str
        Files that are not hashed.

    Raises
    ------
    StoreDamaged
        A file is missing, or its size or hash is not what the manifest says.
    Stopped
    """
    for entry in version.record.files:
        if not entry.path.startswith(below) or entry.path in without:
            continue
        path = version.path / entry.path
        try:
            size, digest = _hash(path, stopped)
        except OSError as error:
            raise StoreDamaged(
                "damaged version", where=path, found=error.strerror, hint=damage_hint(version.path)
            ) from error
        if (size, digest) != (entry.bytes, entry.sha256):
            raise StoreDamaged(
                "damaged version",
                where=path,
                found=f"{size} bytes, sha256 {digest[:12]}…",
                expected=f"{entry.bytes} bytes, sha256 {entry.sha256[:12]}…",
                hint=damage_hint(version.path),
            )


def _hash(path: Path, stopped: Callable[[], bool]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            if stopped():
                raise Stopped
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
