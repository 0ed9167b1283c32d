"""Verification shared by workers: the first one hashes a new version, the others rely on its result."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from embsync.file_hashes import Stopped
from embsync.reader import Version
from embsync.reader.verification import verify
from embsync.store import layout

_LOOK_AGAIN = 0.02
#: Nice value of the thread (Linux), from 0 to 19: it gets a tenth of a core if all are busy, otherwise an entire one.
_PRIORITY = 10


class SharedVerification:
    """Verifies versions for all workers of one server.

    The version last found intact is recorded in a file, with inode, size and times of its files; changed files are
    hashed again. The hashing worker holds a lock on that file, which the kernel releases if it dies.

    Parameters
    ----------
    directory : path
        Only this server's workers can write here.
    """

    def __init__(self, directory: Path) -> None:
        self._record_path = directory / "whole-version"

    def __call__(self, version: Version, stopped: Callable[[], bool]) -> None:
        """Return once a worker has found the version intact and this one has opened it.

        Raises
        ------
        StoreError
            It is damaged.
        Stopped
            ``stopped`` returned True.
        """
        with self._record_path.open("a+") as record:
            _lock(record, stopped)
            identity = _identity(version)
            record.seek(0)
            if record.read() != identity:
                _at_low_priority(verify, version, stopped)
                record.truncate(0)
                record.write(identity)
        _at_low_priority(version.open_files)


def _at_low_priority(work: Callable[..., None], *arguments: object) -> None:
    """Do work in a thread of low priority, since a lowered priority cannot be raised again."""
    with ThreadPoolExecutor(1, "embsync-verify", _lower_priority) as thread:
        thread.submit(work, *arguments).result()


def _lower_priority() -> None:
    with contextlib.suppress(OSError):  # a service manager may forbid it; then the work is done at normal priority
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)


def _lock(record: IO[str], stopped: Callable[[], bool]) -> None:
    while True:
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if stopped():
                raise Stopped from None
            time.sleep(_LOOK_AGAIN)
        else:
            return


def _identity(version: Version) -> str:
    """Return a value that changes with any file of the version; taken before hashing, to notice later changes."""
    paths = [version.path / name for name in (layout.MANIFEST, *(entry.path for entry in version.record.files))]
    states = [path.stat() for path in paths]
    return json.dumps(
        [version.number, *([state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns] for state in states)]
    )
