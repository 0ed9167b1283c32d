"""Requests by signal: recorded as they arrive, and handled by the loop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")

_STOPS = (signal.SIGTERM, signal.SIGINT)
_HANDLED = (*_STOPS, signal.SIGHUP, signal.SIGUSR1)


class Requests:
    """Flags that signals set and the loop clears, and the event that wakes the loop.

    Attributes
    ----------
    wake : threading.Event
        Set whenever there is something to handle.
    stop : bool
        SIGTERM or SIGINT was received.
    """

    def __init__(self) -> None:
        self.wake = threading.Event()
        self.stop = False
        self._reload = False
        self._scan = False

    def record(self, number: int) -> None:
        """Set the flag of a signal."""
        self.stop = self.stop or number in _STOPS
        self._reload = self._reload or number == signal.SIGHUP
        self._scan = self._scan or number == signal.SIGUSR1
        self.wake.set()

    def take_scan(self) -> bool:
        """Return whether SIGUSR1 was received since the last call."""
        wanted, self._scan = self._scan, False
        return wanted

    def take_reload(self) -> bool:
        """Return whether SIGHUP was received since the last call."""
        asked, self._reload = self._reload, False
        return asked


@contextlib.contextmanager
def recorded_signals(requests: Requests, at_once: Callable[[], None]) -> Iterator[None]:
    """Record signals inside the block, and restore the previous handlers afterwards.

    The interpreter writes each signal's number into a pipe that a thread reads. An ordinary handler would run on the
    main thread between two instructions, where setting an event that the loop is clearing would deadlock.

    Parameters
    ----------
    requests : Requests
    at_once : callable
        Called on a second SIGTERM or SIGINT, right before the process ends.
    """
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    before = {number: signal.signal(number, _ignore) for number in _HANDLED}
    wakeup = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    reader = threading.Thread(target=_read, args=(ours, requests, at_once), name="signals", daemon=True)
    reader.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)  # those that arrived while modules loaded are recorded now
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(theirs)
        reader.join()
        os.close(ours)


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: a handler must be installed so that the signal does not end the process."""


def _read(pipe: int, requests: Requests, at_once: Callable[[], None]) -> None:
    while numbers := os.read(pipe, 64):
        for number in numbers:
            if number in _STOPS and requests.stop:
                at_once()
                os._exit(128 + number)
            requests.record(number)


def beside(work: Callable[[], Result], name: str) -> Future[Result]:
    """Start work on a daemon thread, so that a signal can end the process although the work does not return."""
    found: Future[Result] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return found
