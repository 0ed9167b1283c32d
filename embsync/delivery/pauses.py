"""Growing pauses between attempts that fail."""

from __future__ import annotations

LONGEST = 600.0


class Pauses:
    """Pauses that double with every failure, up to ten minutes, and begin anew after a success.

    Attributes
    ----------
    failures : int
        Failures since the last success.
    """

    def __init__(self, first: float) -> None:
        self._first = first
        self.failures = 0

    def succeeded(self) -> None:
        """Begin anew."""
        self.failures = 0

    def failed(self) -> float:
        """Count a failure and return the seconds to wait before the next attempt."""
        self.failures += 1
        return min(self._first * 2.0 ** min(self.failures - 1, 30), max(self._first, LONGEST))
