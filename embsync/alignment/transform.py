"""The pair of maps from a snapshot's raw vectors to the stable space, with inverses and composition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from embsync.dtypes import Float64
from embsync.errors import UsageError
from embsync.sides import SideName, Sides

#: Largest deviation of A_T A_W^T from the identity at which the inverses count as exact.
_EXACT = 1e-6


@dataclass(frozen=True)
class Transform(Sides[Float64]):
    """Linear maps of one version: raw rows times a map are stable rows.

    Attributes
    ----------
    items : (e, k) float64
        A_T.
    users : (e, k) float64 or None
        A_W; None in a one-sided store, whose map is orthonormal.
    singular_values : (e,) float64
        Singular values of the snapshot's T W^T, or of T in a one-sided store.
    """

    singular_values: Float64

    def __repr__(self) -> str:
        sides = "items" if self.users is None else "items and users"
        return f"<Transform: {sides}, {self.items.shape[0]} to {self.items.shape[1]} dimensions>"

    def side(self, name: SideName) -> Float64:
        """Return the (e, k) map of a side."""
        return self.items if name == "items" else self.queries

    def inverse(self, name: SideName) -> Float64:
        """Return the (k, e) map back to raw vectors: the other map's transpose.

        Exact at full rank (A_T A_W^T = I); below it, only scores are recovered: see :attr:`invertible`.
        """
        return self.queries.T if name == "items" else self.items.T

    @cached_property
    def invertible(self) -> bool:
        """Whether the inverses recover raw vectors exactly, not only their scores."""
        return bool(np.abs(self.items @ self.queries.T - np.eye(len(self.items))).max() <= _EXACT)

    def to(self, other: Transform, name: SideName) -> Float64:
        """Return the (e, e') map that brings raw rows of this version into ``other``'s raw basis.

        Raises
        ------
        UsageError
            The two spaces have different dimensions.
        """
        if self.items.shape[1] != other.items.shape[1]:
            raise UsageError(
                "transforms of different spaces",
                found=f"{self.items.shape[1]} dimensions",
                expected=f"{other.items.shape[1]}",
                hint="widen the narrower space first",
            )
        return self.side(name) @ other.inverse(name)

    def widened(self, dimension: int) -> Transform:
        """Return the same maps zero-padded to ``dimension`` columns."""
        padded = self.map(partial(np.pad, pad_width=((0, 0), (0, dimension - self.items.shape[1]))))
        return Transform(padded.items, padded.users, self.singular_values)
