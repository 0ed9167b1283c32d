"""The engine of a run, as configured."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from embsync.config import EngineConfig
from embsync.engines.protocol import Engine
from embsync.progress import Progress

#: Seconds between two reports while an engine works, during which this process uses no processor time.
_BEAT_SECONDS = 15.0


class Reported:
    """Repeats the last progress report while an engine works, so that waiting for it is not taken for a stall.

    An engine without progress is interrupted, so that a run never waits for it indefinitely.

    Parameters
    ----------
    progress : Progress
    stall_seconds : float
        Seconds without progress of the engine, such as a completed task, after which its jobs are ended and reports
        stop. A job may wait for a busy cluster, but a job that hangs must be detected.
    beat_seconds : float
        Seconds between two reports.
    """

    def __init__(self, progress: Progress, stall_seconds: float, beat_seconds: float = _BEAT_SECONDS) -> None:
        self._progress = progress
        self._stall_seconds = stall_seconds
        self._beat_seconds = min(beat_seconds, stall_seconds)
        self._last: tuple[str, float] | None = None
        self._engine: Engine | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="embsync-engine", daemon=True)

    def __call__(self, stage: str, share: float) -> None:
        """Report progress."""
        self._last = stage, share
        self._progress(stage, share)

    def watch(self, engine: Engine) -> None:
        """Poll this engine for progress."""
        self._engine = engine

    def __enter__(self) -> Reported:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _repeat(self) -> None:
        last: object = None
        interrupted = False
        silent = 0.0  # counted in beats, since a clock advances even while this process or its machine is stopped
        while not self._done.wait(self._beat_seconds):
            silent += self._beat_seconds
            found = (self._last, None if self._engine is None else self._engine.progress())
            if found != last:
                last, silent = found, 0.0
                interrupted = False
            if silent > self._stall_seconds:
                if self._engine is not None and not interrupted:
                    self._engine.interrupt()
                    interrupted = True
            elif self._last is not None:
                self._progress(*self._last)


@contextlib.contextmanager
def open_engine(config: EngineConfig) -> Iterator[Engine | None]:
    """Yield the engine that reads the users' rows; None if this process reads them."""
    if config.kind == "local":
        yield None
        return
    from embsync.engines.spark.session import require_packages, running_session  # noqa: PLC0415  (the extra `spark`)

    require_packages()
    with running_session(config) as jobs:
        from embsync.engines.spark.engine import SparkEngine  # noqa: PLC0415  (imports pyspark)

        yield SparkEngine(jobs, config.partitions)
