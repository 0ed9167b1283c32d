"""Anchors: the reference rows that the next snapshot is aligned to, and how they are updated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from embsync.dtypes import Array, Float32, Float64, Int64
from embsync.ids import positions_in, sample
from embsync.rows import as_slice, block_rows, in_threads

Policy = Literal["two_time_scales", "moving_average", "previous", "first"]

#: The default policy for a new space, chosen with benchmarks/stability.py.
DEFAULT_POLICY: Policy = "two_time_scales"


@dataclass(frozen=True)
class AnchorUpdate:
    """How anchors are updated from one version to the next.

    Attributes
    ----------
    policy : {"two_time_scales", "moving_average", "previous", "first"}
    weight : float
        Weight of the newest vector in the moving average.
    parent_share, slow_weight : float
        For two time scales: a snapshot is fitted to ``parent_share`` times the parent's stable row plus
        ``1 - parent_share`` times a slow average, in which the newest vector has weight ``slow_weight``; see
        :func:`blend`.
    """

    policy: Policy = DEFAULT_POLICY
    weight: float = 0.3
    parent_share: float = 0.45
    slow_weight: float = 0.001

    @property
    def share_of_new(self) -> float:
        """Weight of the newest vector in the stored anchors."""
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
        The rows that the policy updates; for two time scales, the slow average.
    rate : float
        Share of the side's rows that are anchors; the side's cross-Gram matrix is divided by it.
    recent : (a, k) float32, or None
        Each id's last stable vector, which two time scales also need; None when only ``vectors`` is kept.
    ages : (a,) int32, or None
        Number of versions that have updated each row since its id joined; None if that is unknown, as in files of
        earlier releases: all rows then count as new.
    """

    ids: Array
    vectors: Float32
    rate: float = 1.0
    recent: Float32 | None = None
    ages: Array | None = None

    def __repr__(self) -> str:
        return f"<AnchorSide: {len(self.ids):,} ids of {self.ids.dtype}, {self.vectors.shape[1]} dimensions>"

    def reference(self, update: AnchorUpdate, positions: Array) -> ReferenceRows:
        """Return the (a, k) float32 rows that a snapshot is fitted to, given the positions of its rows' anchors."""
        if update.policy != "two_time_scales" or self.recent is None:
            return self.vectors
        return blend(self, self.recent, None, positions, update.parent_share)

    def reference_of_version(
        self, update: AnchorUpdate, positions: Array, ids: Array, vectors: Float32
    ) -> ReferenceRows:
        """Return the same for a version without ``recent``, from its own (n,) ``ids`` and (n, k) stable ``vectors``."""
        rows = positions_in(self.ids, ids)
        if update.policy != "two_time_scales" or (rows < 0).any():
            return self.vectors
        return blend(self, vectors, rows, positions, update.parent_share)


class ReferenceRows(Protocol):
    """Rows that can be read by position: an array or a :class:`Blend`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (a, k)."""

    def __len__(self) -> int:
        """Return a, the number of anchors."""

    def __getitem__(self, places: Any, /) -> Float32:
        """Return the rows at an array of positions."""


@dataclass(frozen=True)
class Blend:
    """The reference rows of two time scales, blended as they are read, so that no array of a side's size is allocated.

    Attributes
    ----------
    slow : (a, k) float32
    recent : (n, k) float32
    rows : (a,) int64, or None
        Row in ``recent`` of each anchor; None when anchor i is row i.
    share : (a,) float32
        Weight of the recent row, between 0 and 1.
    weights : (a,) float32
        Weights of the anchors in the fit, before :meth:`weigh` divides them by their norms.
    """

    slow: Float32
    recent: Float32
    rows: Int64 | None
    share: Float32
    weights: Float32

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
        blended *= self.share[places][:, None]
        blended += slow
        return blended

    def weigh(self, places: Array, rows: Float64) -> Float64:
        """Return the (m,) float64 weights in the fit of the anchors at ``places``, whose (m, k) blends are ``rows``.

        A squared error counts long rows more than short ones; dividing by the square root of the norm reduces that.
        """
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        norms[norms == 0.0] = 1.0
        return np.asarray(self.weights[places] / np.sqrt(norms), np.float64)


def blend(side: AnchorSide, recent: Float32, rows: Int64 | None, positions: Array, share: float) -> Blend:
    """Return the reference rows of two time scales: share x recent + (1 - share) x (age weight) x slow.

    The age weight is (age + 1) over its mean among the anchors that the snapshot has: the slow row of an id that joined
    recently contains little information about the start of the space. The blend is divided by share + (1 - share) x
    (age weight), which becomes the anchor's weight in the fit.

    Parameters
    ----------
    side : AnchorSide
        ``vectors`` are the slow rows.
    recent : (n, k) float32
    rows : (a,) int64, or None
        Row in ``recent`` of each anchor; None when anchor i is row i.
    positions : (t,) int
        Position of the anchor of each row of the snapshot, -1 without one.
    share : float
        Weight of the recent row at the mean age.
    """
    ages = np.ones(len(side.ids)) if side.ages is None else side.ages + 1.0
    paired = positions[positions >= 0]
    if len(paired):
        ages /= ages[paired].mean()
    weights = share + (1.0 - share) * ages
    return Blend(side.vectors, recent, rows, (share / weights).astype(np.float32), weights.astype(np.float32))


def choose(ids: Array, limit: int) -> Int64:
    """Return the positions, ascending, of the ids that become anchors: those with the lowest stable hashes."""
    return sample(ids, limit)


def advance(
    put: Callable[[slice, Float32], None],
    dimension: int,
    ids: Array,
    vectors: Float32,
    rows: Int64,
    live: Array,
    previous: AnchorSide | None,
    update: AnchorUpdate,
    threads: int = 0,
) -> None:
    """Compute the next anchors of the chosen rows and pass them to ``put``, block by block, in any order.

    The anchor of a live row becomes (1 - w) old + w new, where w is ``weight`` for ``moving_average``, ``slow_weight``
    for ``two_time_scales``, 1 for ``previous`` and 0 for ``first``. Absent ids keep their anchors; the anchor of a new
    id is its vector.

    Parameters
    ----------
    put : callable
        Called by worker threads with a slice of the anchors and their vectors.
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
        The anchors that the parent version stored.
    update : AnchorUpdate
    threads : int
        Workers; 0 for all cores.
    """
    places = np.full(len(ids), -1, np.int64) if previous is None else positions_in(ids, previous.ids)
    step = block_rows(dimension)

    def work(start: int) -> None:
        part = slice(start, start + step)
        block = np.array(vectors[as_slice(rows[part])], dtype=np.float32)
        known = np.flatnonzero(places[part] >= 0)
        if previous is not None and len(known):
            old = np.asarray(previous.vectors[as_slice(places[part][known])], np.float32)
            share_of_new = np.where(live[part][known], np.float32(update.share_of_new), np.float32(0.0))
            where = as_slice(known)
            block[where] = _mixed(old, block[where], share_of_new)
        put(slice(start, start + len(block)), block)

    for _ in in_threads(work, range(0, len(ids), step), threads):
        pass


def advance_ages(ids: Array, live: Array, previous: AnchorSide | None) -> Array:
    """Return the (a,) int32 ages of the chosen ids' anchors: one more for live ids, 0 for new ones.

    Parameters
    ----------
    ids : (a,)
        Chosen ids, ascending.
    live : (a,) bool
        Whether the id is in the version's own snapshot.
    previous : AnchorSide or None
        The anchors that the parent version stored.
    """
    ages = np.zeros(len(ids), np.int32)
    if previous is not None:
        places = positions_in(ids, previous.ids)
        known = places >= 0
        if previous.ages is not None:
            ages[known] = previous.ages[places[known]]
        ages[known & live] += 1
    return ages


def _mixed(old: Float32, new: Float32, share: Float32) -> Float32:
    """Return (1 - share) old + share new; a share of 0 or 1 returns old or new bit for bit."""
    mixed = new - old
    mixed *= share[:, None]
    mixed += old
    replaced = share == 1.0
    if replaced.any():
        mixed[replaced] = new[replaced]
    return mixed
