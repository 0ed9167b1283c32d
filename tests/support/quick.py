"""A place for stores whose tests are about logic: in memory where there is one, so that fsync costs nothing."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MEMORY = Path("/dev/shm")


@contextlib.contextmanager
def quick_directory() -> Iterator[Path]:
    """Give an empty directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="embsync-test-", dir=_MEMORY if _MEMORY.is_dir() else None) as path:
        yield Path(path)
