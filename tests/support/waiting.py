"""Waiting for an event, and for the file system's clock to advance."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Seconds within which an awaited event must happen: on an idle machine it takes a fraction of one,
#: on a busy one its duration says nothing about the program.
PATIENCE = 100.0
#: CLOCK_REALTIME_COARSE, from which Linux takes file times and for which Python has no name.
_COARSE = 5


def eventually(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return the first truthy value of repeated calls."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def next_tick(path: Path) -> None:
    """Wait until the kernel's clock for file times has advanced since a file was last changed."""
    while time.clock_gettime_ns(_COARSE) <= path.stat().st_ctime_ns:
        time.sleep(0.001)


def alive(process: int) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
