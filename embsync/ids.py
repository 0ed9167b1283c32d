"""A stable hash of ids: which rows are anchors, which users are sampled, which fold a row falls into.

The hash depends on the id alone, never on order, platform or the width of the string array it stands in, so
the same ids are chosen night after night.
"""

from __future__ import annotations

import numpy as np

from embsync.dtypes import Array, Int64, UInt8, UInt64

FOLDS = 10
_HASH_BLOCK = 2**18


def hash_ids(ids: Array) -> UInt64:
    """Return a 64-bit hash of each id.

    Parameters
    ----------
    ids : (n,) ndarray of int64 or ``S<m>``

    Returns
    -------
    (n,) uint64 ndarray
        The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
        OOPSLA 2014) over the integer, or chained over the string's 8-byte words.
    """
    hashes = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _HASH_BLOCK):
        part = ids[start : start + _HASH_BLOCK]
        words = part.astype("<i8").view(np.uint64)[:, None] if part.dtype.kind == "i" else _words(part)
        hashes[start : start + len(part)] = _chain(words)
    return hashes


def _words(strings: Array) -> UInt64:
    width = -(-strings.dtype.itemsize // 8) * 8
    padded: UInt64 = strings.astype(f"S{width}").view(np.uint64).reshape(len(strings), -1)
    return padded


def _chain(words: UInt64) -> UInt64:
    """Mix word after word; trailing zero words change nothing, so padding does not."""
    state = _mix(words[:, 0])
    for column in range(1, words.shape[1]):
        remaining = words[:, column:].any(axis=1)
        state = np.where(remaining, _mix(state ^ words[:, column]), state)
    return state


def _mix(value: UInt64) -> UInt64:
    with np.errstate(over="ignore"):
        z = value + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: UInt64 = z ^ (z >> np.uint64(31))
    return mixed


def fold_of(ids: Array) -> UInt8:
    """Return each id's cross-validation fold, 0 to 9, as (n,) uint8."""
    return (hash_ids(ids) % np.uint64(FOLDS)).astype(np.uint8)


def sample(ids: Array, size: int) -> Int64:
    """Return the positions, ascending, of the ``size`` ids with the lowest hashes (all when there are fewer)."""
    if len(ids) <= size:
        return np.arange(len(ids), dtype=np.int64)
    return np.sort(np.argpartition(hash_ids(ids), size - 1)[:size]).astype(np.int64)


def positions_in(ids: Array, sorted_ids: Array) -> Int64:
    """Return where each of ``ids`` stands in ``sorted_ids``, -1 where it does not.

    Parameters
    ----------
    ids : (n,) ndarray
    sorted_ids : (m,) ndarray, ascending and unique

    Returns
    -------
    (n,) int64 ndarray
    """
    if len(sorted_ids) == 0 or len(ids) == 0:
        return np.full(len(ids), -1, np.int64)
    places = np.searchsorted(sorted_ids, ids)
    np.minimum(places, len(sorted_ids) - 1, out=places)
    places[sorted_ids[places] != ids] = -1
    return places.astype(np.int64, copy=False)
