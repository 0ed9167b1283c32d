"""Waiting for an engine is reported as progress, as long as the engine makes any."""

from __future__ import annotations

import threading
from typing import Any

from support.waiting import PATIENCE

from embsync.pipeline.engine import Reported


class Engine:
    """Reports progress as often as it was configured to."""

    def __init__(self, changes: int) -> None:
        self.asked, self.changes = 0, changes

    def sign(self) -> object:
        self.asked += 1
        return min(self.asked, self.changes)


def reports(engine: Any, beats: int, silent_seconds: float) -> int:
    """Return how many reports there were after the engine was asked so many times."""
    seen: list[tuple[str, float]] = []
    enough = threading.Event()

    class QueryRequest(Engine):
        def sign(self) -> object:
            if self.asked >= beats:
                enough.set()
            return super().sign()

    watched = QueryRequest(engine.changes)
    with Reported(lambda stage, share: seen.append((stage, share)), 0.005, silent_seconds) as reported:
        reported.watch(watched)
        reported("reading", 0.5)
        assert enough.wait(PATIENCE)
    assert set(seen) == {("reading", 0.5)}
    return len(seen) - 1


def test_the_last_progress_is_repeated_while_the_engine_works() -> None:
    """At every beat: a process that only waits for a cluster is not killed."""
    assert reports(Engine(changes=1000), 20, silent_seconds=0.0) >= 20


def test_a_job_that_hangs_is_not_reported_for_ever() -> None:
    """Without progress of the engine there are no more reports, so that the daemon ends it."""
    assert reports(Engine(changes=5), 40, silent_seconds=0.0) <= 6
