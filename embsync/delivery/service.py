"""``embsync deliver``: keeps every configured sink at the store's current version."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from embsync import logs
from embsync.config import Config, SinkConfig
from embsync.delivery.courier import Courier
from embsync.delivery.kinds import open_sink
from embsync.delivery.pauses import Moment
from embsync.delivery.secrets import without_secrets
from embsync.delivery.sink import Sink
from embsync.delivery.state import LOCK, DeliveryReport, directory_of, new_report, write_report
from embsync.errors import EmbsyncError, StoreBusy, StoreDamaged, UsageError
from embsync.invocation import command
from embsync.logs import log
from embsync.notify import notify, watchdog_seconds
from embsync.reload import reload
from embsync.signals import Requests, recorded_signals
from embsync.store import layout
from embsync.store.locks import exclusive, identity

#: Seconds after which the state is written even if unchanged, so that its age shows whether the service runs.
_WRITTEN_SECONDS = 15.0
#: Seconds to wait, after a stop, for running deliveries, which may be interrupted at any point.
_STOP_SECONDS = 5.0


class DeliveryService:
    """All sinks of a configuration.

    Parameters
    ----------
    load : callable
        Returns the configuration; called again on SIGHUP.
    open_ : callable
        Opens a sink.
    """

    def __init__(self, load: Callable[[], Config], open_: Callable[[SinkConfig], Sink] = open_sink) -> None:
        self._load = load
        self._open = open_
        self._config = self._checked()
        self._root = Path(self._config.store.path).absolute()
        self._folder = directory_of(self._config.delivery, self._root)
        self._couriers = self._couriers_of(self._config)
        self._replaced: list[Courier] = []
        self._started = Moment()
        self._written = -math.inf
        self._reported: DeliveryReport | None = None
        self._unwritten: str | None = None
        self._problem: str | None = None

    def _checked(self) -> Config:
        """Return the configuration; a sink that cannot be opened makes it invalid."""
        config = self._load()
        if not config.delivery.sinks:
            raise UsageError("no sinks to deliver to", found="no delivery.sinks", hint="docs/delivery.md has examples")
        for sink in config.delivery.sinks:
            self._open(sink).close()
        return config

    def _checked_again(self) -> Config:
        """Return the configuration, in which the directory of the state must not have changed."""
        config = self._checked()
        if config.delivery.directory != self._config.delivery.directory:
            raise UsageError(
                "delivery.directory changed",
                found=config.delivery.directory,
                expected=self._config.delivery.directory,
                hint="restart the service to write its state elsewhere",
            )
        return config

    def _couriers_of(self, config: Config) -> list[Courier]:
        return [
            Courier(sink, config.delivery, self._root, config.index.on_missed_recall, self._open)
            for sink in config.delivery.sinks
        ]

    def once(self) -> dict[str, EmbsyncError | None]:
        """Deliver to every sink once, one after the other; return the error of each."""
        with self._alone():
            found = {courier.name: courier.attempt()[1] for courier in self._couriers}
            self._write(time.monotonic())
            return found

    @property
    def report(self) -> DeliveryReport:
        """The state of every sink."""
        wanted = None
        with contextlib.suppress(EmbsyncError):
            wanted = layout.named_number(self._root)
        sinks = {courier.name: courier.report for courier in self._couriers}
        return new_report(self._started.seconds(), wanted, sinks, self._problem)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code.

        SIGHUP makes it read the configuration again; SIGHUP and SIGUSR1 make it check every sink at once.
        """
        requests = Requests()
        logs.configure(self._config.log)
        with self._alone(), recorded_signals(requests, lambda: None):
            names = ", ".join(courier.name for courier in self._couriers)
            log(logging.INFO, "started", store=str(self._root), sinks=names, state=str(self._folder), pid=os.getpid())
            for courier in self._couriers:
                courier.start()
            notify("READY=1")
            self._loop(requests)
            notify("STOPPING=1")
            ended = self._stop()
            self._write(math.inf)
            log(logging.INFO, "stopped", work_ended=not ended)
        if not ended:
            logging.shutdown()
            os._exit(0)  # an ordinary exit would wait for threads of libraries
        return 0

    def _loop(self, requests: Requests) -> None:
        watchdog = (watchdog_seconds() or math.inf) / 2
        seen = self._current()
        while not requests.stop:
            requests.wake.clear()
            now = self._current()
            reloads, scan = requests.take_reload(), requests.take_scan()
            if reloads:
                self._reload()
            if now != seen or reloads or scan:
                seen = now
                for courier in self._couriers:
                    courier.wake.set()
            self._write(time.monotonic())
            notify("WATCHDOG=1", f"STATUS={self._line()}")
            requests.wake.wait(min(self._config.delivery.rescan_seconds, watchdog))

    def _reload(self) -> None:
        """Read the configuration again; if it is invalid, keep the old one."""
        error = reload(self._checked_again, self._root, self._apply)
        self._problem = None if error is None else without_secrets(str(error))
        if error is not None:
            details = {name: without_secrets(value) for name, value in error.details().items()}
            log(logging.ERROR, "reload_failed", reason=without_secrets(error.what), where=error.where, **details)

    def _apply(self, fresh: Config) -> None:
        """Replace the couriers of sinks that changed; the others continue undisturbed."""
        before = {courier.name: courier for courier in self._couriers}
        couriers = []
        for courier in self._couriers_of(fresh):
            old = before.pop(courier.name, None)
            if old is not None and old.has_same_settings(courier):
                couriers.append(old)
                continue
            if old is not None:
                courier.replace(old)
                self._replaced.append(old)
            else:
                courier.start()
            couriers.append(courier)
        for removed in before.values():
            removed.stop()
        self._replaced = [one for one in [*self._replaced, *before.values()] if not one.join(0.0)]
        self._couriers, self._config = couriers, fresh
        logs.configure(fresh.log)

    def _stop(self) -> bool:
        couriers = [*self._replaced, *self._couriers]
        for courier in couriers:
            courier.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        ended = [courier.join(max(deadline - time.monotonic(), 0.0)) for courier in couriers]
        return all(ended)

    def _current(self) -> object:
        """Return a value that changes when another version becomes current in the store."""
        with contextlib.suppress(EmbsyncError):
            number = layout.named_number(self._root)
            folder = self._root / layout.VERSIONS / layout.version_name(number or 0)
            return number, identity(folder)
        return None

    def _line(self) -> str:
        late = [f"{courier.name} {courier.report.behind} behind" for courier in self._couriers if courier.report.behind]
        return ", ".join(late) or "every sink is current"

    def _write(self, now: float) -> None:
        """Write the state if it has changed or is old; a failed write, as on a full disk, does not stop deliveries."""
        report = self.report
        same = self._reported is not None and msgspec.structs.replace(self._reported, updated=report.updated) == report
        if same and now - self._written < _WRITTEN_SECONDS:
            return
        try:
            write_report(self._folder, report)
        except EmbsyncError as error:
            if str(error) != self._unwritten:
                log(logging.ERROR, "delivery_state", reason=str(error))
            self._unwritten = str(error)
        else:
            self._reported, self._written, self._unwritten = report, now, None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock that allows one delivery from a store at a time; the store must exist."""
        with contextlib.suppress(StoreDamaged):  # may be repaired while it runs
            layout.named_number(self._root)
        try:
            with exclusive(self._folder / LOCK, 1.0, "delivery"):
                yield
        except StoreBusy as busy:
            if busy.where != str(self._folder / LOCK):
                raise
            raise StoreBusy(
                "another delivery is running for this store",
                where=self._folder,
                found=busy.found,
                hint=command("status", purpose="to see what it is doing", store=self._root),
            ) from None
