"""Progress of long-running work."""

from __future__ import annotations

from collections.abc import Callable
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


def silent(stage: str, share: float) -> None:
    """Report nothing."""
