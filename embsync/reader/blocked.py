"""Lists of blocked ids, one for each query: found ids are compared with them without looking up rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embsync.dtypes import Array, Bool, Int64
from embsync.errors import UsageError
from embsync.ids import hash_ids
from embsync.reader.side import Side

#: Slots of a hash table for each of its ids: a sixteenth of all other ids collide and are compared needlessly.
_PLACES = 16
#: Bytes of the tables, and pairs of ids compared, at once.
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class BlockedIds:
    """Blocked ids for each of q queries.

    Attributes
    ----------
    ids : (q, m) ndarray of int64 or ``S<n>``
        In the store's type, padded to the longest list.
    lengths : (q,) int64
    """

    ids: Array
    lengths: Int64

    @classmethod
    def of(cls, side: Side, lists: Any) -> BlockedIds:
        """Return the ids of lists, or of a matrix, whether or not the side has them.

        Raises
        ------
        UsageError
            Ids of the wrong type.
        """
        if isinstance(lists, np.ndarray) and lists.ndim == 2:
            return cls(side.as_stored(lists.ravel()).reshape(lists.shape), np.full(len(lists), lists.shape[1]))
        lists = [() if one is None else one for one in lists]
        lengths = np.array([len(one) for one in lists], np.int64)
        flat = side.as_stored(_joined(side, lists))
        ids = np.zeros((len(lists), lengths.max(initial=0)), flat.dtype)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = flat
        return cls(ids, lengths)

    def __getitem__(self, queries: Int64) -> BlockedIds:
        """Return the lists of some queries."""
        return BlockedIds(self.ids[queries], self.lengths[queries])

    def pairs(self, side: Side) -> tuple[Int64, Int64]:
        """Return the pairs of a query and a blocked row, ascending by row, then by query."""
        query, place = np.nonzero(np.arange(self.ids.shape[1]) < self.lengths[:, None])
        row = side.rows(self.ids[query, place])
        query, row = query[row >= 0], row[row >= 0]
        order = np.argsort(row * len(self.ids) + query)  # takes half the time of sorting by both
        return query[order], row[order]

    def contain(self, names: Array) -> Bool:
        """Return which of the ids (q, k), in the store's type, are in the list of their query."""
        hit = np.zeros(names.shape, np.bool_)
        size = 1 << (_PLACES * max(self.ids.shape[1], 1) - 1).bit_length()
        step = max(1, _AT_ONCE // size)
        for start in range(0, len(names), step):
            part = slice(start, start + step)
            hit[part] = self._contain(names[part], self.ids[part], self.lengths[part], size)
        return hit

    def _contain(self, names: Array, ids: Array, lengths: Int64, size: int) -> Bool:
        """Look up ids in a hash table, and compare the hits with the list of their query."""
        listed = np.arange(ids.shape[1]) < lengths[:, None]
        query = np.arange(len(names))[:, None]
        table = np.zeros((len(names), size), np.bool_)
        table[np.broadcast_to(query, ids.shape)[listed], _places(ids[listed], size)] = True
        hit = table[query, _places(names.ravel(), size).reshape(names.shape)]
        rows, columns = np.nonzero(hit)
        step = max(1, _AT_ONCE // max(ids.shape[1], 1))
        for start in range(0, len(rows), step):
            row, column = rows[start : start + step], columns[start : start + step]
            hit[row, column] = ((ids[row] == names[row, column][:, None]) & listed[row]).any(axis=1)
        return hit


def _places(ids: Array, size: int) -> Int64:
    """Return a slot below ``size``, a power of two, for each id; for integers, the upper bits of a product."""
    if ids.dtype.kind == "S":
        return (hash_ids(ids) & np.uint64(size - 1)).astype(np.int64)
    product = ids.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Knuth's multiplicative hashing
    return (product >> np.uint64(65 - size.bit_length())).view(np.int64)


def _joined(side: Side, lists: Sequence[Any]) -> Array:
    """Return the ids of all lists, concatenated."""
    arrays = [side.as_array(one) for one in lists if len(one)]
    for one in arrays:
        if one.ndim != 1:
            raise UsageError("items ids are not a list", found=f"{one.ndim} dimensions", expected="1")
        if one.dtype.kind not in "iuUS" or (one.dtype.kind in "US") != (arrays[0].dtype.kind in "US"):
            raise UsageError("items ids of the wrong type", found=str(one.dtype), expected=str(arrays[0].dtype))
    return np.concatenate(arrays) if arrays else np.empty(0, side.ids.dtype)
