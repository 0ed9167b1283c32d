"""What every layout gives: a snapshot with one or two sides, ids at once and vectors block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embsync.dtypes import Array, Float64
from embsync.rows import Rows
from embsync.sides import Sides
from embsync.snapshots.row_digest import RowDigest

if TYPE_CHECKING:
    from hashlib import _Hash

    from embsync.snapshots.labels import LabelTable


class SnapshotSide(Rows, Protocol):
    """One side of a snapshot.

    A reader may be asked for its blocks several times; every pass opens what it needs anew, so that a change
    between two passes is seen and not hidden by a cache.
    """

    @property
    def name(self) -> str:
        """``items`` or ``users``."""

    @property
    def source(self) -> str:
        """The file or directory the rows come from, for messages."""

    def ids(self) -> Array:
        """Return the ids in file order: (t,) int64, or (t,) ``S<n>`` of UTF-8 bytes; unique."""

    def weights(self) -> Float64 | None:
        """Return the (t,) row weights in file order, finite and not negative, or None."""


@dataclass(frozen=True)
class Snapshot:
    """An opened snapshot: well-formed as far as headers tell; rows are judged when they are read.

    ``unread`` names the entries that are neither read nor known to be harmless; ``labels`` is where those of the items
    are, None where none are configured.
    """

    name: str
    path: Path
    layout: str
    items: SnapshotSide
    users: SnapshotSide | None
    unread: tuple[str, ...] = ()
    labels: LabelTable | None = None

    @property
    def width(self) -> int:
        """Numbers in a raw row, e; the same on both sides."""
        return self.items.width

    @property
    def sides(self) -> Sides[SnapshotSide]:
        """Items and, perhaps, users."""
        return Sides(self.items, self.users)


class FingerprintedRows:
    """Rows that hash what passes by, so that reading and fingerprinting are one pass.

    Two complete passes over the same contents give the same :meth:`digest`, whatever the layout's packaging
    was: ids, number type, width, and the numbers in file order; of a side without an order of rows, in any.
    """

    def __init__(self, side: SnapshotSide, ids: Array) -> None:
        self._side = side
        self._begin = hashlib.sha256(f"{side.name} {side.count} {side.width} {ids.dtype.str}".encode())
        self._ids = ids
        self._ordered = getattr(side, "ordered", True)
        if self._ordered:
            self._begin.update(_bytes(ids))
        self._hash: _Hash | RowDigest | None = None

    @property
    def count(self) -> int:
        """Number of rows."""
        return self._side.count

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self._side.width

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield the side's blocks and take each into the hash."""
        weights = self._side.weights()
        if not self._ordered:
            yield from self._unordered(weights)
            return
        digest = self._begin.copy()
        if weights is not None:
            digest.update(_bytes(weights))
        for start, block in self._side.blocks():
            if start == 0:
                digest.update(block.dtype.str.encode())
            digest.update(_bytes(block))
            yield start, block
        self._hash = digest

    def _unordered(self, weights: Float64 | None) -> Iterator[tuple[int, Array]]:
        digest = RowDigest(self._begin.digest(), self._ids, weights)
        for start, block in self._side.blocks():
            digest.update(start, block)
            yield start, block
        self._hash = digest

    def digest(self) -> str:
        """Return the hexadecimal sha256 of the last complete pass."""
        if self._hash is None:
            raise RuntimeError("no complete pass over the rows yet")
        return self._hash.hexdigest()


def combined(digests: Iterable[str]) -> str:
    """Return the fingerprint of a snapshot from the digests of its sides, items first."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _bytes(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
