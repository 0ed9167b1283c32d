"""``embsync pull --follow``: pulls whenever the pointer names another version, until it is stopped."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable

from embsync.delivery.pauses import Pauses
from embsync.delivery.pull import Pull
from embsync.delivery.secrets import without_secrets
from embsync.errors import EmbsyncError, UsageError
from embsync.logs import log, log_exception
from embsync.notify import notify, watchdog_seconds
from embsync.signals import Requests, beside, recorded_signals
from embsync.store.critical import exit_between_sections
from embsync.store.hold import HeldError

#: First pause after a failure, in seconds.
_FIRST_PAUSE = 5.0
#: Seconds to wait, after a stop, for a running pull, which may be interrupted at any point.
_STOP_SECONDS = 2.0


def log_again(key: str, why: str) -> None:
    """Log that an object is transferred once more."""
    log(logging.WARNING, "transferred_again", object=key, reason=why)


def follow(pull: Pull, interval: float, *, store: str, source: str) -> int:
    """Pull until SIGTERM or SIGINT; return the exit code.

    After a failure, which is logged, it retries after growing pauses, and the current version stays current. A signal
    ends a running transfer at any point, together with the process; the next pull continues it.

    Parameters
    ----------
    pull : Pull
    interval : float
        Seconds between reads of the pointer.
    store, source : str
        How the log names the store and the place to pull from.

    Raises
    ------
    UsageError
        The store may not be pulled into.
    """
    requests, pauses = Requests(), Pauses(max(_FIRST_PAUSE, interval))
    watchdog = (watchdog_seconds() or math.inf) / 2
    reported: dict[str, str] = {}
    with recorded_signals(requests, lambda: None):
        log(logging.INFO, "started", store=store, source=source, interval=interval, pid=os.getpid())
        notify("READY=1")
        while not requests.stop:
            pause = _unless_stopped(requests, lambda: _step(pull, pauses, interval, reported))
            deadline = time.monotonic() + pause
            while not requests.stop and (left := deadline - time.monotonic()) > 0:
                notify("WATCHDOG=1", f"STATUS={reported.get('failed') or reported.get('held') or 'following'}")
                requests.wake.wait(min(left, watchdog))
                requests.wake.clear()
        notify("STOPPING=1")
    log(logging.INFO, "stopped", work_ended=False)
    return 0


def _unless_stopped(requests: Requests, work: Callable[[], float]) -> float:
    """Return what ``work`` returns; after a stop, end the process if it does not return within seconds.

    It runs on another thread: libraries of object stores return when a request has ended, not on a signal.
    """
    found = beside(work, "pull")
    found.add_done_callback(lambda _: requests.wake.set())
    while not found.done() and not requests.stop:
        requests.wake.wait()
        requests.wake.clear()
    if requests.stop:
        notify("STOPPING=1")
    try:
        return found.result(_STOP_SECONDS)
    except TimeoutError:
        log(logging.INFO, "stopped", work_ended=True)
        logging.shutdown()
        exit_between_sections(0)


def _step(pull: Pull, pauses: Pauses, interval: float, reported: dict[str, str]) -> float:
    """Read the pointer, pull if it changed, and return the seconds until the next read."""
    try:
        pulled = pull.follow_once()
    except HeldError as error:
        _report(reported, "held", logging.INFO, error)
        return interval
    except UsageError:
        raise
    except EmbsyncError as error:
        _report(reported, "failed", logging.ERROR, error)
        return pauses.failed()
    except Exception:
        log_exception("pull_failed", reason="unexpected")
        return pauses.failed()
    pauses.succeeded()
    reported.clear()
    if pulled is not None:
        log(logging.INFO, "pulled", version=pulled.version, transferred=pulled.transferred, linked=pulled.linked)
    return interval


def _report(reported: dict[str, str], kind: str, level: int, error: EmbsyncError) -> None:
    """Log an error, unless it is the same as the last one."""
    text = without_secrets(str(error))
    if reported.get(kind) != text:
        reported[kind] = text
        log(level, f"pull_{kind}", reason=text)
