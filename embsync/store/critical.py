"""Sections that signals do not interrupt: their handlers run afterwards."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

#: In the order in which handlers are restored and called: the one that raises by default is last.
_DEFERRED = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer SIGINT, SIGTERM and SIGHUP until the section ends.

    Handlers are replaced rather than signals blocked, because a signal sent to the process is delivered to any thread
    that does not block it, such as those of NumPy and FAISS. On other threads nothing needs to be done: only the main
    thread runs handlers, and the end of the process is a crash, which recovery handles.
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
