"""A pair of values, for the items and, perhaps, for the users of a snapshot, a version or a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

SideName = Literal["items", "users"]

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Sides(Generic[_Value]):
    """A value for the items and one for the users, None if there are no users."""

    items: _Value
    users: _Value | None

    def __iter__(self) -> Iterator[_Value]:
        """Yield the value of each side, items first."""
        yield self.items
        if self.users is not None:
            yield self.users

    @property
    def queries(self) -> _Value:
        """The value of the side whose rows are queries: users, or items if there are no users."""
        return self.items if self.users is None else self.users

    def named(self) -> Iterator[tuple[SideName, _Value]]:
        """Yield the name and the value of each side, items first."""
        return zip(NAMES, self, strict=False)

    def map(self, function: Callable[..., _Result], *others: Sides[Any]) -> Sides[_Result]:
        """Apply ``function`` to each side, with the values of this pair and of ``others``."""
        items = function(self.items, *(other.items for other in others))
        if self.users is None:
            return Sides(items, None)
        return Sides(items, function(self.users, *(other.users for other in others)))


NAMES: Sides[SideName] = Sides("items", "users")
