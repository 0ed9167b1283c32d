"""Labels for consumers: items that meet conditions, and values of given items."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embsync.dtypes import Bool, Int64
from embsync.errors import UsageError
from embsync.labels import LabelColumn

if TYPE_CHECKING:
    from embsync.reader.version import Version

#: A condition as a hashable key.
Frozen: TypeAlias = tuple[Any, ...]
_SCALARS = frozenset({str, int, float, bool, type(None)})
#: Maximum number of conditions of a version whose rows are cached, and of bytes of these.
_REMEMBERED, _REMEMBERED_BYTES = 64, 1 << 26
#: Conditions by label name, all of which must hold; see :meth:`embsync.labels.LabelColumn.matching`.
Where: TypeAlias = Mapping[str, Any] | None


def matching(version: Version, where: Where) -> Bool | None:
    """Return which rows of the items meet all conditions, None without conditions.

    Raises
    ------
    UsageError
        An unknown label, or a value of a different type from the label's.
    """
    if where is None:
        return None
    if not isinstance(where, Mapping):
        raise UsageError(
            "conditions are not a mapping", found=repr(where)[:80], expected="a mapping of labels to values"
        )
    mask = np.ones(len(version.items.ids), np.bool_)
    for name, condition in where.items():
        column, key = column_of(version, name), _frozen(condition)
        mask &= column.matching(condition) if key is None else version.matches(name, key)
    return mask


def remembered(columns: Mapping[str, LabelColumn], rows: int) -> Callable[[str, Frozen], Bool]:
    """Return a function that finds the rows that meet a condition, with an LRU cache of bounded size."""

    def matches(name: str, key: Frozen) -> Bool:
        found = columns[name].matching(_thawed(key))
        found.flags.writeable = False
        return found

    return functools.lru_cache(max(1, min(_REMEMBERED, _REMEMBERED_BYTES // max(rows, 1))))(matches)


def _frozen(condition: object) -> Frozen | None:
    """Return a condition as a key that distinguishes 1, 1.0 and True; None if it has other types or is long."""
    if type(condition) in _SCALARS:
        return (type(condition), condition)
    if type(condition) is list and len(condition) <= _REMEMBERED and all(type(one) in _SCALARS for one in condition):
        return (list, *((type(one), one) for one in condition))
    if type(condition) is dict and len(condition) <= 2 and all(type(one) in _SCALARS for one in condition.values()):
        return (dict, *((name, type(one), one) for name, one in condition.items()))
    return None


def _thawed(key: Frozen) -> Any:
    kind, *parts = key
    if kind is list:
        return [one for _, one in parts]
    if kind is dict:
        return {name: one for name, _, one in parts}
    return parts[0]


def column_of(version: Version, name: str) -> LabelColumn:
    """Return a label by name.

    Raises
    ------
    UsageError
        There is no such label.
    """
    found = version.labels.get(name)
    if found is None:
        near = difflib.get_close_matches(str(name), version.labels, n=1, cutoff=0.5)
        raise UsageError(
            "unknown label",
            found=repr(name)[:80],
            expected=", ".join(version.labels) or "none: this version has no labels",
            hint=f"did you mean {near[0]}?" if near else None,
        )
    return found


def records_of(version: Version, rows: Int64, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the labels of each row by name, None for null and for negative rows; all labels if ``names`` is None."""
    columns = values_of(version, rows, names)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)] or [
        {} for _ in rows
    ]


def values_of(version: Version, rows: Int64, names: Sequence[str] | None) -> dict[str, list[Any]]:
    """Return the labels of rows by name, None for null and for negative rows; all labels if ``names`` is None."""
    columns = version.labels.values() if names is None else [column_of(version, name) for name in names]
    return {column.name: column.at(rows) for column in columns}
