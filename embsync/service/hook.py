"""``store.on_publish``: a command run after each publish. It may fail; what was published stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

#: Longer than any reload of a search backend should need, short enough that a stuck one does not hold up a night.
LIMIT_SECONDS = 60.0


class Hook:
    """At most one command at a time, in a process group of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = 0.0
        self.version = 0

    @property
    def running(self) -> bool:
        """Whether a command has been started and not yet been seen to end."""
        return self._process is not None

    def start(self, command: str, version: int, path: Path, now: float, environment: Mapping[str, str]) -> str | None:
        """Start the command by ``/bin/sh``; return why it could not be started."""
        told = {**environment, "EMBSYNC_VERSION": str(version), "EMBSYNC_PATH": str(path)}
        self.version = version
        try:
            self._process = subprocess.Popen(["/bin/sh", "-c", command], env=told, stdin=subprocess.DEVNULL,
                                             stdout=2, process_group=0)
        except OSError as error:
            return f"store.on_publish could not be started: {error.strerror}"
        self._deadline = now + LIMIT_SECONDS
        return None

    def poll(self, now: float) -> str | None:
        """Look after the command; return what went wrong, "" when it ended well, None while nothing is to be told."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is None and now < self._deadline:
            return None
        if code is None:
            self.kill()
            return f"store.on_publish took longer than {LIMIT_SECONDS:g} s and was ended"
        self._process = None
        return "" if code == 0 else f"store.on_publish ended with {code}"

    def kill(self) -> None:
        """End the command and whatever it started."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
