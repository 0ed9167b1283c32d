"""A snapshot of any layout: one or two sides, with ids read at once and vectors block by block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from embsync.dtypes import Array, Float64
from embsync.rows import Rows
from embsync.sides import Sides

if TYPE_CHECKING:
    from embsync.snapshots.labels import LabelTable


class SnapshotSide(Rows, Protocol):
    """One side of a snapshot.

    Blocks may be read several times; every pass reopens its files, so that a change between two passes is
    noticed.
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
    """An opened snapshot: well-formed as far as headers show; rows are checked when they are read.

    ``unread`` has the names of entries that are neither read nor known to be harmless; ``labels`` is the source of the
    items' labels, None if none are configured.
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
