"""Waiting for what must come, and for time to have passed as a file system sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Seconds in which anything must have happened that a test waits for: on an idle machine it takes a fraction of one,
#: on a busy one what it takes says nothing about the program.
PATIENCE = 100.0
#: CLOCK_REALTIME_COARSE, by which Linux dates files and for which Python has no name.
_COARSE = 5


def eventually(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return the first truthy value, asked for again and again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def next_tick(path: Path) -> None:
    """Wait until the clock that the kernel dates files by has moved on from when a file was changed last."""
    while time.clock_gettime_ns(_COARSE) <= path.stat().st_ctime_ns:
        time.sleep(0.001)


def alive(process: int) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
