"""The memory budget of a worker: each request reserves its part, and ends early if it is cancelled."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time

from prometheus_client import Gauge

from embsync.rows import release_memory
from embsync.server.errors import FailureStatus, Invalid, Refused

#: Bytes that every request is granted, so that small requests are handled at the same time as any large ones.
SMALL = 1 << 20
#: Seconds for which a large request waits for others to end.
_WAIT = 1.0
_TRIM_SECONDS = 0.5
_M_ARENA_MAX = -8  # malloc.h


def share_arenas() -> None:
    """Make all threads share two arenas (glibc): with one for each thread, each would keep freed memory."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


class MemoryBudget:
    """The estimated memory that the requests of a worker may take together.

    Parameters
    ----------
    limit : int
        Bytes, in addition to :data:`SMALL` for each request.
    large : int
        Requests beyond :data:`SMALL` that may be handled or wait at once.
    gauge : Gauge
        Shows the reserved bytes.
    """

    def __init__(self, limit: int, large: int, gauge: Gauge) -> None:
        self.limit = limit
        self._large = large
        self._gauge = gauge
        self._reserved = self._working = 0
        self._trimming = False
        self._changed = threading.Condition()

    def reserve(self, more: int, wait: float) -> bool:
        """Reserve bytes, waiting for others to release theirs; return whether that succeeded."""
        with self._changed:
            there = self._changed.wait_for(lambda: self._reserved + more <= self.limit, wait)
            if there:
                self._reserved += more
                self._gauge.set(self._reserved)
            return there

    def begin_large(self) -> bool:
        """Count a large request; return False if there are too many."""
        with self._changed:
            if self._working >= self._large:
                return False
            self._working += 1
            return True

    def release(self, size: int, *, large: bool) -> None:
        """Release the memory that a request reserved."""
        with self._changed:
            self._reserved -= size
            self._working -= large
            self._gauge.set(self._reserved)
            self._changed.notify_all()
            trim = large and not self._working and not self._trimming
            self._trimming |= trim
        if trim:  # later, once the objects are freed
            later = threading.Timer(_TRIM_SECONDS, self._trim)
            later.daemon = True
            later.start()

    def _trim(self) -> None:
        """Return memory freed by large responses to the kernel, which only glibc supports."""
        self._trimming = False
        gc.collect()  # exceptions reference frames, and thus their objects
        release_memory()


class Reservation:
    """The share of the budget that a request has reserved, and whether it was cancelled."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._size = self._reserved = 0
        self._large = self._cancelled = self._released = False
        self._lock = threading.Lock()

    def receive(self, more: int) -> None:
        """Reserve memory for received bytes, without waiting.

        Raises
        ------
        Refused
            503, the memory is reserved by others.
        """
        self._grow(more, 0.0)

    def reserve(self, more: int, what: str) -> None:
        """Reserve memory before it is allocated, waiting a second for others.

        Raises
        ------
        Invalid
            More than the entire budget.
        Refused
            503, the memory is reserved by others, or the request was cancelled.
        """
        if self._size + more - SMALL > self._budget.limit:
            raise Invalid(
                "the request needs too much memory",
                where="$",
                expected=f"at most {self._budget.limit} bytes",
                found=f"about {self._size + more} bytes for {what}",
                hint="request less at once",
            )
        if self._size + more > SMALL and not self._large:
            self._large = self._budget.begin_large()
            if not self._large:
                raise _too_much()
        self._grow(more, _WAIT)

    def raise_if_cancelled(self) -> None:
        """Stop if the request was cancelled.

        Raises
        ------
        Refused
            503, the request was cancelled.
        """
        if self._cancelled:
            raise Refused(FailureStatus.SERVICE_UNAVAILABLE, "cancelled")

    def cancel(self) -> None:
        """Cancel the work."""
        self._cancelled = True

    def release(self) -> None:
        """Release everything; further calls do nothing."""
        with self._lock:
            released, self._released = self._released, True
            if not released and (self._reserved or self._large):
                self._budget.release(self._reserved, large=self._large)

    def _grow(self, more: int, wait: float) -> None:
        if self._size + more <= SMALL:
            self._size += more
            return
        wanted = max(0, self._size + more - SMALL) - self._reserved
        end = time.monotonic() + wait
        while wanted > 0 and not self._budget.reserve(wanted, min(0.1, wait)):
            self.raise_if_cancelled()
            if time.monotonic() >= end:
                raise _too_much()
        self._size += more
        self._reserved += max(0, wanted)


def _too_much() -> Refused:
    hint = "try again soon, or request less at once"
    return Refused(FailureStatus.SERVICE_UNAVAILABLE, "not enough memory for this request now", hint=hint)
