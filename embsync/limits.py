"""A check and its limits: a number, a range, or a figure of the run times a factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: Whether values below the limit, above it or outside a range violate it.
LimitKind = Literal["floor", "ceiling", "range"]

#: One configured limit: a number, or ``[low, high]`` for a range; None disables it.
Limit = float | tuple[float, float] | None

#: Data without which a side's figure cannot be measured; see :class:`Check`.
Needs = Literal["rows", "anchors", "parent", "raw rows"]


@dataclass(frozen=True)
class Relative:
    """A limit that depends on the run: ``factor`` times one of its figures, plus ``more``.

    Attributes
    ----------
    figure : str
        Name of the figure: ``e``, the raw width; ``k``, the space's width; ``before``, the parent's value; or one that
        the check defines.
    absent : float or None
        Value used if the run does not have the figure; infinity for no limit.
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


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes
    ----------
    name : str
    kind : {"floor", "ceiling", "range"}
        Whether values below the limit, above it or outside a range violate it.
    warn, refuse : Limit or Relative
    measures : str
    means : str
        The most likely cause of a refusal, in one sentence.
    remedy : str
        What to do then.
    acceptable : bool
        Whether ``embsync accept --check`` may override it.
    warned_by : str or None
        A check whose warning implies this one's, which is then not repeated.
    needs : {"rows", "anchors", "parent", "raw rows"} or None
        For checks of the figure with the same name in the manifest's ``alignment``: the data it requires, which is only
        the rows of the first pass, enough anchored rows, ids that are live in the parent too, or the parent's raw rows.
        Without raw rows the check is skipped; a figure that is missing although its data exist refuses. None:
        ``pipeline/record.py`` measures it.
    """

    name: str
    kind: LimitKind
    warn: Limit | Relative
    refuse: Limit | Relative
    measures: str
    means: str
    remedy: str
    acceptable: bool = True
    warned_by: str | None = None
    needs: Needs | None = None

    @property
    def figure(self) -> str:
        """The name without the side."""
        return self.name.removesuffix("_items").removesuffix("_users")
