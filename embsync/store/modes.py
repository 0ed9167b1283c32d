"""Modes of what a store holds, the same whatever the umask: who may enter is decided by the store's own directory."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_DIRECTORY = 0o755
_FILE = 0o644
#: A lock can be taken by whoever can open its file, so nobody may read it who may not write.
_LOCK = 0o600


def make_directory(path: Path) -> None:
    """Make a directory, for the group to write where its parent is."""
    path.mkdir()
    _set(path, path.stat(), _DIRECTORY | _group(path.parent, stat.S_IWGRP))


def open_to_readers(path: Path) -> None:
    """Give the directory of a new store its mode."""
    _set(path, path.stat(), _DIRECTORY)


def create_file(path: Path) -> int:
    """Create a file that is not there yet, and return a descriptor to read and write it by."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE)
    correct_file(descriptor, path)
    return descriptor


def correct_file(descriptor: int, path: Path) -> None:
    """Give an open file of ours the mode of a store's files."""
    _set(descriptor, os.fstat(descriptor), _FILE | _group(path.parent, stat.S_IWGRP))


def correct_lock(descriptor: int, path: Path) -> None:
    """Give an open lock file of ours the mode of a lock: of who may write to its directory, and nobody else."""
    found = os.fstat(descriptor)
    folder = path.parent.stat()
    with contextlib.suppress(OSError):  # root makes it for the store's owner; others cannot give files away
        if os.geteuid() == 0 and (found.st_uid, found.st_gid) != (folder.st_uid, folder.st_gid):
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
        elif found.st_gid != folder.st_gid and folder.st_mode & stat.S_IWGRP:
            os.fchown(descriptor, -1, folder.st_gid)
    _set(descriptor, os.fstat(descriptor), _LOCK | _group(path.parent, stat.S_IRGRP | stat.S_IWGRP))


def _group(directory: Path, bits: int) -> int:
    """Return the bits for a group that may write to the directory, 0 where it may not."""
    return bits if directory.stat().st_mode & stat.S_IWGRP else 0


def _set(target: Path | int, found: os.stat_result, mode: int) -> None:
    """Change a mode that differs; set-group-id is the file system's to inherit and stays."""
    mode |= found.st_mode & stat.S_ISGID
    if stat.S_IMODE(found.st_mode) != mode:
        # not ours, a file system without modes, or a service that may not set group bits: it works as it is
        with contextlib.suppress(PermissionError):
            os.chmod(target, mode)  # noqa: PTH101  (also takes a descriptor)
