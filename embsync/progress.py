"""Progress of long-running work."""

from __future__ import annotations

from collections.abc import Callable

#: Called with the stage and the share of it that is done, from 0 to 1.
Progress = Callable[[str, float], None]


def silent(stage: str, share: float) -> None:
    """Report nothing."""
