"""Growing pauses between failed attempts, and times that stay correct when the clock is set."""

from __future__ import annotations

import time

LONGEST = 600.0
#: Difference in seconds from which a clock counts as set, rather than slewed by NTP.
_SET = 2.0


class Pauses:
    """Pauses that double with every failure, up to ten minutes, and start over after a success.

    Attributes
    ----------
    failures : int
        Failures since the last success.
    """

    def __init__(self, first: float) -> None:
        self._first = first
        self.failures = 0

    def succeeded(self) -> None:
        """Start over."""
        self.failures = 0

    def failed(self) -> float:
        """Count a failure and return the seconds to wait before the next attempt."""
        self.failures += 1
        return min(self._first * 2.0 ** min(self.failures - 1, 30), max(self._first, LONGEST))


class Moment:
    """The time at which it was created, or some seconds later, correct even after the clock was set.

    Parameters
    ----------
    later : float
        Seconds.
    """

    def __init__(self, later: float = 0.0) -> None:
        self._ticks = _ticks() + later
        self._stated = time.time() + later

    def seconds(self) -> float:
        """Return the time in seconds since 1970, by this machine's clock as it is set now.

        The number is the same each time unless the clock was set in between.
        """
        now = time.time() - (_ticks() - self._ticks)
        if abs(now - self._stated) > _SET:
            self._stated = now
        return self._stated


def _ticks() -> float:
    """Return seconds of a clock that also runs while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
