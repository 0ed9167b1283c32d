"""Limits of checks: a number, a range, or a figure of the run times a factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: Whether values below the limit, above it or outside a range violate it.
Kind = Literal["floor", "ceiling", "range"]

#: One configured limit: a number, or ``[low, high]`` for a range; None disables it.
Limit = float | tuple[float, float] | None


@dataclass(frozen=True)
class Relative:
    """A limit that depends on the run: ``factor`` times one of its figures, plus ``more``.

    Attributes
    ----------
    figure : str
        Name of the figure: ``e``, the raw width; ``k``, the space's width; ``before``, the parent's value; or one that
        the check defines.
    absent : float or None
        Value used if the run does not have the figure.
    """

    figure: str
    factor: float = 1.0
    more: float = 0.0
    absent: float | None = None

    def at(self, figures: Mapping[str, float]) -> float:
        """Return the limit for a run with these figures."""
        figure = figures[self.figure] if self.absent is None else figures.get(self.figure, self.absent)
        return self.factor * figure + self.more

    def __str__(self) -> str:
        scaled = self.figure if self.factor == 1 else f"{self.factor:g} {self.figure}"
        return f"{self.more:g} {'+' if self.factor > 0 else '-'} {scaled.lstrip('-')}" if self.more else scaled
