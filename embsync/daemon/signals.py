"""What is asked of a daemon by signals: noted the moment they arrive, acted upon by the loop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_STOPS = (signal.SIGTERM, signal.SIGINT)
_HANDLED = (*_STOPS, signal.SIGHUP, signal.SIGUSR1)


class Requests:
    """Flags that signals set and the loop takes, and the event that ends the loop's sleep.

    Attributes
    ----------
    wake : threading.Event
        Set whenever there is something to look at.
    stop : bool
        SIGTERM or SIGINT came.
    """

    def __init__(self) -> None:
        self.wake = threading.Event()
        self.stop = False
        self._reload = False
        self._scan = False

    def note(self, number: int) -> None:
        """Set the flag a signal stands for."""
        self.stop = self.stop or number in _STOPS
        self._reload = self._reload or number == signal.SIGHUP
        self._scan = self._scan or number == signal.SIGUSR1
        self.wake.set()

    def take_scan(self) -> bool:
        """Return whether SIGUSR1 came since the last call."""
        wanted, self._scan = self._scan, False
        return wanted

    def take_reload(self) -> bool:
        """Return whether SIGHUP came since the last call."""
        asked, self._reload = self._reload, False
        return asked


@contextlib.contextmanager
def noted(requests: Requests, at_once: Callable[[], None]) -> Iterator[None]:
    """Note signals while inside, and put the old handlers back afterwards.

    The interpreter writes each signal's number into a pipe and a thread reads it: a handler proper runs on the main
    thread between two instructions, where setting an event that the loop is just clearing would wait for ever.

    Parameters
    ----------
    requests : Requests
    at_once : callable
        Called on a second SIGTERM or SIGINT, right before the process ends.
    """
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    before = {number: signal.signal(number, _left_to_the_thread) for number in _HANDLED}
    wakeup = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    reader = threading.Thread(target=_read, args=(ours, requests, at_once), name="signals", daemon=True)
    reader.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(theirs)
        reader.join()
        os.close(ours)


def _left_to_the_thread(_number: int, _frame: object) -> None:
    """Be there, so that the signal neither ends nor stops the process."""


def _read(pipe: int, requests: Requests, at_once: Callable[[], None]) -> None:
    while numbers := os.read(pipe, 64):
        for number in numbers:
            if number in _STOPS and requests.stop:
                at_once()
                os._exit(128 + number)
            requests.note(number)
