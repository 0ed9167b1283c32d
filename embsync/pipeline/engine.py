"""The engine of a run, by the configuration."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from embsync.config import EngineConfig
from embsync.engines.seam import Engine
from embsync.progress import Progress

#: Seconds between two reports while an engine works, during which this process uses no processor time.
_BEAT_SECONDS = 15.0


class Reported:
    """Progress that is reported again while an engine works, so that waiting for it is not taken for a stall."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last: tuple[str, float] | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="embsync-engine", daemon=True)

    def __call__(self, stage: str, share: float) -> None:
        """Report progress."""
        self._last = stage, share
        self._progress(stage, share)

    def __enter__(self) -> Reported:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._done.wait(_BEAT_SECONDS):
            if self._last is not None:
                self._progress(*self._last)


@contextlib.contextmanager
def open_engine(config: EngineConfig) -> Iterator[Engine | None]:
    """Yield what reads the users' rows; None: this process."""
    if config.kind == "local":
        yield None
        return
    from embsync.engines.spark.session import require_packages, running_session  # noqa: PLC0415  (the extra `spark`)

    require_packages()
    with running_session(config) as session:
        from embsync.engines.spark.engine import SparkEngine  # noqa: PLC0415  (imports pyspark)

        yield SparkEngine(session, config.partitions)
