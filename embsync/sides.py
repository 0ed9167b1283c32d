"""Items and, perhaps, users: whatever there is one of for each side of a snapshot, a version or a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

SideName = Literal["items", "users"]

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Sides(Generic[_Value]):
    """What the items have, and what the users have: None on one side."""

    items: _Value
    users: _Value | None

    def __iter__(self) -> Iterator[_Value]:
        """Yield what each side has, items first."""
        yield self.items
        if self.users is not None:
            yield self.users

    @property
    def queries(self) -> _Value:
        """What the side has whose rows are the queries: users, or items on one side."""
        return self.items if self.users is None else self.users

    def map(self, function: Callable[..., _Result], *others: Sides[Any]) -> Sides[_Result]:
        """Return what ``function`` gives for each side, called with what this and each of ``others`` has for it."""
        items = function(self.items, *(other.items for other in others))
        if self.users is None:
            return Sides(items, None)
        return Sides(items, function(self.users, *(other.users for other in others)))


NAMES: Sides[SideName] = Sides("items", "users")
