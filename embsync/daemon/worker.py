"""Control of the worker process: it is started in advance, takes one job, and can be killed at any moment."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from embsync.daemon.job import Job, Line, Outcome, Ready, Step
from embsync.processes import ChildProcess, describe_exit

_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)

#: Work without progress for this many seconds is killed and counted as a crash. Progress is a reported step or
#: processor time: an index build reports nothing for minutes, but it computes.
STALL_SECONDS = 240.0


class _Process:
    """One process, and what it has reported so far."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.ready = False
        self.step: Step | None = None
        self.outcome: Outcome | None = None
        self.lines = 0
        self.ended = False
        self.child = ChildProcess(
            [sys.executable, "-m", "embsync.daemon.work", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, name="worker", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.child.stdout as lines:
            for text in lines:
                with contextlib.suppress(msgspec.DecodeError):
                    self._handle(_DECODER.decode(text))
                self.lines += 1
        self.ended = True
        self._wake()

    def _handle(self, line: Line) -> None:
        if isinstance(line, Step):
            self.step = line
        elif isinstance(line, Ready):
            self.ready = True
        else:
            self.outcome = line

    def send(self, job: Job) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died before it got work, which poll reports like any crash
            self.child.stdin.write(msgspec.json.encode(job, enc_hook=str) + b"\n")
            self.child.stdin.flush()

    def processor_ticks(self) -> int:
        """Return the processor time used so far, in the kernel's ticks."""
        try:
            fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0
        return int(fields[11]) + int(fields[12])

    def close(self) -> int:
        """Kill it and everything it started; return its exit code."""
        code = self.child.kill()
        self._reader.join()
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        return code


class Worker:
    """At most one job at a time, each in a fresh process.

    Parameters
    ----------
    wake : callable
        Called from a thread when a job ended.
    stall_seconds : float
        Work that makes no progress for this long is killed.
    """

    def __init__(self, wake: Callable[[], None], stall_seconds: float = STALL_SECONDS) -> None:
        self._wake = wake
        self._stall_seconds = stall_seconds
        self._process: _Process | None = None
        self._job: Job | None = None
        self._progress: tuple[int, int] = (0, 0)
        self.progressed = time.monotonic()

    @property
    def job(self) -> Job | None:
        """The running job."""
        return self._job

    @property
    def step(self) -> Step | None:
        """The last reported step."""
        return None if self._process is None or self._job is None else self._process.step

    @property
    def pid(self) -> int | None:
        """Id of the process that is working or waiting for a job."""
        return None if self._process is None else self._process.child.pid

    def warm(self) -> None:
        """Start a process for the next job."""
        if self._process is not None and self._process.ended and self._job is None:
            self.kill()
        if self._process is None:
            self._process = _Process(self._wake)

    def begin(self, job: Job, now: float) -> None:
        """Start a job; there must be none."""
        assert self._job is None
        self.warm()
        assert self._process is not None
        self._process.send(job)
        self._job = job
        self.progressed = now

    def poll(self, now: float) -> Outcome | None:
        """Return the outcome of the job, or None while it runs or if there is none."""
        if self._job is None or self._process is None:
            return None
        self._check_progress(now)
        stalled = now - self.progressed > self._stall_seconds
        if not self._process.ended and not stalled:
            return None
        outcome = self._process.outcome
        code = self.kill()
        if stalled:
            return Outcome("crashed", f"made no progress for {self._stall_seconds:g} s")
        return outcome or Outcome("crashed", describe_exit(code))

    def kill(self) -> int:
        """Kill the process at once; return its exit code."""
        process, self._process, self._job = self._process, None, None
        return 0 if process is None else process.close()

    def _check_progress(self, now: float) -> None:
        assert self._process is not None
        sign = (self._process.lines, self._process.processor_ticks())
        if sign != self._progress:
            self._progress, self.progressed = sign, now
