"""Anchors: the reference rows the next snapshot is aligned to, and how they move on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from embsync.dtypes import Array, Float32, Int64
from embsync.ids import positions_in, sample
from embsync.rows import as_slice, block_rows

Policy = Literal["two_time_scales", "moving_average", "previous", "first"]

#: The policy of a space that begins, as measured by benchmarks/stability.py.
DEFAULT_POLICY: Policy = "two_time_scales"


@dataclass(frozen=True)
class Motion:
    """How anchors move on.

    Attributes
    ----------
    policy : {"two_time_scales", "moving_average", "previous", "first"}
    weight : float
        Of the newest vector in the moving average.
    parent_share, slow_weight : float
        Of two time scales: what is fitted to is ``parent_share`` times the parent's stable row plus the rest of a slow
        average, in which the newest vector weighs ``slow_weight``.
    """

    policy: Policy = DEFAULT_POLICY
    weight: float = 0.3
    parent_share: float = 0.45
    slow_weight: float = 0.001

    @property
    def share_of_new(self) -> float:
        """Weight of the newest vector in what is stored."""
        return {"two_time_scales": self.slow_weight, "moving_average": self.weight, "previous": 1.0, "first": 0.0}[
            self.policy
        ]


@dataclass(frozen=True)
class AnchorSide:
    """Anchors of one side.

    Attributes
    ----------
    ids : (a,) int64 or ``S<n>``, ascending
    vectors : (a, k) float32
        What moves on by the policy; the slow part of two time scales.
    rate : float
        Share of the side's rows that are anchors; the side's cross-Gram matrix is scaled up by its inverse.
    recent : (a, k) float32, or None
        Each id's last stable vector, the other part of two time scales; None: none but ``vectors``.
    """

    ids: Array
    vectors: Float32
    rate: float = 1.0
    recent: Float32 | None = None

    def __repr__(self) -> str:
        return f"<AnchorSide: {len(self.ids):,} ids of {self.ids.dtype}, {self.vectors.shape[1]} dimensions>"

    def reference(self, motion: Motion) -> ReferenceRows:
        """Return the rows that a snapshot is fitted to."""
        if motion.policy != "two_time_scales" or self.recent is None:
            return self.vectors
        return Blend(self.vectors, self.recent, None, motion.parent_share)


class ReferenceRows(Protocol):
    """Rows that can be had by their positions: an array, or a :class:`Blend`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (a, k)."""

    def __len__(self) -> int:
        """Return a, the number of anchors."""

    def __getitem__(self, places: Any, /) -> Float32:
        """Return the rows at an array of positions."""


@dataclass(frozen=True)
class Blend:
    """The reference of two time scales, blended where it is read: nothing of the size of a side is made.

    Attributes
    ----------
    slow : (a, k) float32
    recent : (n, k) float32
    rows : (a,) int64, or None
        Row in ``recent`` of each anchor; None: its own position.
    share : float
        Of the recent row.
    """

    slow: Float32
    recent: Float32
    rows: Int64 | None
    share: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (a, k)."""
        return self.slow.shape

    def __len__(self) -> int:
        """Return a, the number of anchors."""
        return len(self.slow)

    def __getitem__(self, places: Array) -> Float32:
        """Return (len(places), k) float32 rows."""
        rows = places if self.rows is None else self.rows[places]
        slow = np.asarray(self.slow[as_slice(places)])
        blended = np.asarray(self.recent[as_slice(rows)]) - slow
        blended *= np.float32(self.share)
        blended += slow
        return blended


def choose(ids: Array, limit: int) -> Int64:
    """Return the rows, ascending, whose ids become anchors: those with the lowest stable hashes."""
    return sample(ids, limit)


def advance(
    put: Callable[[slice, Float32], None],
    dimension: int,
    ids: Array,
    vectors: Float32,
    rows: Int64,
    live: Array,
    previous: AnchorSide | None,
    motion: Motion,
) -> None:
    """Hand the next anchors of the chosen rows to ``put``, block by block.

    A live row's anchor moves to (1 - w) old + w new, with w the weight of the ``moving_average`` or of the slow part of
    ``two_time_scales``, 1 for ``previous`` and 0 for ``first``. Absent ids keep theirs; ids without one join with their
    vector.

    Parameters
    ----------
    put : callable
        Called with a slice of the anchors and their vectors.
    dimension : int
        k.
    ids : (a,)
        Chosen ids, ascending.
    vectors : (n, k) float32
        Stable vectors, possibly memory-mapped.
    rows : (a,) int64
        Row of each chosen id in ``vectors``.
    live : (a,) bool
        Whether the id is in the version's own snapshot.
    previous : AnchorSide or None
        What the parent had stored.
    motion : Motion
    """
    places = np.full(len(ids), -1, np.int64) if previous is None else positions_in(ids, previous.ids)
    step = block_rows(dimension)
    for start in range(0, len(ids), step):
        part = slice(start, start + step)
        block = np.array(vectors[as_slice(rows[part])], dtype=np.float32)
        known = np.flatnonzero(places[part] >= 0)
        if previous is not None and len(known):
            old = np.asarray(previous.vectors[as_slice(places[part][known])], np.float32)
            share_of_new = np.where(live[part][known], np.float32(motion.share_of_new), np.float32(0.0))
            where = as_slice(known)
            block[where] = _mixed(old, block[where], share_of_new)
        put(slice(start, start + len(block)), block)


def _mixed(old: Float32, new: Float32, share: Float32) -> Float32:
    """Return (1 - share) old + share new; a share of 0 or 1 gives the one or the other to the last bit."""
    mixed = new - old
    mixed *= share[:, None]
    mixed += old
    whole = share == 1.0
    if whole.any():
        mixed[whole] = new[whole]
    return mixed
