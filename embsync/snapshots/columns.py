"""Choose a table's columns of ids and vectors: by name, and by type only if no name matches.

A column with a name of ids and an unusable type is refused with a hint on how to cast it. It is never replaced by
another column, since a leftover index, a count or a rank would then be published as ids. Two candidates are an error,
too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embsync.config import SideColumns, SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots.column_casts import cast_line
from embsync.snapshots.column_names import (
    ANY_NAMES,
    ID_ENDS,
    LAST_NAMES,
    NEVER,
    VECTOR_NAMES,
    VECTOR_WORDS,
    folded,
    is_of,
    name_words,
)
from embsync.snapshots.dimensions import NUMBERS, Dimensions, numbered
from embsync.snapshots.named_arrays import reject_ids
from embsync.snapshots.names import side_of
from embsync.snapshots.sides import ITEMS, USERS

FLOATS = {"list float16": "f2", "list float32": "f4", "list float64": "f8", "list vector": "f8", "list text": "f4"}
#: Kinds that a column with a name of vectors may have; numbers in text become float32.
VECTORS = FLOATS | {"string": "f4"}
IDS = frozenset({"integer", "string"})

_NO_VALUES = ("timestamp", "date", "time", "duration", "bool", "list", "large_list", "fixed_size_list", "map", "null")


@dataclass(frozen=True)
class Columns:
    """The columns of a table: its path, and the kind (from the decoder) and full type of each."""

    where: str
    kinds: Mapping[str, str]
    types: Mapping[str, str]

    def one_a_dimension(self, side: str) -> list[Dimensions]:
        """Return the groups of numbered numeric columns that are not named after the other side."""
        other = USERS if side == ITEMS else ITEMS
        return [group for group in numbered(self.kinds, self.types) if side_of(group.prefix) != other]

    def shown(self, names: Iterable[str] | None = None) -> str:
        """Return columns with their types, for messages."""
        chosen = self.kinds if names is None else names
        return ", ".join(f"{name} ({self._type(name)})" for name in chosen)[:300]

    def cast(self, what: str, name: str) -> str:
        """Return how the program that writes a column can cast it to ids or vectors."""
        return cast_line(what, name, self.types.get(name, self.kinds[name]))

    def _type(self, name: str) -> str:
        kind = self.kinds[name]
        return kind if kind in {"integer", "string"} or kind in FLOATS else self.types.get(name, kind)


@dataclass(frozen=True)
class Chosen:
    """The columns of a side: vectors (one of lists, or one per dimension), ids (None: row numbers) and weights."""

    vectors: tuple[str, ...]
    dtype: np.dtype[Any]
    ids: str | None
    weights: str | None


def choose(side: str, columns: Columns, config: SnapshotConfig) -> Chosen:
    """Return the columns of vectors, ids (None: row numbers) and weights (None: equal).

    Raises
    ------
    SnapshotError
        A column is missing, ambiguous or of a type that is not read; the message says what to do.
    """
    weight = config.weight_column
    if weight is not None and columns.kinds.get(weight) not in {"integer", *NUMBERS}:
        raise _none("weight", columns, f"a numeric column named {weight}")
    vectors = _vectors(side, columns, _configured(config.vector_column, side))
    kind = columns.kinds[vectors[0]]
    dtype = np.dtype(VECTORS[kind] if len(vectors) == 1 else NUMBERS.get(kind, "f4"))
    return Chosen(vectors, dtype, choose_ids(side, columns, config, {weight, *vectors, *(config.labels or ())}), weight)


def _configured(value: str | SideColumns, side: str) -> str:
    return value if isinstance(value, str) else str(getattr(value, side))


def _vectors(side: str, columns: Columns, configured: str) -> tuple[str, ...]:
    if configured.endswith("*") and configured not in columns.kinds:
        return _configured_dimensions(configured, columns)
    if configured != "auto":
        return (_usable("vector", configured, columns, VECTORS.keys()),)
    exact = [
        name for name in columns.kinds if folded(name) in {*VECTOR_NAMES, *(side[:-1] + name for name in VECTOR_NAMES)}
    ]
    lists = [name for name, kind in columns.kinds.items() if kind in FLOATS]
    named = [name for name in lists if not VECTOR_WORDS.isdisjoint(name_words(name))]
    groups = columns.one_a_dimension(side)
    of_vectors = [group for group in groups if not VECTOR_WORDS.isdisjoint(name_words(group.prefix))]
    candidates = list(dict.fromkeys([*exact, *named])) or ([] if of_vectors else lists)
    groups = of_vectors or ([] if candidates else [group for group in groups if group.is_plain])
    if len(groups) + len(candidates) > 1 and groups:
        found = ", ".join([*candidates, *(group.shown for group in groups)])
        hint = f"set snapshot.vector_column: {candidates[0] if candidates else groups[0].pattern}, or another"
        raise SnapshotError(
            "more than one column may be the vectors", where=columns.where, found=found[:300], expected="one", hint=hint
        )
    if groups:
        return groups[0].in_order(columns.where)
    if not candidates:
        likely = columns.one_a_dimension(side)
        cast = f"set snapshot.vector_column: {likely[0].pattern} if it is right" if likely else _likely_vectors(columns)
        raise _none("vector", columns, "a list of float16, float32 or float64, or one column per dimension", cast)
    return (_one("vector", candidates, columns, VECTORS.keys(), side),)


def _configured_dimensions(pattern: str, columns: Columns) -> tuple[str, ...]:
    for group in numbered(columns.kinds, columns.types):
        if group.pattern == pattern:
            return group.in_order(columns.where)
    raise _none("vector", columns, f"numeric columns named {pattern[:-1]}0, {pattern[:-1]}1 and so on")


def _likely_vectors(columns: Columns) -> str | None:
    likely = [
        name
        for name, kind in columns.kinds.items()
        if kind.startswith("list") or not VECTOR_WORDS.isdisjoint(name_words(name))
    ]
    return columns.cast("vector", likely[0]) if likely else None


def choose_ids(side: str, columns: Columns, config: SnapshotConfig, taken: Collection[str | None] = ()) -> str | None:
    """Return the column of ids among those not used for anything else; raises as :func:`choose` does."""
    configured = _configured(config.id_column, side)
    if configured != "auto":
        if config.row_number_ids:
            reject_ids([f"snapshot.id_column: {configured}"], columns.where)
        return _usable("id", configured, columns, IDS)
    free = [name for name in columns.kinds if name not in taken]
    foreign = [name for name in free if is_of(name, USERS if side == ITEMS else ITEMS)]
    own = [name for name in free if name not in foreign]
    named = _named_as_ids(own, side)
    if config.row_number_ids:
        reject_ids(named, columns.where)
        return None
    candidates = named or ([] if foreign else [name for name in own if _may_be_ids(name, columns)])
    if not candidates and foreign:
        raise SnapshotError(
            f"ids of the other side among {side}",
            where=columns.where,
            found=columns.shown(foreign),
            expected=f"{side[:-1]}_id",
            hint=f"set snapshot.id_column: {foreign[0]} if it is right",
        )
    if not candidates:
        raise _none(
            "id",
            columns,
            "integers or strings in a column with a name of ids",
            "set snapshot.id_column, or snapshot.row_number_ids: true if row numbers are the ids",
        )
    return _one("id", candidates, columns, IDS, side)


def _named_as_ids(names: list[str], side: str) -> list[str]:
    """Return the columns whose names say that they are ids, by the strongest convention that any of them follows."""
    strong = [name for name in names if folded(name) in ANY_NAMES or is_of(name, side)]
    ended = [
        name
        for name in names
        if name_words(name) and name_words(name)[-1] in ID_ENDS and NEVER.isdisjoint(name_words(name)[:-1])
    ]
    return strong or ended or [name for name in names if folded(name) in LAST_NAMES]


def _may_be_ids(name: str, columns: Columns) -> bool:
    kind, words = columns.kinds[name], name_words(name)
    if not name and kind == "integer":
        return False  # the row numbers that pandas writes with a table
    if kind in NUMBERS or kind.startswith("list") or columns.types.get(name, "").startswith(_NO_VALUES):
        return False
    return NEVER.isdisjoint(words) and not (kind == "other" and not VECTOR_WORDS.isdisjoint(words))


def _one(what: str, candidates: list[str], columns: Columns, kinds: Iterable[str], side: str) -> str:
    if len(candidates) > 1:
        raise SnapshotError(
            f"more than one column may be the {what}",
            where=columns.where,
            found=columns.shown(candidates),
            expected="one",
            hint=f"set snapshot.{what}_column: {candidates[0]}, or another (for both sides: {{items: …, users: …}})",
        )
    return _usable(what, candidates[0], columns, kinds)


def _usable(what: str, name: str, columns: Columns, kinds: Iterable[str]) -> str:
    if name not in columns.kinds:
        raise _none(
            what,
            columns,
            f"a column named {name}",
            f"snapshot.{what}_column can be set for each side: {{items: …, users: …}}",
        )
    if columns.kinds[name] not in kinds:
        expected = "integers or strings" if what == "id" else "a list of float16, float32 or float64"
        raise SnapshotError(
            f"no {what} column: {name} is of an unusable type",
            where=columns.where,
            found=columns.shown([name]),
            expected=expected,
            hint=columns.cast(what, name),
        )
    return name


def _none(what: str, columns: Columns, expected: str, hint: str | None = None) -> SnapshotError:
    return SnapshotError(f"no {what} column", where=columns.where, found=columns.shown(), expected=expected, hint=hint)
