"""Open problems, by source."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping

from embsync.daemon.status import Problem
from embsync.logs import log
from embsync.store.records import timestamp

_RANDOM_NAME = re.compile(r"-[0-9a-f]{8}\b")


class Problems:
    """At most one open problem per source: a duty of the loop, a reload, the hook, or the work on snapshots."""

    def __init__(self) -> None:
        self._open: dict[str, Problem] = {}
        self._since: dict[str, float] = {}

    @property
    def latest(self) -> Problem | None:
        """The most recent open problem."""
        return max(self._open.values(), key=lambda one: one.time, default=None)

    def snapshot(self, source: str) -> str | None:
        """Return the snapshot that a source's problem concerns."""
        found = self._open.get(source)
        return None if found is None else found.snapshot

    def since(self, source: str) -> float:
        """Return the wall-clock time at which a source's problem last occurred; infinity if there is none."""
        return self._since.get(source, float("inf"))

    def open(
        self,
        source: str,
        what: str,
        *,
        snapshot: str | None = None,
        event: str | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Open a problem; with an ``event``, log it, unless the same problem is already open."""
        before = self._open.get(source)
        if event is not None and (before is None or _without_random_names(before.what) != _without_random_names(what)):
            log(logging.ERROR, event, reason=what, **(details or {}))
        self._since[source] = time.time()
        self._open[source] = Problem(timestamp(self._since[source]), what, snapshot, **(details or {}))

    def close(self, *sources: str) -> None:
        """Close the problems of these sources."""
        for source in sources:
            self._open.pop(source, None)
            self._since.pop(source, None)


def _without_random_names(what: str) -> str:
    return _RANDOM_NAME.sub("", what)
