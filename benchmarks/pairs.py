"""Best of alternating pairs: the cost of two ways to do the same, on a machine with other load.

Medians of seconds depend on the load of a shared machine. Runs of both ways alternate, and the least wall time and the
least processor time of each are kept, since other processes never make a run faster.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Seconds of one piece of work.

    Attributes
    ----------
    wall : float
    processor : float
        User and system time of this process, its threads and its children; running children in steps of 10 ms.
    """

    wall: float
    processor: float

    def least(self, other: Cost) -> Cost:
        """Return the smaller wall time and the smaller processor time."""
        return Cost(min(self.wall, other.wall), min(self.processor, other.processor))


def cost(work: Callable[[], Any]) -> Cost:
    """Run ``work`` and return its cost."""
    before, began = _processor(), time.perf_counter()
    work()
    return Cost(time.perf_counter() - began, _processor() - before)


def best(works: Sequence[Callable[[], Any]], repeats: int) -> list[Cost]:
    """Run all ``works`` in turn, ``repeats`` times, and return the least cost of each."""
    least = [cost(work) for work in works]
    for _ in range(repeats - 1):
        least = [one.least(cost(work)) for one, work in zip(least, works, strict=True)]
    return least


def _processor() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent) + _of_running_children()


def _of_running_children() -> float:
    ticks = 0
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            for pid in (thread / "children").read_text().split():
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
