"""Anchors: the reference rows the next snapshot is aligned to, and how they move on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embsync.alignment.blocks import as_slice, block_rows
from embsync.alignment.sampling import positions_in, sample
from embsync.dtypes import Array, Float32, Int64

Policy = Literal["moving_average", "previous", "first"]


@dataclass(frozen=True)
class AnchorSide:
    """Anchors of one side.

    Attributes
    ----------
    ids : (a,) int64 or ``S<n>``, ascending
    vectors : (a, k) float32
    rate : float
        Share of the side's rows that are anchors; the side's cross-Gram matrix is scaled up by its inverse.
    """

    ids: Array
    vectors: Float32
    rate: float = 1.0


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
    policy: Policy,
    weight: float,
) -> None:
    """Hand the next anchors of the chosen rows to ``put``, block by block.

    A live row's anchor moves to (1 - weight) old + weight new (``moving_average``), to the new vector
    (``previous``) or not at all (``first``). Absent ids keep theirs; ids without one join with their vector.

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
        The anchors the version was aligned to.
    """
    places = np.full(len(ids), -1, np.int64) if previous is None else positions_in(ids, previous.ids)
    share = {"moving_average": weight, "previous": 1.0, "first": 0.0}[policy]
    step = block_rows(dimension)
    for start in range(0, len(ids), step):
        part = slice(start, start + step)
        block = np.array(vectors[as_slice(rows[part])], dtype=np.float32)
        known = np.flatnonzero(places[part] >= 0)
        if previous is not None and len(known):
            old = np.asarray(previous.vectors[as_slice(places[part][known])], np.float32)
            share_of_new = np.where(live[part][known], np.float32(share), np.float32(0.0))
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
