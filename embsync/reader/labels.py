"""Labels for consumers: items that meet conditions, and values of given items."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embsync.dtypes import Bool, Int64
from embsync.errors import UsageError
from embsync.labels import LabelColumn

if TYPE_CHECKING:
    from embsync.reader.version import Version

#: Conditions by label name, all of which must hold; see :meth:`embsync.labels.LabelColumn.matching`.
Where: TypeAlias = Mapping[str, Any] | None


def matching(version: Version, where: Where) -> Bool | None:
    """Return which rows of the items meet all conditions, None without conditions.

    Raises
    ------
    UsageError
        An unknown label, or a value of another type than the label's.
    """
    if where is None:
        return None
    if not isinstance(where, Mapping):
        raise UsageError(
            "conditions are not a mapping", found=repr(where)[:80], expected="a mapping of labels to values"
        )
    mask = np.ones(len(version.items.ids), np.bool_)
    for name, condition in where.items():
        mask &= column_of(version, name).matching(condition)
    return mask


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
    """Return the labels of each row by name, None for null and for rows below zero; all labels without names."""
    columns = values_of(version, rows, names)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)] or [
        {} for _ in rows
    ]


def values_of(version: Version, rows: Int64, names: Sequence[str] | None) -> dict[str, list[Any]]:
    """Return the labels of rows by name, None for null and for rows below zero; all labels without names."""
    columns = version.labels.values() if names is None else [column_of(version, name) for name in names]
    return {column.name: column.at(rows) for column in columns}
