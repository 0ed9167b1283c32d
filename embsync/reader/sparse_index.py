"""A sparse index of a long memory-mapped array of ids, which finds many ids at once."""

from __future__ import annotations

import numpy as np

from embsync.dtypes import Array, Int64

#: Ids from one entry to the next, a power of two. The index of 10 million ids takes 1.2 MB and stays in the processor's
#: cache, while a binary search of the ids themselves waits for memory in each of its 24 steps. Random batches of
#: 10,000: 2 ms instead of 14 for integers, 8 instead of 27 for strings of 36 bytes; 16 to 128 differ little.
_APART = 64


class SparseIndex:
    """Every 64th of ascending ids, held in memory.

    Parameters
    ----------
    ids : (n,) ndarray of int64 or ``S<m>``, ascending and unique, n > 0
    """

    def __init__(self, ids: Array) -> None:
        self._ids = np.asarray(ids)
        self._entries = self._ids[::_APART].copy()

    def positions(self, wanted: Array) -> Int64:
        """Return the position of each of ``wanted`` among the ids, (len(wanted),) int64, -1 if absent."""
        places = np.maximum(np.searchsorted(self._entries, wanted, "right") - 1, 0) * _APART
        last = len(self._ids) - 1
        step = _APART
        while step := step // 2:
            ahead = np.minimum(places + step, last)
            places = np.where(self._ids[ahead] <= wanted, ahead, places)
        places[self._ids[places] != wanted] = -1
        return places.astype(np.int64, copy=False)
