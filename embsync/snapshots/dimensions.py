"""Vectors kept as one column a dimension (``d0``, ``d1`` …): which columns belong together, in the order of numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from embsync.errors import SnapshotError

#: Kinds of columns of numbers that vectors can be made of; those of text are read as float32.
NUMBERS = {"float16": "f2", "float32": "f4", "float64": "f8", "number": "f4"}
_NAME = re.compile(r"(?P<prefix>.*?)(?P<number>[0-9]{1,6})(?P<end>[\])]?)", re.DOTALL)
#: What people call a dimension; other numbered columns (sales_1 to sales_12) are taken only when they are configured.
_PLAIN = re.compile(
    r"(?:|[a-z]|col|column|comp|component|dim|dims|dimension|var|value|feat|feature|x|pc|svd|lsi)[^a-z0-9]*"
)


@dataclass(frozen=True)
class Dimensions:
    """Columns whose names differ in a number alone: ``(number, name)``, and what is not right about them."""

    prefix: str
    columns: tuple[tuple[int, str], ...]
    kinds: Mapping[str, str]
    types: Mapping[str, str]

    @property
    def is_plain(self) -> bool:
        """Whether they are called as dimensions are."""
        return _PLAIN.fullmatch(self.prefix.lower()) is not None

    @property
    def pattern(self) -> str:
        """What names them in ``snapshot.vector_column``."""
        return f"{self.prefix}*"

    @property
    def shown(self) -> str:
        """Their names, for messages."""
        ordered = sorted(self.columns)
        return f"{ordered[0][1]} to {ordered[-1][1]}"

    def in_order(self, where: str) -> tuple[str, ...]:
        """Return the names in the order of their numbers, ``d9`` before ``d10``.

        Raises
        ------
        SnapshotError
            A number is missing or there twice, the first is neither 0 nor 1, or the columns differ in type.
        """
        ordered = sorted(self.columns)
        numbers = [number for number, _ in ordered]
        wanted = range(numbers[0], numbers[0] + len(numbers))
        if numbers[0] > 1 or numbers != list(wanted):
            wrong = next((name for (number, name), right in zip(ordered, wanted, strict=True) if number != right), "")
            raise SnapshotError(
                "columns of one dimension each that are not numbered without gap",
                where=where,
                found=f"{len(ordered)} columns, {self.shown}" + (f", {wrong} out of turn" if wrong else ""),
                expected="each number from 0 or 1 once",
            )
        first = ordered[0][1]
        for _, name in ordered:
            if self.kinds[name] != self.kinds[first] and not {self.kinds[name], self.kinds[first]} <= _IN_TEXT:
                raise SnapshotError(
                    "columns of one dimension each that differ in type",
                    where=where,
                    found=f"{name} ({self._shown(name)})",
                    expected=f"{self.kinds[first]}, as {first}",
                )
        return tuple(name for _, name in ordered)

    def _shown(self, name: str) -> str:
        """Return the kind of a column; of text, what says that it is none of numbers."""
        return self.types.get(name, "string") if self.kinds[name] == "string" else self.kinds[name]


_IN_TEXT = {"integer", "number"}


def numbered(kinds: Mapping[str, str], types: Mapping[str, str]) -> list[Dimensions]:
    """Return the groups of two numbered columns or more, one at least of numbers, in the order of columns."""
    groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in kinds:
        match = _NAME.fullmatch(name)
        if match is not None:
            groups.setdefault((match["prefix"], match["end"]), []).append((int(match["number"]), name))
    return [
        Dimensions(prefix, tuple(columns), kinds, types)
        for (prefix, _), columns in groups.items()
        if len(columns) > 1 and any(_is_number(kinds[name], types.get(name, "")) for _, name in columns)
    ]


def _is_number(kind: str, full: str) -> bool:
    return kind in NUMBERS or (kind == "integer" and full.endswith("text"))
