"""The maps of a version, applied to arrays."""

from __future__ import annotations

import numpy as np

from embsync.alignment.transform import Transform
from embsync.dtypes import Array, Float32, Float64
from embsync.errors import UsageError
from embsync.reader.search import numbers


class Maps:
    """The version's maps in both directions."""

    def __init__(self, transform: Transform) -> None:
        self.maps = transform

    def items(self, raw: Array) -> Float32:
        """Map raw item rows (n, e) of this version's snapshot into the space, (n, k) float32."""
        return _apply(raw, self.maps.side("items"))

    def users(self, raw: Array) -> Float32:
        """Map raw user rows (n, e) of this version's snapshot into the space, (n, k) float32."""
        return _apply(raw, self.maps.side("users"))

    def items_inverse(self, stable: Array) -> Float32:
        """Map stable item rows (n, k) back to this version's raw vectors, (n, e) float32."""
        return _apply(stable, self.maps.inverse("items"))

    def users_inverse(self, stable: Array) -> Float32:
        """Map stable user rows (n, k) back to this version's raw vectors, (n, e) float32."""
        return _apply(stable, self.maps.inverse("users"))


def _apply(rows: Array, matrix: Float64) -> Float32:
    given = numbers(rows)
    if given.ndim not in (1, 2) or given.shape[-1] != len(matrix):
        raise UsageError(
            "vectors of the wrong width", found=f"shape {given.shape}", expected=f"rows of {len(matrix)} numbers"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        moved = (given.astype(np.float64) @ matrix).astype(np.float32)
    strange = np.flatnonzero(~np.isfinite(np.atleast_2d(moved)).all(axis=1))
    if len(strange):
        raise UsageError(
            "vectors that are not finite in float32",
            expected="finite numbers",
            found=f"{np.abs(np.atleast_2d(given)[strange[0]]).max():g} in row {strange[0]}",
        )
    return moved
