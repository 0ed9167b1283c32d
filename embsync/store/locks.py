"""Advisory locks: freed by the kernel when their holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from embsync.errors import StoreBusy
from embsync.store.durable import storage_errors

_POLL_SECONDS = 0.05


@contextlib.contextmanager
def exclusive(path: Path, wait: float, what: str) -> Iterator[None]:
    """Hold the exclusive lock on ``path``, waiting up to ``wait`` seconds for it.

    Raises
    ------
    StoreBusy
        Somebody else holds it; the message says who.
    """
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        _acquire(descriptor, path, wait, what)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, wait: float, what: str) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            raise StoreBusy(f"{what} is locked", where=path, found=f"{_holder(descriptor)} holding it",
                            expected=f"the lock within {wait:g} s", hint="try again, or wait longer with --wait"
                            ) from None
        else:
            return


def _holder(descriptor: int) -> str:
    """Name the process that holds a lock as the kernel knows it, without a word in the file itself."""
    status = os.fstat(descriptor)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == device:
                return f"process {fields[4]}"
    return "another process"


def is_held(path: Path) -> bool:
    """Whether some process holds the lock right now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
