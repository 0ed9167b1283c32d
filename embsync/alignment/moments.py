"""Mean and mean squared length of a side's rows, summed in float64 as the rows are written."""

from __future__ import annotations

import numpy as np

from embsync.dtypes import Float32, Float64


class Moments:
    """Collects the moments of blocks, which may come in any order and from several threads."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, int, Float64, float]] = []

    def observe(self, start: int, rows: Float32) -> None:
        """Add a block (b, k) whose first row is ``start``; blocks are summed in that order."""
        exact = rows.astype(np.float64)
        values = exact.reshape(-1)
        self._parts.append((start, len(rows), np.ones(len(rows)) @ exact, float(values @ values)))

    def result(self) -> Float64:
        """Return (k + 1,) float64: the mean row, and the mean squared length last."""
        parts = sorted(self._parts, key=lambda part: part[0])
        _, counts, totals, squares = zip(*parts, strict=True)
        return np.asarray(np.append(np.sum(totals, axis=0), sum(squares)) / sum(counts))
