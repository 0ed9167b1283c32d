"""Modes of the files in a store, independent of the umask: access is controlled by the store's own directory."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_DIRECTORY = 0o755
_FILE = 0o644
#: Anyone who can open a lock file can take the lock, so only users with write permission may read it.
_LOCK = 0o600


def make_directory(path: Path) -> None:
    """Create a directory, group-writable if its parent is."""
    path.mkdir()
    _set(path, path.stat(), _DIRECTORY | _group(path.parent, stat.S_IWGRP))


def open_to_readers(path: Path) -> None:
    """Set the mode of a new store's directory."""
    _set(path, path.stat(), _DIRECTORY)


def create_file(path: Path) -> int:
    """Create a new file, and return a descriptor for reading and writing."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE)
    correct_file(descriptor, path)
    return descriptor


def correct_file(descriptor: int, path: Path) -> None:
    """Set the mode of an open file that this user owns."""
    _set(descriptor, os.fstat(descriptor), _FILE | _group(path.parent, stat.S_IWGRP))


def correct_lock(descriptor: int, path: Path) -> None:
    """Set the mode of an open lock file that this user owns: accessible only with write permission to its directory."""
    found = os.fstat(descriptor)
    folder = path.parent.stat()
    with contextlib.suppress(OSError):  # root creates it for the store's owner; others cannot change owners
        if os.geteuid() == 0 and (found.st_uid, found.st_gid) != (folder.st_uid, folder.st_gid):
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
        elif found.st_gid != folder.st_gid and folder.st_mode & stat.S_IWGRP:
            os.fchown(descriptor, -1, folder.st_gid)
    _set(descriptor, os.fstat(descriptor), _LOCK | _group(path.parent, stat.S_IRGRP | stat.S_IWGRP))


def _group(directory: Path, bits: int) -> int:
    """Return the mode bits for a group that may write to the directory, 0 if it may not."""
    return bits if directory.stat().st_mode & stat.S_IWGRP else 0


def _set(target: Path | int, found: os.stat_result, mode: int) -> None:
    """Change a mode that differs; the set-group-ID bit, which is inherited from the parent directory, is kept."""
    mode |= found.st_mode & stat.S_ISGID
    if stat.S_IMODE(found.st_mode) != mode:
        # owned by another user, a file system without modes, or a service that may not set group bits
        with contextlib.suppress(PermissionError):
            os.chmod(target, mode)  # noqa: PTH101  (also takes a descriptor)
