"""Progress of long-running work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

#: Called with the stage, possibly a :class:`Stage`, and the share of it that is done, from 0 to 1.
Progress = Callable[[str, float], None]


class Stage(str):
    """The name of a stage, with the amount of work in it.

    Attributes
    ----------
    amount : float
    unit : str
        Such as ``"rows"`` or ``"bytes"``.
    """

    __slots__ = ("amount", "unit")

    amount: float
    unit: str

    def __new__(cls, name: str, amount: float, unit: str) -> Self:
        """Return the name with an amount."""
        stage = super().__new__(cls, name)
        stage.amount, stage.unit = amount, unit
        return stage


@dataclass
class Counted:
    """A stage whose work is done in pieces, by several threads."""

    stage: Stage
    report: Progress
    _done: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def add(self, amount: float) -> None:
        """Add an amount of completed work, and report the share."""
        with self._lock:
            self._done += amount
            self.report(self.stage, min(self._done / self.stage.amount, 1.0) if self.stage.amount else 1.0)


def silent(stage: str, share: float) -> None:
    """Report nothing."""
