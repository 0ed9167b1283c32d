"""Sides made of arrays in memory, checked with the same messages as a snapshot's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from embsync.array_inputs import as_ids, as_matrix, as_weights
from embsync.dtypes import Array
from embsync.errors import SnapshotError
from embsync.rows import ArrayRows
from embsync.snapshots.arrays import require_vectors
from embsync.snapshots.sides import IdentifiedSide


def side_of_arrays(name: str, vectors: Any, ids: Any, weights: Any, *, row_numbers: bool = False) -> IdentifiedSide:
    """Return a side made of arrays, checked like a side of a snapshot.

    Parameters
    ----------
    name : "items" or "users"
    vectors, ids, weights
        As :func:`embsync.write_snapshot` takes them.
    row_numbers : bool
        Whether rows without ids are identified by their numbers.

    Raises
    ------
    SnapshotError
        Vectors are not a matrix of floats, or ids or weights are missing or of another length.
    """
    matrix, index = as_matrix(vectors, name)
    one = name[:-1]
    require_vectors(matrix.dtype, matrix.shape, name)
    named = as_ids(ids, f"{one}_ids") if ids is not None else index
    if named is None and not row_numbers:
        raise SnapshotError(
            "vectors without ids",
            where=name,
            expected=f"{one}_ids beside {name}",
            hint=f"{one}_ids=range(len({name})) if row numbers are stable ids",
        )
    columns = [
        None if values is None else _Values(f"{one}_{what}", values)
        for what, values in (
            ("ids", named),
            ("weights", None if weights is None else as_weights(weights, f"{one}_weights")),
        )
    ]
    return IdentifiedSide(name, name, ArrayRows(matrix), columns[0], columns[1], stored_bytes=matrix.nbytes)


@dataclass(frozen=True)
class _Values:
    """An array with one value per row."""

    name: str
    values: Array

    def __post_init__(self) -> None:
        if self.values.ndim != 1:
            raise SnapshotError(
                "not one value per row", where=self.name, found=f"shape {self.values.shape}", expected="one dimension"
            )

    def __str__(self) -> str:
        return self.name

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def read(self) -> Array:
        return self.values
