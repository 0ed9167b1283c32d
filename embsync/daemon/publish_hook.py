"""``store.on_publish``, run in parallel with the loop: at least once for each version that becomes current."""

from __future__ import annotations

import logging
import os
from collections import Counter

from embsync.daemon.problems import Problems
from embsync.logs import log
from embsync.pipeline import on_publish
from embsync.store import Store


class PublishHook:
    """Starts the command, enforces its time limit, and records how it ended.

    Parameters
    ----------
    store : Store
    problems : Problems
        Receives a problem when the command fails, which is closed when it succeeds.
    counters : Counter
        Counts failures.

    Attributes
    ----------
    pending : bool
        Whether to check that the command has ended for the current version.
    ended : str or None
        How the last command ended, for the status.
    """

    def __init__(self, store: Store, problems: Problems, counters: Counter[str]) -> None:
        self._store = store
        self._problems = problems
        self._counters = counters
        self._hook = on_publish.Hook()
        self.pending = True
        self.ended: str | None = None

    @property
    def running(self) -> bool:
        """Whether the command is running."""
        return self._hook.running

    @property
    def version(self) -> int:
        """The version for which the command is running or last ran."""
        return self._hook.version

    def start(self, command: str | None, now: float) -> None:
        """Run the command for the current version, unless it has already ended for that version."""
        version = None if command is None else on_publish.pending_version(self._store)
        self.pending = False
        if command is not None and version is not None:
            self._record(self._hook.start(command, version, self._store.path(version), now, os.environ))

    def poll(self, now: float) -> None:
        """Check whether the command has ended."""
        self._record(self._hook.poll(now))

    def kill(self) -> None:
        """Kill the command and everything it started."""
        self._hook.kill()

    def _record(self, failure: str | None) -> None:
        if failure is None:
            return
        self.ended = f"version {self.version}: {failure or 'succeeded'}"
        if failure:
            self._counters["embsync_on_publish_failures_total"] += 1
            self._problems.open("on_publish", failure)
        else:
            self._problems.close("on_publish")
        log(logging.ERROR if failure else logging.INFO, "on_publish", version=self.version, reason=failure or None)
        on_publish.note(self._store, self.version, failure or None)
