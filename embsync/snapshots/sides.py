"""A side made of vectors, ids and weights from their sources, and the requirements on both sides together."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any, Protocol, Self

import numpy as np

from embsync.dtypes import Array, Float64
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.ids import canonical, id_kind
from embsync.rows import Rows

ITEMS, USERS = "items", "users"


class Column(Protocol):
    """One value per row, read at once."""

    def __str__(self) -> str:
        """Return the file, for messages."""

    @property
    def count(self) -> int:
        """Number of values."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored values."""

    def read(self) -> Array:
        """Return the values."""


class IdentifiedSide:
    """One side of a snapshot, as :class:`~embsync.snapshots.snapshot.SnapshotSide`.

    Parameters
    ----------
    name : "items" or "users"
    source : str
        The file or directory the rows come from.
    vectors : Rows
    ids : Column or None
        None: rows are identified by their number.
    weights : Column or None
    stored_bytes : int
        Size of the side in bytes, decompressed, according to its headers.
    ordered : bool
        False if the order of rows is arbitrary.
    parts : tuple
        The files of a table, which may have further columns.
    """

    def __init__(
        self,
        name: str,
        source: str,
        vectors: Rows,
        ids: Column | None,
        weights: Column | None,
        *,
        stored_bytes: int,
        ordered: bool = True,
        parts: tuple[Any, ...] = (),
    ) -> None:
        self.name = name
        self.parts = parts
        self.source = source
        self.stored_bytes = stored_bytes
        self.ordered = ordered
        self.vectors = vectors
        self.id_column = ids
        self._weights = weights
        self.id_kind = "integer" if ids is None else id_kind(ids.dtype, str(ids))
        for column, what in ((ids, "ids"), (weights, "weights")):
            if column is not None and column.count != vectors.count:
                raise SnapshotError(
                    f"{what} and vectors differ in number",
                    where=str(column),
                    found=f"{column.count} {what}",
                    expected=f"{vectors.count}, as in {source}",
                )
        if weights is not None and weights.dtype.kind not in "fiu":
            raise SnapshotError(
                "weights that are not numbers",
                where=str(weights),
                found=weights.dtype.name,
                expected="floats or integers",
            )

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.vectors.count

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.vectors.width

    def renamed(self, name: str) -> Self:
        """Return the same rows as a side with another name."""
        other = copy(self)
        other.name = name
        return other

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield ``(start, block)`` in file order."""
        return self.vectors.blocks()

    def ids(self) -> Array:
        """Return the ids in file order: (t,) int64, or (t,) ``S<n>`` of UTF-8 bytes; unique."""
        if self.id_column is None:
            rows = np.arange(self.count, dtype=np.int64)
            rows.setflags(write=False)
            return rows
        ids = canonical(self.id_column.read(), str(self.id_column))
        if len(ids) != self.count:
            raise SnapshotChanged(
                "changed while it was read",
                where=str(self.id_column),
                found=f"{len(ids)} ids",
                expected=f"{self.count}",
            )
        return ids

    def weights(self) -> Float64 | None:
        """Return the (t,) row weights in file order, finite and not negative, or None."""
        if self._weights is None:
            return None
        weights = self._weights.read().astype(np.float64)
        wrong = ~(np.isfinite(weights) & (weights >= 0))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise SnapshotError(
                "invalid weight",
                where=str(self._weights),
                found=f"{weights[row]} in row {row}",
                expected="finite numbers, none negative",
            )
        weights.setflags(write=False)
        return weights


def require_agreement(items: IdentifiedSide, users: IdentifiedSide | None, max_bytes: int) -> None:
    """Refuse sides that cannot belong to one model, or whose size together exceeds ``max_bytes``."""
    total = items.stored_bytes + (0 if users is None else users.stored_bytes)
    if total > max_bytes:
        raise SnapshotError(
            "larger than snapshot.max_bytes",
            where=items.source,
            found=f"{total} bytes on both sides",
            expected=f"at most {max_bytes}",
            hint="raise snapshot.max_bytes if this size is right",
        )
    if users is None:
        return
    if users.width != items.width:
        raise SnapshotError(
            "items and users differ in width",
            where=users.source,
            found=f"width {users.width}",
            expected=f"{items.width}, as in {items.source}",
        )
