"""Work that waits for a network and that a signal ends at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import wait
from types import FrameType

import click

from embsync.cli.output import warn
from embsync.signals import Result, beside
from embsync.store.critical import exit_between_sections

#: Seconds between checks for signals: the kernel may deliver one to another thread, but handlers run on this one.
_CHECK_SECONDS = 0.2
#: Removes a progress bar.
_ERASE_LINE = "\r\x1b[2K"
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def until_signal(work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns; SIGINT, SIGTERM and SIGHUP end the process with one line and 128 plus their number.

    Libraries of object stores return when a request has ended, which may take minutes, not on a signal. The work
    therefore runs on another thread, and must be safe to kill.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    before = {number: signal.getsignal(number) for number in _ENDS}
    ours = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for number in ours:
            signal.signal(number, _end)
        found = beside(work, "work")
        while not wait([found], _CHECK_SECONDS).done:
            pass
        return found.result()
    except _Ended as ended:
        name = signal.Signals(ended.number).name
        if sys.stderr.isatty():
            click.echo(_ERASE_LINE, err=True, nl=False)
        warn(f"embsync: ended by {name}; the current version stays, and the same command completes the rest")
        exit_between_sections(128 + ended.number)
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _end(number: int, _frame: FrameType | None) -> None:
    raise _Ended(number)
