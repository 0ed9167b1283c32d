"""Sections that an interrupt does not enter: what is asked by a signal meanwhile is done right after."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

#: In the order in which they are put back and acted upon: the one that raises by default comes last.
_DEFERRED = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Have SIGINT, SIGTERM and SIGHUP wait until the section is left, however often they come.

    Handlers are replaced rather than signals blocked: a signal sent to the process goes to any thread that does not
    block it, and NumPy and FAISS have threads. Elsewhere than on the main thread, which alone runs handlers, nothing is
    to be done: no exception comes from outside, and a process that ends is a crash, which recovery copes with.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: dict[int, FrameType | None] = {}

    def note(number: int, frame: FrameType | None) -> None:
        came[number] = frame

    # A handler that was installed from C is None here and could not be put back.
    before = {number: signal.getsignal(number) for number in _DEFERRED if signal.getsignal(number) is not None}
    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, handler in before.items():
            if number not in came:
                continue
            if callable(handler):  # not sent again: a wake-up descriptor has been written to already
                handler(number, came[number])
            elif handler is signal.SIG_DFL:
                signal.raise_signal(number)
