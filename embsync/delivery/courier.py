"""One sink of the service: attempts, growing pauses after failures, and what is reported."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from embsync.config import DeliveryConfig, SinkConfig
from embsync.delivery.kinds import open_sink, sink_kind
from embsync.delivery.pauses import Moment, Pauses
from embsync.delivery.secrets import without_secrets
from embsync.delivery.sink import Sink
from embsync.delivery.state import SinkReport
from embsync.delivery.steps import Delivered, Superseded, deliver, versions_behind
from embsync.errors import EmbsyncError, NotFoundError
from embsync.logs import log
from embsync.store.records import timestamp

#: Consecutive attempts, without pauses, if another version becomes current during a delivery.
_SUPERSEDED = 5


class Courier:
    """Delivers the store's current version to one sink in a separate thread, so that no sink waits for another.

    Parameters
    ----------
    config : SinkConfig
    delivery : DeliveryConfig
    root : path
        The store.
    on_missed_recall : {"warn", "refuse"}
    open_ : callable
        Opens the sink.
    """

    def __init__(
        self,
        config: SinkConfig,
        delivery: DeliveryConfig,
        root: Path,
        on_missed_recall: Literal["warn", "refuse"],
        open_: Callable[[SinkConfig], Sink] = open_sink,
    ) -> None:
        self.name = config.name
        self._config = config
        self.wake = threading.Event()
        self._report = SinkReport(kind=sink_kind(config))
        self._times: dict[str, Moment | None] = dict.fromkeys(("behind_since", "next_attempt", "delivered"))
        self._delivery = delivery
        self._root = root
        self._on_missed_recall = on_missed_recall
        self._open = open_
        self._pauses = Pauses(delivery.retry_seconds)
        self._thread = threading.Thread(target=self._run, name=f"sink {self.name}", daemon=True)
        self._after: Courier | None = None
        self._stop = False
        self._logs = False

    @property
    def report(self) -> SinkReport:
        """The state of the sink; times follow this machine's clock as it is set now."""
        return msgspec.structs.replace(self._report, **{name: _text(moment) for name, moment in self._times.items()})

    def start(self) -> None:
        """Start the thread and log what it does. Without a thread, the caller of :meth:`attempt` reports the result."""
        self._logs = True
        self._thread.start()

    def replace(self, predecessor: Courier) -> None:
        """Start once the thread of the sink's previous configuration has ended, and take over its state."""
        self._after = predecessor
        self._report = msgspec.structs.replace(predecessor._report, kind=self._report.kind)
        self._times = dict(predecessor._times)
        predecessor.stop()
        self.start()

    def has_same_settings(self, other: Courier) -> bool:
        """Return whether another courier has the same sink and settings."""
        mine, theirs = (
            (one._config, one._delivery.retry_seconds, one._delivery.recheck_seconds, one._on_missed_recall)
            for one in (self, other)
        )
        return mine == theirs

    def stop(self) -> None:
        """Ask the thread to end after the current step."""
        self._stop = True
        self.wake.set()

    def join(self, seconds: float) -> bool:
        """Wait for the thread, and return whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._after is not None:
            self._after._thread.join()
            self._after = None
        while not self._stop:
            self.wake.clear()
            pause = self.attempt()[0]
            self.wake.wait(pause)

    def attempt(self) -> tuple[float, EmbsyncError | None]:
        """Deliver once; return the seconds until the next attempt, and the error if there was one."""
        try:
            self._deliver()
        except NotFoundError as error:
            self._times["behind_since"] = None
            self._change(state="waiting", behind=0, error=without_secrets(str(error)))
            return self._delivery.retry_seconds, error
        except EmbsyncError as error:
            return self._failed(error), error
        except Exception as error:  # a defect here or in a library; the text may contain a secret
            found = without_secrets(f"{type(error).__name__}: {error}")
            unexpected = EmbsyncError("unexpected error", found=found)
            return self._failed(unexpected), unexpected
        self._pauses.succeeded()
        return self._delivery.recheck_seconds, None

    def _deliver(self) -> None:
        sink = self._open(self._config)
        try:
            with contextlib.suppress(EmbsyncError):
                self.record_current(sink.current())
            if self._report.behind:
                self._change(state="delivering")
            for turn in range(_SUPERSEDED):
                try:
                    done = deliver(sink, self._root, self._config.keep_versions, self._on_missed_recall)
                except Superseded:
                    if turn == _SUPERSEDED - 1:
                        raise
                else:
                    self._succeeded(done)
                    return
        finally:
            sink.close()

    def record_current(self, current: int | None) -> None:
        """Record which version the sink's readers see, and since when it is behind."""
        behind = versions_behind(self._root, current)
        self._times["behind_since"] = None if behind == 0 else self._times["behind_since"] or Moment()
        self._change(current=current, behind=behind)

    def _succeeded(self, done: Delivered) -> None:
        self.record_current(done.version)
        if done.restored and self._logs:
            log(logging.WARNING, "restored", sink=self.name, version=done.version, files=", ".join(done.restored))
        changes: dict[str, Any] = {"old": list(done.waiting)}
        if done.probe is not None:
            notes = [*done.probe.notes, *([] if done.missed is None else [done.missed])]
            changes |= {"recall": done.probe.recall, "search": dict(done.probe.search), "notes": notes}
            self._times["delivered"] = Moment()
        self._times["next_attempt"] = None
        self._change(state="current", error=None, failures=0, **changes)
        if done.changed and self._logs:
            fields = {"recall": self._report.recall, "notes": "; ".join(self._report.notes) or None}
            log(logging.INFO, "delivered", sink=self.name, version=done.version, previous=done.previous, **fields)

    def _failed(self, error: EmbsyncError) -> float:
        pause = self._pauses.failed()
        text = without_secrets(str(error))
        with contextlib.suppress(EmbsyncError):  # the cause may be in the store
            self.record_current(self._report.current)
        if text != self._report.error and self._logs:
            details = {name: without_secrets(value) for name, value in error.details().items()}
            reason = without_secrets(error.what)
            log(logging.ERROR, "delivery_failed", sink=self.name, reason=reason, where=error.where, **details)
        failures, total = self._pauses.failures, self._report.failures_total + 1
        self._times["next_attempt"] = Moment(pause)
        self._change(state="retrying", error=text, failures=failures, failures_total=total)
        return pause

    def _change(self, **changes: Any) -> None:
        self._report = msgspec.structs.replace(self._report, **changes)


def _text(moment: Moment | None) -> str | None:
    return None if moment is None else timestamp(moment.seconds())
