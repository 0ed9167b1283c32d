"""Sections that signals do not interrupt: their handlers run afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

#: In the order in which handlers are restored and called: the one that raises by default is last.
_DEFERRED = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
#: Threads other than the main one that are in a section.
_elsewhere: list[int] = []
_changed = threading.Condition()
#: Set when the process is ending: no further section begins.
_ending = threading.Event()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer SIGINT, SIGTERM and SIGHUP until the section ends.

    Handlers are replaced rather than signals blocked, because a signal sent to the process is delivered to any thread
    that does not block it, such as those of NumPy and FAISS. On other threads, where no handlers run, nothing is
    deferred: :func:`exit_between_sections` waits for their sections before it ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        with _counted():
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


def exit_between_sections(code: int, seconds: float = 5.0) -> NoReturn:
    """End the process without waiting for its threads, except up to ``seconds`` for those that are in a section."""
    with _changed:
        _ending.set()
        _changed.wait_for(lambda: not _elsewhere, seconds)
        os._exit(code)


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    with _changed:
        _changed.wait_for(lambda: not _ending.is_set())
        _elsewhere.append(threading.get_ident())
    try:
        yield
    finally:
        with _changed:
            _elsewhere.remove(threading.get_ident())
            _changed.notify_all()
