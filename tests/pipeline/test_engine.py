"""Waiting for an engine is reported as progress while the engine makes progress."""

from __future__ import annotations

import threading
import time
from typing import Any

from support.waiting import PATIENCE, eventually

from embsync.pipeline.engine import Reported


class Engine:
    """Reports a number of changes of progress, then none."""

    def __init__(self, changes: int) -> None:
        self.asked, self.changes, self.interrupted = 0, changes, 0

    def progress(self) -> object:
        self.asked += 1
        return min(self.asked, self.changes)

    def interrupt(self) -> None:
        self.interrupted += 1


def reports(engine: Any, beats: int, stall_seconds: float) -> int:
    """Return the number of reports until the engine was polled ``beats`` times, and record the interruptions."""
    seen: list[tuple[str, float]] = []
    enough = threading.Event()

    class Observed(Engine):
        def progress(self) -> object:
            if self.asked >= beats:
                enough.set()
            return super().progress()

    watched = Observed(engine.changes)
    with Reported(lambda stage, share: seen.append((stage, share)), stall_seconds, 0.005) as reported:
        reported("reading", 0.5)  # before the engine is polled, there is nothing to repeat
        reported.watch(watched)
        assert enough.wait(PATIENCE)
    assert set(seen) == {("reading", 0.5)}
    engine.interrupted = watched.interrupted
    return len(seen) - 1


def test_the_last_progress_is_repeated_while_the_engine_works() -> None:
    """It is repeated at every beat, so that a process that only waits for a cluster is not killed."""
    engine = Engine(changes=1000)
    assert reports(engine, 20, stall_seconds=0.005) >= 20
    assert engine.interrupted == 0


def test_a_job_that_hangs_is_not_reported_for_ever() -> None:
    """If the engine makes no progress, reports end, and it is interrupted once."""
    engine = Engine(changes=5)
    assert reports(engine, 40, stall_seconds=0.005) <= 6
    assert engine.interrupted == 1


def test_time_for_which_the_process_was_stopped_does_not_count() -> None:
    """A job that continues after Ctrl-Z or a suspended machine is not interrupted."""

    class Stopped(Engine):
        def progress(self) -> object:
            if self.asked == 2:
                time.sleep(0.3)  # clocks continue while a process is stopped
            super().progress()
            return max(self.asked, 4)

    engine = Stopped(changes=1000)
    with Reported(lambda *_: None, stall_seconds=0.2, beat_seconds=0.005) as reported:
        reported.watch(engine)
        eventually(lambda: engine.asked > 20)
    assert engine.interrupted == 0
