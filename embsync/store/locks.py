"""Advisory locks, which the kernel releases when their holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from embsync.errors import StoreBusy, StoreDamaged, StoreError
from embsync.store.durable import close, storage_errors
from embsync.store.modes import correct_lock
from embsync.store.records import damage_hint

_POLL_SECONDS = 0.05


@contextlib.contextmanager
def exclusive(path: Path, wait: float, what: str) -> Iterator[None]:
    """Hold the exclusive lock on ``path``, waiting up to ``wait`` seconds for it.

    Raises
    ------
    StoreBusy
        Another process holds it; the message names it.
    """
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with storage_errors(path):
            correct_lock(descriptor, path)
            _acquire(descriptor, path, wait, what)
        yield
    finally:
        close(descriptor)


def _acquire(descriptor: int, path: Path, wait: float, what: str) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            raise StoreBusy(
                f"{what} is locked",
                where=path,
                found=f"{_holder(descriptor)} holding it",
                expected=f"the lock within {wait:g} s",
                hint="try again, or wait longer with --wait",
            ) from None
        else:
            return


def _holder(descriptor: int) -> str:
    """Describe the process that holds a lock, according to the kernel."""
    process = _process_in_kernel(os.fstat(descriptor))
    return "another process" if process is None else f"process {process}"


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock, from the kernel's list of locks if the file may not be opened.

    Raises
    ------
    StoreError
        Neither can be read.
    """
    with storage_errors(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except PermissionError:
            return _process_in_kernel(path.stat()) is not None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            close(descriptor)
    return False


def _process_in_kernel(status: os.stat_result) -> int | None:
    """Return the process that holds a lock on a file, None if it is not known in this namespace."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == device:
                return int(fields[4])
    return None


def identity(path: Path, descriptor: int | None = None) -> tuple[int, int] | None:
    """Return device and inode of a version's directory, or None if it does not exist.

    Numbers alone do not identify versions, since they start again at 1 in a recreated store.
    """
    try:
        status = path.stat() if descriptor is None else os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def pin(path: Path) -> int:
    """Open a version's directory under a shared lock, and check that the path still leads to it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreDamaged("damaged version", where=path, found=error.strerror, hint=damage_hint(path)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if identity(path) != identity(path, descriptor):
            raise FileNotFoundError(path)
    except FileNotFoundError:
        close(descriptor)
        raise
    except OSError as error:
        close(descriptor)
        raise StoreError(
            "the version cannot be locked", where=path, found=error.strerror, hint="does its file system support flock?"
        ) from error
    return descriptor
