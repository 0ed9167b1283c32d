"""``store.on_publish``: a command run after each publish. If it fails, the version stays published.

Whichever process publishes runs it: the daemon, ``sync``, ``accept``, ``widen``. Its outcome is recorded in the store.
If none is recorded for the current version, because the process died, the daemon runs the command again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from embsync.errors import EmbsyncError, StoreError
from embsync.logs import log
from embsync.processes import ChildProcess, describe_exit
from embsync.store import Store
from embsync.store.durable import replace_file, storage_errors
from embsync.store.records import read_struct, timestamp

HOOK_RECORD = "on_publish.json"

#: Time limit in seconds: more than any reload of a search backend should need, and far less than a night.
LIMIT_SECONDS = 60.0


class HookRecord(msgspec.Struct, frozen=True):
    """The highest version whose command ended, when, and what went wrong; None when nothing did."""

    version: Annotated[int, msgspec.Meta(ge=0, lt=10**18)]
    time: str
    failed: str | None = None


def pending_version(store: Store) -> int | None:
    """Return the current version if its command has not ended, or None if there is nothing to run.

    A rollback is not a publish: afterwards ``current`` is lower than the recorded version, and nothing is run.

    Raises
    ------
    EmbsyncError
        The store cannot be read.
    """
    current, last = store.current(), _last_record(store)
    return None if current is None or (last is not None and current <= last.version) else current


def note(store: Store, version: int, failed: str | None) -> None:
    """Record durably that a version's command ended.

    Raises
    ------
    StoreError
        The store cannot be written.
    """
    last = _last_record(store)
    if last is None or last.version <= version:
        with storage_errors(store.root):
            replace_file(store.root / HOOK_RECORD, msgspec.json.encode(HookRecord(version, timestamp(), failed)))


def run_on_publish(store: Store, command: str, version: int, limit: float = LIMIT_SECONDS) -> str | None:
    """Run the command for a version just published and wait for it; return the failure, or None if it succeeded."""
    hook = Hook(limit)
    try:
        failed = hook.start(command, version, store.path(version), time.monotonic(), os.environ) or hook.wait() or None
        note(store, version, failed)
    except EmbsyncError as error:
        return str(error)
    finally:
        hook.kill()
    return failed


class Hook:
    """Runs at most one command at a time; it is killed with the process that runs it.

    Parameters
    ----------
    limit : float
        Seconds after which it is killed.
    """

    def __init__(self, limit: float = LIMIT_SECONDS) -> None:
        self._limit = limit
        self._process: ChildProcess | None = None
        self._deadline = 0.0
        self.version = 0

    @property
    def running(self) -> bool:
        """Whether a command was started and has not been found to have ended."""
        return self._process is not None

    def start(self, command: str, version: int, path: Path, now: float, environment: Mapping[str, str]) -> str | None:
        """Start the command by ``/bin/sh``; return why it could not be started."""
        variables = {**environment, "EMBSYNC_VERSION": str(version), "EMBSYNC_PATH": str(path)}
        self.version = version
        try:
            self._process = ChildProcess(["/bin/sh", "-c", command], guarded=True, env=variables, stdout=2)
        except OSError as error:
            return f"store.on_publish could not be started: {error.strerror}"
        self._deadline = now + self._limit
        return None

    def poll(self, now: float) -> str | None:
        """Check the command; return the failure, "" if it succeeded, or None if it is still running."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is None and now < self._deadline:
            return None
        if code is None:
            self.kill()
            return f"store.on_publish took longer than {self._limit:g} s and was ended"
        self._process = None
        return "" if code == 0 else f"store.on_publish {describe_exit(code)}"

    def wait(self) -> str | None:
        """Wait for the command; return the failure, or None if it succeeded."""
        if self._process is not None:
            self._process.wait(max(self._deadline - time.monotonic(), 0.0))
        return self.poll(self._deadline)

    def kill(self) -> None:
        """Kill the command and everything it started."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()


def _last_record(store: Store) -> HookRecord | None:
    """Return the last recorded outcome; an unreadable file counts as none, so that the command runs again."""
    try:
        return read_struct(store.root / HOOK_RECORD, HookRecord)
    except StoreError as error:
        log(logging.WARNING, "on_publish_unknown", reason=str(error))
        return None
