"""Rows of a version, read once, in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embsync.dtypes import Array, Float64, Int64
from embsync.reader.side import Side

#: Numbers that a report reads of a side for histograms and the map, 8 MB as float64.
NUMBERS = 1 << 20
#: Minimum number of rows that it reads.
_FEWEST = 2048
#: Rows read at once.
_BLOCK = 512


def in_blocks(count: int, width: int) -> Int64:
    """Return some of ``count`` rows of ``width`` numbers: all if they are few, otherwise evenly spaced blocks."""
    size = max(_FEWEST, NUMBERS // width)
    if count <= size:
        return np.arange(count, dtype=np.int64)
    starts = np.linspace(0, count - _BLOCK, -(-size // _BLOCK)).astype(np.int64)
    return np.unique((starts[:, None] + np.arange(_BLOCK)).ravel())


@dataclass(frozen=True)
class ReadRows:
    """Some rows of a side, in memory.

    Attributes
    ----------
    rows : (n,) int64, ascending, unique
    vectors : (n, k) float64
    """

    rows: Int64
    vectors: Float64

    @classmethod
    def of(cls, side: Side, *wanted: Int64) -> ReadRows:
        """Read rows of a side, each once even if it is wanted repeatedly; negative ones are left out."""
        rows = np.unique(np.concatenate(wanted))
        rows = rows[rows >= 0]
        return cls(rows, np.asarray(side.vectors[rows], np.float64))

    def at(self, rows: Int64) -> Float64:
        """Return the vectors of rows that were read; NaN for negative ones."""
        if len(self.rows) == 0:
            return np.full((len(rows), self.vectors.shape[1]), np.nan)
        places = np.searchsorted(self.rows, np.maximum(rows, self.rows[0]))
        found: Array = self.vectors[np.minimum(places, len(self.rows) - 1)]
        return np.asarray(np.where((rows >= 0)[:, None], found, np.nan))
