"""Directories in memory, where fsync costs nothing, for tests that do not test disks."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MEMORY = Path("/dev/shm")
#: pytest makes its directories below this one.
_ROOT_OF_PYTEST = "PYTEST_DEBUG_TEMPROOT"
#: All workers together use a fraction of this.
_ENOUGH = 4 * 1024**3


def use_memory() -> None:
    """Put ``tmp_path`` in memory if there is enough of it, unless another directory was given.

    A disk takes milliseconds for an fsync, and a publish makes dozens.
    """
    if _MEMORY.is_dir() and min(shutil.disk_usage(_MEMORY).free, _available()) >= _ENOUGH:
        os.environ.setdefault(_ROOT_OF_PYTEST, str(_MEMORY))


def _available() -> int:
    """Return the bytes of memory that are available without swapping."""
    figures = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(figures["MemAvailable"].split()[0]) * 1024


@contextlib.contextmanager
def quick_directory() -> Iterator[Path]:
    """Yield an empty directory that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="embsync-test-", dir=_MEMORY if _MEMORY.is_dir() else None) as path:
        yield Path(path)
