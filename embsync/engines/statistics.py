"""Exact order statistics of values that are read twice rather than held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from embsync.dtypes import Array, Float32, Int64

#: Called for each pass: yields blocks of several series of values.
Series = Callable[[], Iterable[Sequence[Float32]]]
_HALF = 2**16
_UPPER = np.uint32(16)


def quantiles(series: Series, shares: Sequence[float]) -> list[float]:
    """Return a quantile of each series of float32 values without NaN, by linear interpolation, as ``numpy.quantile``.

    The values are read twice: the first pass counts the upper halves of their 32 bits, the second the lower halves of
    those whose upper half is that of the values sought. The quantile of no values is NaN.
    """
    uppers = np.zeros((len(shares), _HALF), np.int64)
    for block in series():
        for counts, values in zip(uppers, block, strict=True):
            counts += np.bincount(_ordered(values) >> _UPPER, minlength=_HALF)  # noqa: PLW2901  (in place)
    sought = [_ranks(int(counts.sum()), share) for counts, share in zip(uppers, shares, strict=True)]
    lowers = [
        {_place(counts, rank)[0]: np.zeros(_HALF, np.int64) for rank in ranks}
        for counts, ranks in zip(uppers, sought, strict=True)
    ]
    for block in series():
        for halves, values in zip(lowers, block, strict=True):
            keys = _ordered(values)
            for upper, counts in halves.items():
                counts += np.bincount(keys[keys >> _UPPER == upper] & np.uint32(_HALF - 1), minlength=_HALF)  # noqa: PLW2901
    found = []
    for upper_counts, halves, ranks, share in zip(uppers, lowers, sought, shares, strict=True):
        ends = [_value(upper_counts, halves, rank) for rank in ranks] or [float("nan")] * 2
        found.append(ends[0] + (ends[1] - ends[0]) * (share * (int(upper_counts.sum()) - 1) % 1.0))
    return found


def _ranks(count: int, share: float) -> list[int]:
    """Return the ranks of the values that enclose the quantile; the smallest value has rank 0."""
    low = int(np.floor(share * (count - 1)))
    return [low, min(low + 1, count - 1)] if count else []


def _value(uppers: Int64, halves: dict[int, Int64], rank: int) -> float:
    upper, rest = _place(uppers, rank)
    key = np.uint32(upper << 16 | _place(halves[upper], rest)[0])
    bits = key & np.uint32(2**31 - 1) if key >> np.uint32(31) else ~key
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def _place(counts: Int64, rank: int) -> tuple[int, int]:
    """Return the bin with that rank, and the rank within it."""
    ends = np.cumsum(counts)
    place = int(np.searchsorted(ends, rank, side="right"))
    return place, rank - int(ends[place] - counts[place])


def _ordered(values: Float32) -> Array:
    """Return float32 values as unsigned integers in the same order."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
