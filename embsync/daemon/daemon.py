"""The daemon: one loop with one sleep; everything that may take long or crash runs in a separate process."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable

from embsync import logs
from embsync.config import Config
from embsync.daemon.attempts import Attempts, FailureKind
from embsync.daemon.job import Job, Outcome
from embsync.daemon.notices import Notices
from embsync.daemon.ownership import Ownership, StoreLostError, only_daemon
from embsync.daemon.problems import Problems
from embsync.daemon.publish_hook import PublishHook
from embsync.daemon.report import DaemonState, StatusWriter
from embsync.daemon.status import DaemonPhase, Retry, Work
from embsync.daemon.worker import Worker
from embsync.errors import EmbsyncError
from embsync.logs import log
from embsync.notify import notify, watchdog_seconds
from embsync.reload import reload
from embsync.signals import Requests, recorded_signals
from embsync.store import Store
from embsync.store.durable import storage_errors
from embsync.store.hold import Hold, held
from embsync.watching.backlog import Entry, set_aside
from embsync.watching.scanner import Scanner, require_watched, store_state

#: Longest sleep of the loop, in seconds: the delay in noticing a hold, a lost watch or a stop.
_TICK_SECONDS = 1.0
_SHORTEST_PAUSE = 0.01
#: After a stop, how long to wait for the store's lock in order to remove leftovers of the ended work, in seconds.
_SWEEP_SECONDS = 3.0


class Daemon:
    """Publishes each snapshot that appears in ``watch.path``, until it is stopped.

    Parameters
    ----------
    load : callable
        Returns the configuration; called again on SIGHUP.
    file : str
        The configuration file's name, for the log.
    """

    def __init__(self, load: Callable[[], Config], file: str = "none") -> None:
        self._load = load
        self._file = file
        self._config = require_watched(load())
        self._store = Store(self._config.store.path)
        self._requests = Requests()
        self._worker = Worker(self._requests.wake.set)
        self._attempts = Attempts(self._store.root)
        self._scanner = Scanner(self._config, self._store, self._requests.wake.set)
        self._status_writer = StatusWriter(self._store)
        self._watchdog = watchdog_seconds()
        self._entry: Entry | None = None
        self._held: Hold | None = None
        self._problems = Problems()
        self._notices = Notices()
        self._damage: tuple[str, tuple[object, ...]] | None = None
        self._ownership: Ownership | None = None
        self._counters: Counter[str] = Counter()
        self._hook = PublishHook(self._store, self._problems, self._counters)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code.

        Raises
        ------
        StoreBusy
            Another daemon serves the store.
        StoreError
            The path is not a store, the store cannot be written, or it was replaced while the daemon ran.
        """
        logs.configure(self._config.log)
        self._store.create()
        with only_daemon(self._store) as self._ownership, recorded_signals(self._requests, self._kill_children):
            try:
                self.startup()
                self.main_loop()
            except StoreLostError as error:
                log(logging.ERROR, "store_lost", reason=str(error))
                raise
            finally:
                self.shutdown()
        return 0

    def startup(self) -> None:
        """Remove leftovers of a dead daemon, and get ready."""
        self._sweep()
        self._tick(lambda _: self._attempts.load())
        self._tick(self._check_unpruned)
        self._worker.warm()
        log(
            logging.INFO,
            "started",
            store=str(self._store.root),
            watch=self._config.watch.path,
            config=self._file,
            pid=os.getpid(),
        )
        self._tick(self._check_watch, "watch")
        self._scanner.request()
        self._tick(lambda _: self._write_status("starting", "scanning for the first time"), "status")
        notify("READY=1")

    def main_loop(self) -> None:
        """Run the loop until a stop is requested."""
        while not self._requests.stop:
            self._requests.wake.clear()
            self.on_tick()
            self._requests.wake.wait(self._pause())

    def on_tick(self) -> None:
        """Run the duties that are due; none of them takes long."""
        assert self._ownership is not None
        self._ownership.require()
        if self._requests.take_reload():
            self._reload()
        if self._requests.take_scan():
            self._scanner.request()
        for duty in (self._poll_worker, self._hook.poll, self._check_hold, self._check_repair):
            self._tick(duty)
        for duty in (self._check_watch, self._scan):
            self._tick(duty, "watch")
        for duty in (self._start_hook, self._begin):
            self._tick(duty)
        self._tick(self._write_current_status, "status")
        self._ping(time.monotonic())

    def shutdown(self) -> None:
        """End running work, remove its leftovers, and log it."""
        notify("STOPPING=1", "STATUS=stopping")
        self._hook.kill()
        working = self._worker.job is not None
        self._worker.kill()
        self._scanner.close()
        if self._ownership is not None and not self._ownership.lost:
            self._clean_up(working)
        log(logging.INFO, "stopped", work_ended=working)

    def _clean_up(self, working: bool) -> None:
        if self._entry is not None:
            entry = self._entry
            self._tick(lambda _: self._attempts.record_end(entry))
        if working:
            self._sweep()
        self._tick(lambda _: self._write_status("stopped", "stopped"), "status")

    def _tick(self, work: Callable[[float], None], source: str = "work") -> None:
        """Run a duty; an error in it is reported, and the next tick tries again, unless the store is lost."""
        try:
            with storage_errors(self._store.root):
                work(time.monotonic())
        except StoreLostError:
            raise
        except EmbsyncError as error:
            self._problems.open(source, str(error), event="error", details=error.details())

    def _pause(self) -> float:
        now = time.monotonic()
        pause = min(_TICK_SECONDS, self._scanner.due_in(now), (self._watchdog or math.inf) / 2)
        if self._scanner.queue and self._idle and self._held is None:
            pause = min(pause, self._attempts.not_before - now)
        return max(pause, _SHORTEST_PAUSE)

    @property
    def _idle(self) -> bool:
        return self._worker.job is None and not self._hook.running

    def _check_watch(self, now: float) -> None:
        self._scanner.check(now)
        self._notices.log_health(self._scanner.health, self._scanner.path)

    def _scan(self, now: float) -> None:
        if self._scanner.due_in(now) > 0.0:
            return
        self._scanner.scan(now)
        self._problems.close("watch")
        if self._scanner.health.state != "missing":
            self._notices.log_entries(self._scanner.entries, self._scanner.order)
        snapshot = self._problems.snapshot("work")
        gone = all(entry.child.name != snapshot or entry.state == "published" for entry in self._scanner.entries)
        if snapshot is not None and (gone or self._scanner.last_published > self._problems.since("work")):
            self._problems.close("work")

    def _check_hold(self, _now: float) -> None:
        before, self._held = self._held, held(self._store.root)
        if (before is None) != (self._held is None):
            log(logging.INFO, "held" if self._held else "resumed", reason=self._held.reason if self._held else None)
            self._scanner.request()
        if self._held is not None and self._entry is not None:
            self._interrupt_work(self._entry)

    def _check_repair(self, _now: float) -> None:
        """Retry at once after damage if the store has changed since, for example by a rollback or a repaired link."""
        if self._damage is not None and store_state(self._store) != self._damage[1]:
            self._damage = None
            self._attempts.not_before = 0.0

    def _interrupt_work(self, entry: Entry) -> None:
        """End the work without counting a failed attempt."""
        self._worker.kill()
        self._entry = None
        self._attempts.record_end(entry)
        self._sweep()
        self._worker.warm()
        log(logging.INFO, "work_ended", snapshot=entry.child.name, reason="on hold")

    def _begin(self, now: float) -> None:
        """Start work on the next snapshot, unless something prevents it."""
        if not self._scanner.queue or self._held is not None or not self._idle or self._requests.stop:
            return
        self._scanner.refresh()
        entry = self._attempts.choose(self._scanner.queue, now)
        if entry is None:
            return
        exhausted = self._attempts.of(entry).exhausted
        if exhausted is not None:
            self._set_aside(entry, exhausted, {})
            return
        try:
            self._attempts.begin(entry)
        except EmbsyncError:
            self._attempts.record_failure(entry, now, self._config.watch.rescan_seconds, "errors")
            raise
        self._worker.begin(Job(self._store.root, self._config, entry), now)
        self._entry = entry
        log(logging.INFO, "begun", snapshot=entry.child.name, reason=entry.reason)

    def _poll_worker(self, now: float) -> None:
        outcome = self._worker.poll(now)
        if outcome is None:
            return
        entry, self._entry = self._entry, None
        assert entry is not None
        self._scanner.request()
        self._hook.pending = True
        try:
            self._handle_outcome(entry, outcome, now)
        finally:
            self._worker.warm()

    def _handle_outcome(self, entry: Entry, outcome: Outcome, now: float) -> None:
        """Handle the outcome of a job."""
        fields = {
            "snapshot": entry.child.name,
            "version": outcome.version,
            "seconds": outcome.seconds,
            "reason": outcome.what or None,
            **outcome.details,
        }
        self._damage = (outcome.what, store_state(self._store)) if outcome.damaged else None
        if outcome.kind in {"error", "crashed"}:
            self._handle_failure(entry, outcome, now)
            return
        warned = outcome.kind in {"refused", "failed"} or (outcome.kind == "published" and outcome.what)
        level = logging.WARNING if warned else logging.INFO
        log(level, outcome.kind, **fields)
        if outcome.kind == "failed":
            self._problems.open("work", outcome.what, snapshot=entry.child.name, details=outcome.details)
        if outcome.kind in {"published", "unchanged"}:
            self._problems.close("work")
            self._check_unpruned(now)
        if outcome.kind == "held":
            self._attempts.record_end(entry)
            return
        if outcome.kind == "incomplete":
            self._scanner.defer(entry.child, outcome.what, now)
        self._attempts.forget()
        self._scanner.scan(now)

    def _check_unpruned(self, _now: float) -> None:
        self._notices.log_unpruned(self._store.unpruned(self._config.store.keep_versions), self._store.versions)

    def _handle_failure(self, entry: Entry, outcome: Outcome, now: float) -> None:
        crashed = outcome.kind == "crashed"
        why: FailureKind = "crashes" if crashed else "unreadable" if outcome.of_snapshot else "errors"
        self._counters["embsync_worker_crashes_total" if crashed else "embsync_errors_total"] += 1
        attempt = self._attempts.record_failure(entry, now, self._config.watch.rescan_seconds, why)
        self._problems.open("work", outcome.what, snapshot=entry.child.name, details=outcome.details)
        log(
            logging.ERROR,
            outcome.kind,
            snapshot=entry.child.name,
            reason=outcome.what,
            attempt=attempt.failures,
            **outcome.details,
        )
        self._sweep()  # also completes or reverts an interrupted publish before the next attempt
        if attempt.exhausted is not None:
            self._set_aside(entry, f"{attempt.exhausted}; the last time: {outcome.what}", outcome.details)
        else:
            self._attempts.record_end(entry)

    def _set_aside(self, entry: Entry, reason: str, details: dict[str, str]) -> None:
        set_aside(self._store, entry, f"set aside: {reason}")
        self._attempts.forget()
        self._problems.open("work", f"set aside: {reason}", snapshot=entry.child.name, details=details)
        self._counters["embsync_set_aside_total"] += 1
        log(logging.ERROR, "set_aside", snapshot=entry.child.name, reason=reason, **details)
        self._scanner.request()

    def _start_hook(self, now: float) -> None:
        if self._hook.pending and self._idle and not self._requests.stop:
            self._hook.start(self._config.store.on_publish, now)

    def _reload(self) -> None:
        """Read the configuration again; if it is invalid, keep the old one."""
        error = reload(lambda: require_watched(self._load()), self._store.root, self._apply)
        if error is None:
            self._problems.close("reload")
        else:
            self._problems.open("reload", str(error), event="reload_failed", details=error.details())

    def _apply(self, fresh: Config) -> None:
        logs.configure(fresh.log)
        if (fresh.watch, fresh.snapshot) != (self._config.watch, self._config.snapshot):
            self._scanner.close()
            self._scanner = Scanner(fresh, self._store, self._requests.wake.set)
            self._notices.health = None
        self._config = fresh
        self._hook.pending = True
        self._attempts.not_before = 0.0
        self._scanner.request()

    def _state(self, now: float) -> tuple[DaemonPhase, str]:
        job, queue = self._worker.job, self._scanner.queue
        if job is not None:
            step = self._worker.step
            return "working", f"working on {job.entry.child.name}" + (f": {step.stage}" if step else "")
        if self._held is not None:
            return "held", f"on hold since {self._held.time}; {len(queue)} in the queue"
        if self._scanner.health.state == "missing":
            return "blind", f"{self._scanner.path}: {self._scanner.health.reason}"
        if self._hook.running:
            return "working", f"store.on_publish for version {self._hook.version}"
        if queue and not self._attempts.due(queue[0], now):
            return "retrying", f"trying {queue[0].child.name} again"
        return "idle", f"watching {self._scanner.path}"

    def _write_current_status(self, now: float) -> None:
        self._write_status(*self._state(now))

    def _write_status(self, state: DaemonPhase, doing: str) -> None:
        now, queue, job, step = time.monotonic(), self._scanner.queue, self._worker.job, self._worker.step
        retry, failures = None, self._attempts.of(queue[0]).failures if queue else 0
        if failures:
            retry = Retry(queue[0].child.name, failures, round(max(self._attempts.not_before - now, 0.0), 1))
        work = None
        if job is not None:
            work = Work(job.entry.child.name, step.stage if step else None, step.share if step else None)
        present = DaemonState(
            state,
            doing,
            self._scanner,
            self._held,
            work,
            retry,
            self._problems.latest,
            self._hook.ended,
            self._damage and self._damage[0],
            self._counters,
            len(self._notices.unpruned),
        )
        assert self._ownership is not None
        if self._status_writer.write(present, self._ownership.require):
            self._problems.close("status")

    def _ping(self, now: float) -> None:
        """Notify the service manager's watchdog as long as there is progress."""
        working = self._worker.job is not None  # a hook has its own time limit, and does not block the loop
        if self._watchdog is not None and (not working or now - self._worker.progressed < self._watchdog / 2):
            notify("WATCHDOG=1")

    def _sweep(self) -> None:
        with contextlib.suppress(EmbsyncError), Store(self._store.root, wait=_SWEEP_SECONDS).locked():
            pass  # the next process with the lock sweeps first

    def _kill_children(self) -> None:
        self._hook.kill()
        self._worker.kill()
