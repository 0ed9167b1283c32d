"""The daemon's worker process: it reads one job, runs the pipeline, reports the outcome, and exits.

A separate process can be killed at any moment, and a crash in a parser or a lack of memory does not affect the daemon.
It is started before there is work, because loading its libraries takes half a second.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from scipy import linalg

from embsync.daemon.job import Job, Line, Outcome, OutcomeKind, Ready, Step
from embsync.errors import EmbsyncError, SnapshotError, SnapshotIncomplete, StoreDamaged
from embsync.invocation import set_invocation
from embsync.pipeline import CheckRefusedError, UnchangedError
from embsync.pipeline.entry import publish_entry
from embsync.processes import die_with_parent
from embsync.snapshots import shortened
from embsync.store.hold import HeldError, HoldableStore

#: Reported steps of one stage per second; each wakes the daemon.
_STEP_SECONDS = 0.5


def main(parent: int) -> None:
    """Run one job from standard input."""
    send = _private_output()
    die_with_parent(parent)
    faulthandler.enable()
    _prefer_as_oom_victim()
    _allocate_blas_buffers()
    importlib.import_module("embsync.pipeline.run")  # loads FAISS before a job would have to wait for it
    send(Ready())
    line = sys.stdin.buffer.readline()
    if line:
        job = msgspec.json.decode(line, type=Job, dec_hook=lambda kind, value: kind(value))  # for paths
        send(run(job, send))


def run(job: Job, send: Callable[[Line], None]) -> Outcome:
    """Handle the job's entry and return how it ended."""
    set_invocation(job.invocation)
    try:
        manifest = publish_entry(HoldableStore(job.store), job.entry, job.config, _Steps(send))
    except EmbsyncError as error:
        return Outcome(
            "crashed" if _out_of_memory(error) else _kind(error),
            str(error),
            of_snapshot=error.of_snapshot,
            details=error.details(),
            damaged=isinstance(error, StoreDamaged),
        )
    except MemoryError as error:
        return Outcome("crashed", f"out of memory: {error}")
    except OSError as error:
        where = error.filename or job.entry.child.path
        return Outcome("crashed" if _out_of_memory(error) else "error", f"{where}: {error.strerror or error}")
    except Exception as error:
        return Outcome("crashed", f"unexpected {type(error).__name__}: {error}")
    unread = shortened(manifest.snapshot.unread)
    return Outcome(
        "published", f"not read: {unread}" if unread else "", version=manifest.version, seconds=manifest.seconds.total
    )


def _out_of_memory(error: BaseException | None) -> bool:
    """Return whether the cause was a lack of memory, which counts as a death: the kernel often kills the process."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        error = error.__cause__
    return False


def _kind(error: EmbsyncError) -> OutcomeKind:
    if isinstance(error, HeldError):
        return "held"
    if isinstance(error, UnchangedError):
        return "unchanged"
    if isinstance(error, SnapshotIncomplete):
        return "incomplete"
    if isinstance(error, CheckRefusedError):
        return "refused"
    return "failed" if isinstance(error, SnapshotError) and not error.transient else "error"


class _Steps:
    """Reports each new stage at once, and progress within a stage at a limited rate."""

    def __init__(self, send: Callable[[Line], None]) -> None:
        self._send = send
        self._stage = ""
        self._sent = 0.0

    def __call__(self, stage: str, share: float) -> None:
        now = time.monotonic()
        if stage != self._stage or now - self._sent >= _STEP_SECONDS:
            self._stage, self._sent = stage, now
            self._send(Step(str(stage), round(share, 3)))


def _private_output() -> Callable[[Line], None]:
    """Reserve standard output for messages to the daemon; what libraries print goes to standard error."""
    channel = os.dup(1)
    os.dup2(2, 1)

    def send(line: Line) -> None:
        data = msgspec.json.encode(line) + b"\n"
        while data:
            data = data[os.write(channel, data) :]

    return send


def _prefer_as_oom_victim() -> None:
    """Ask the kernel to kill this process first when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _allocate_blas_buffers() -> None:
    """Make NumPy's and SciPy's BLAS allocate their buffers now: if that fails later, they retry forever."""
    matrix = np.eye(64)
    linalg.cholesky(matrix @ matrix)


if __name__ == "__main__":
    main(int(sys.argv[1]))
