"""Work under way: the memory that all requests of a worker share, and whether anybody still waits for an answer."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time

from prometheus_client import Gauge

from embsync.server.messages import Invalid, Refused

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


class Memory:
    """What the requests of a worker may take together, by estimate.

    Parameters
    ----------
    limit : int
        Bytes, beside :data:`SMALL` of each request.
    large : int
        Requests beyond :data:`SMALL` that may be worked on, or wait to be, at once.
    gauge : Gauge
        Shows what is taken.
    """

    def __init__(self, limit: int, large: int, gauge: Gauge) -> None:
        self.limit = limit
        self._large = large
        self._gauge = gauge
        self._taken = self._working = 0
        self._trimming = False
        self._changed = threading.Condition()

    def take(self, more: int, wait: float) -> bool:
        """Take bytes, if need be when others have given theirs back; return whether there were as many."""
        with self._changed:
            there = self._changed.wait_for(lambda: self._taken + more <= self.limit, wait)
            if there:
                self._taken += more
                self._gauge.set(self._taken)
            return there

    def begin_large(self) -> bool:
        """Count a large request; return False where there are too many."""
        with self._changed:
            if self._working >= self._large:
                return False
            self._working += 1
            return True

    def give_back(self, size: int, *, large: bool) -> None:
        """Return what a request took."""
        with self._changed:
            self._taken -= size
            self._working -= large
            self._gauge.set(self._taken)
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


class Work:
    """One request's share of the memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._size = self._taken = 0
        self._large = self._given_up = self._closed = False
        self._lock = threading.Lock()

    def receive(self, more: int) -> None:
        """Take what has arrived; nothing is waited for.

        Raises
        ------
        Refused
            503, the memory is taken.
        """
        self._grow(more, 0.0)

    def take(self, more: int, what: str) -> None:
        """Take what is about to be made, waiting a second for others.

        Raises
        ------
        Invalid
            More than there ever is.
        Refused
            503, the memory is taken, or nobody waits any more.
        """
        if self._size + more - SMALL > self._memory.limit:
            raise Invalid(
                "more than a request may take",
                where="$",
                expected=f"at most {self._memory.limit} bytes",
                found=f"about {self._size + more} bytes for {what}",
                hint="ask for less at once",
            )
        if self._size + more > SMALL and not self._large:
            self._large = self._memory.begin_large()
            if not self._large:
                raise _too_much()
        self._grow(more, _WAIT)

    def go_on(self) -> None:
        """Stop here where nobody waits any more.

        Raises
        ------
        Refused
        """
        if self._given_up:
            raise Refused(503, "given up")

    def give_up(self) -> None:
        """Have the work end soon."""
        self._given_up = True

    def close(self) -> None:
        """Give everything back; a second time nothing happens."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._memory.give_back(self._taken, large=self._large)

    def _grow(self, more: int, wait: float) -> None:
        wanted = max(0, self._size + more - SMALL) - self._taken
        end = time.monotonic() + wait
        while wanted > 0 and not self._memory.take(wanted, min(0.1, wait)):
            self.go_on()
            if time.monotonic() >= end:
                raise _too_much()
        self._size += more
        self._taken += max(0, wanted)


def _too_much() -> Refused:
    return Refused(503, "too much is asked for at once", hint="try again soon, or ask for less at once")
