"""Exact order statistics of values that are read again and again rather than held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from embsync.dtypes import Array, Float32

Blocks = Callable[[], Iterable[Float32]]
_HALF = 2**16


def quantile(blocks: Blocks, count: int, share: float) -> float:
    """Return a quantile of ``count`` float32 values without NaN, by linear interpolation, as ``numpy.quantile`` does.

    Two passes over the values, with one counter for each half of their 32 bits.
    """
    place = share * (count - 1)
    low = int(np.floor(place))
    first, second = _ranked(blocks, low), _ranked(blocks, min(low + 1, count - 1))
    return first + (second - first) * (place - low)


def _ranked(blocks: Blocks, rank: int) -> float:
    """Return the value with that rank, 0 for the smallest."""
    upper, rest = _find(_counted(_ordered(block) >> np.uint32(16) for block in blocks()), rank)
    halves = (keys[keys >> np.uint32(16) == upper] & np.uint32(_HALF - 1) for keys in map(_ordered, blocks()))
    lower, _ = _find(_counted(halves), rest)
    return float(_value(np.uint32(upper << 16 | lower)))


def _counted(keys: Iterator[Array]) -> Array:
    counts = np.zeros(_HALF, np.int64)
    for part in keys:
        counts += np.bincount(part, minlength=_HALF)
    return counts


def _find(counts: Array, rank: int) -> tuple[int, int]:
    """Return the bin with that rank, and the rank within it."""
    ends = np.cumsum(counts)
    place = int(np.searchsorted(ends, rank, side="right"))
    return place, rank - int(ends[place] - counts[place])


def _ordered(values: Float32) -> Array:
    """Return float32 values as unsigned integers in the same order."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))


def _value(key: np.uint32) -> np.float32:
    bits = key & np.uint32(2**31 - 1) if key >> np.uint32(31) else ~key
    return np.float32(np.array([bits], np.uint32).view(np.float32)[0])
