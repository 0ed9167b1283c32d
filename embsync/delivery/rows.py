"""The rows of a version for a sink, in blocks: live and carried, with ages and labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from embsync.dtypes import Array, Bool, Float32, Int64, Times
from embsync.reader import Version
from embsync.sides import SideName


@dataclass(frozen=True)
class RowBlock:
    """Consecutive rows of one side, ascending by id.

    Attributes
    ----------
    ids : (n,) int64 or str
    vectors : (n, k) float32, mapped
    live : (n,) bool
        Whether the id is in the version's own snapshot. Only live items may be found by a search; every row can be
        looked up.
    ages : (n,) int64
        Versions since the id was last live, 0 for live rows.
    last_seen : (n,) int64
        The last version in which the id was live.
    last_seen_at : (n,) datetime64[s]
        When that version was made, UTC; NaT if unknown.
    labels : mapping of str to list, optional
        Labels of the items by name, None for null; None for users, which have no labels.
    """

    ids: Array
    vectors: Float32
    live: Bool
    ages: Int64
    last_seen: Int64
    last_seen_at: Times
    labels: Mapping[str, Sequence[Any]] | None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)


def row_blocks(version: Version, name: SideName, rows: int | None = None) -> Iterator[RowBlock]:
    """Yield all rows of a side of a pinned version, ``rows`` at a time (default: 1 MiB of vectors)."""
    side = version.side(name)
    for stored, vectors, last_seen in side.stored_blocks(rows):
        ids = side.named(stored)
        yield RowBlock(
            ids,
            vectors,
            last_seen == side.newest,
            side.ages_of(last_seen),
            last_seen,
            side.times_of(last_seen),
            version.labels_of(ids) if name == "items" else None,
        )


def label_objects(labels: Mapping[str, Sequence[Any]], rows: int) -> Iterator[dict[str, Any]]:
    """Yield the labels of each row, with values that JSON can represent.

    NUL in a string becomes U+FFFD and an infinite number becomes null, since JSON columns of databases accept neither.
    """
    columns = [list(map(_storable, values)) for values in labels.values()]
    for values in zip(*columns, strict=True) if columns else ((),) * rows:
        yield dict(zip(labels, values, strict=True))


def labels_as_json(labels: Mapping[str, Sequence[Any]], rows: int) -> Iterator[bytes]:
    """Yield what :func:`label_objects` yields, as JSON."""
    return map(msgspec.json.Encoder().encode, label_objects(labels, rows))


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd") if "\0" in value else value
    if isinstance(value, list):
        return [one.replace("\0", "\ufffd") for one in value]
    return None if isinstance(value, float) and math.isinf(value) else value
