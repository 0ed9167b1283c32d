"""The memory that all requests of a worker share: each reserves its part, and ends early where it is cancelled."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time

from prometheus_client import Gauge

from embsync.server.errors import Invalid, Refused

#: So much of every request is never refused: small requests are answered beside whatever large ones there are.
SMALL = 1 << 20
#: Seconds that a large request waits for others to end.
_WAIT = 1.0
_TRIM_SECONDS = 0.5
_M_ARENA_MAX = -8  # malloc.h


def share_arenas() -> None:
    """Have all threads take memory from two arenas, not each from its own, which keeps what it once had (glibc)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


class MemoryBudget:
    """What the requests of a worker may take together, by estimate.

    Parameters
    ----------
    limit : int
        Bytes, beside :data:`SMALL` of each request.
    large : int
        Requests beyond :data:`SMALL` that may be worked on, or wait to be, at once.
    gauge : Gauge
        Shows what is reserved.
    """

    def __init__(self, limit: int, large: int, gauge: Gauge) -> None:
        self.limit = limit
        self._large = large
        self._gauge = gauge
        self._reserved = self._working = 0
        self._trimming = False
        self._changed = threading.Condition()

    def reserve(self, more: int, wait: float) -> bool:
        """Reserve bytes, waiting for others to release theirs; return whether there were as many."""
        with self._changed:
            there = self._changed.wait_for(lambda: self._reserved + more <= self.limit, wait)
            if there:
                self._reserved += more
                self._gauge.set(self._reserved)
            return there

    def begin_large(self) -> bool:
        """Count a large request; return False where there are too many."""
        with self._changed:
            if self._working >= self._large:
                return False
            self._working += 1
            return True

    def release(self, size: int, *, large: bool) -> None:
        """Give back what a request reserved."""
        with self._changed:
            self._reserved -= size
            self._working -= large
            self._gauge.set(self._reserved)
            self._changed.notify_all()
            trim = large and not self._working and not self._trimming
            self._trimming |= trim
        if trim:  # a moment later, when what was made is let go
            later = threading.Timer(_TRIM_SECONDS, self._trim)
            later.daemon = True
            later.start()

    def _trim(self) -> None:
        """Give the kernel back what large answers left in the allocator, which else keeps it; glibc alone can."""
        self._trimming = False
        gc.collect()  # errors hold the frames they came through, with all that these held
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)


class Reservation:
    """What one request has reserved of the budget, and whether it was cancelled."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._size = self._reserved = 0
        self._large = self._cancelled = self._released = False
        self._lock = threading.Lock()

    def receive(self, more: int) -> None:
        """Reserve what has arrived; nothing is waited for.

        Raises
        ------
        Refused
            503, the memory is reserved by others.
        """
        self._grow(more, 0.0)

    def reserve(self, more: int, what: str) -> None:
        """Reserve what is about to be made, waiting a second for others.

        Raises
        ------
        Invalid
            More than there ever is.
        Refused
            503, the memory is reserved by others, or the request was cancelled.
        """
        if self._size + more - SMALL > self._budget.limit:
            raise Invalid(
                "more than a request may take",
                where="$",
                expected=f"at most {self._budget.limit} bytes",
                found=f"about {self._size + more} bytes for {what}",
                hint="ask for less at once",
            )
        if self._size + more > SMALL and not self._large:
            self._large = self._budget.begin_large()
            if not self._large:
                raise _too_much()
        self._grow(more, _WAIT)

    def raise_if_cancelled(self) -> None:
        """Stop where nobody waits for the answer any more.

        Raises
        ------
        Refused
            503, the request was cancelled.
        """
        if self._cancelled:
            raise Refused(503, "cancelled")

    def cancel(self) -> None:
        """Have the work end soon."""
        self._cancelled = True

    def release(self) -> None:
        """Give everything back; a second time nothing happens."""
        with self._lock:
            released, self._released = self._released, True
            if not released and (self._reserved or self._large):
                self._budget.release(self._reserved, large=self._large)

    def _grow(self, more: int, wait: float) -> None:
        wanted = max(0, self._size + more - SMALL) - self._reserved
        end = time.monotonic() + wait
        while wanted > 0 and not self._budget.reserve(wanted, min(0.1, wait)):
            self.raise_if_cancelled()
            if time.monotonic() >= end:
                raise _too_much()
        self._size += more
        self._reserved += max(0, wanted)


def _too_much() -> Refused:
    return Refused(503, "too much is asked for at once", hint="try again soon, or ask for less at once")
