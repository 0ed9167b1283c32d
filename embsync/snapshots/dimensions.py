"""Vectors stored as one column per dimension (``d0``, ``d1`` …): which columns belong together, in numerical order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from embsync.errors import SnapshotError

#: Kinds of numeric columns that vectors can be made of; text is read as float32.
NUMBERS = {"float16": "f2", "float32": "f4", "float64": "f8", "number": "f4"}
_NAME = re.compile(r"(?P<prefix>.*?)(?P<number>[0-9]{1,6})(?P<end>[\])]?)", re.DOTALL)
#: Usual names of dimensions; other numbered columns (sales_1 to sales_12) are used only if configured.
_PLAIN = re.compile(
    r"(?:|[a-z]|col|column|comp|component|dim|dims|dimension|var|value|feat|feature|x|pc|svd|lsi)[^a-z0-9]*"
)


@dataclass(frozen=True)
class Dimensions:
    """Columns whose names differ only in a number: ``(number, name)``, and the kind of each."""

    prefix: str
    columns: tuple[tuple[int, str], ...]
    kinds: Mapping[str, str]
    types: Mapping[str, str]

    @property
    def is_plain(self) -> bool:
        """Whether they have a usual name of dimensions."""
        return _PLAIN.fullmatch(self.prefix.lower()) is not None

    @property
    def pattern(self) -> str:
        """The value of ``snapshot.vector_column`` for them."""
        return f"{self.prefix}*"

    @property
    def shown(self) -> str:
        """Their names, for messages."""
        ordered = sorted(self.columns)
        return f"{ordered[0][1]} to {ordered[-1][1]}"

    def in_order(self, where: str) -> tuple[str, ...]:
        """Return the names in numerical order, ``d9`` before ``d10``.

        Raises
        ------
        SnapshotError
            A number is missing or repeated, the first is neither 0 nor 1, or the columns differ in type.
        """
        ordered = sorted(self.columns)
        numbers = [number for number, _ in ordered]
        wanted = range(numbers[0], numbers[0] + len(numbers))
        if numbers[0] > 1 or numbers != list(wanted):
            wrong = next((name for (number, name), right in zip(ordered, wanted, strict=True) if number != right), "")
            raise SnapshotError(
                "columns of dimensions are not numbered consecutively",
                where=where,
                found=f"{len(ordered)} columns, {self.shown}" + (f", {wrong} out of sequence" if wrong else ""),
                expected="each number from 0 or 1 once",
            )
        first = ordered[0][1]
        for _, name in ordered:
            if self.kinds[name] != self.kinds[first] and not {self.kinds[name], self.kinds[first]} <= _IN_TEXT:
                raise SnapshotError(
                    "columns of dimensions differ in type",
                    where=where,
                    found=f"{name} ({self._shown(name)})",
                    expected=f"{self.kinds[first]}, as {first}",
                )
        return tuple(name for _, name in ordered)

    def _shown(self, name: str) -> str:
        """Return the kind of a column; for text, with the first value that is not a number."""
        return self.types.get(name, "string") if self.kinds[name] == "string" else self.kinds[name]


_IN_TEXT = {"integer", "number"}


def numbered(kinds: Mapping[str, str], types: Mapping[str, str]) -> list[Dimensions]:
    """Return the groups of at least two numbered columns, at least one of them numeric, in column order."""
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
