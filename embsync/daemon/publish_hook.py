"""``store.on_publish`` beside the loop: once for each version that becomes current, until it has ended for it."""

from __future__ import annotations

import logging
import os
from collections import Counter

from embsync.daemon.problems import Problems
from embsync.logs import log
from embsync.pipeline import on_publish
from embsync.store import Store


class PublishHook:
    """Starts the command, looks after it, and notes how it ended.

    Parameters
    ----------
    store : Store
    problems : Problems
        Is told of a command that failed, and when one ended well.
    counted : Counter
        Counts failures.

    Attributes
    ----------
    pending : bool
        Whether to look if the current version's command never ended.
    ended : str or None
        How the last one ended, for the status.
    """

    def __init__(self, store: Store, problems: Problems, counted: Counter[str]) -> None:
        self._store = store
        self._problems = problems
        self._counted = counted
        self._hook = on_publish.Hook()
        self.pending = True
        self.ended: str | None = None

    @property
    def running(self) -> bool:
        """Whether a command runs."""
        return self._hook.running

    @property
    def version(self) -> int:
        """The version of the command that runs or ran last."""
        return self._hook.version

    def start(self, command: str | None, now: float) -> None:
        """Run the command for the current version, if there is one and it has not ended for that yet."""
        version = None if command is None else on_publish.pending_version(self._store)
        self.pending = False
        if command is not None and version is not None:
            self._note(self._hook.start(command, version, self._store.path(version), now, os.environ))

    def poll(self, now: float) -> None:
        """Look whether the command has ended."""
        self._note(self._hook.poll(now))

    def kill(self) -> None:
        """End the command and whatever it started."""
        self._hook.kill()

    def _note(self, failure: str | None) -> None:
        if failure is None:
            return
        self.ended = f"version {self.version}: {failure or 'well'}"
        if failure:
            self._counted["embsync_on_publish_failures_total"] += 1
            self._problems.note("on_publish", failure)
        else:
            self._problems.over("on_publish")
        log(logging.ERROR if failure else logging.INFO, "on_publish", version=self.version, reason=failure or None)
        on_publish.note(self._store, self.version, failure or None)
