"""Moments are those of all rows, for blocks in any order."""

from __future__ import annotations

import numpy as np

from embsync.alignment.moments import Moments


def test_the_sum_does_not_depend_on_the_order_of_blocks() -> None:
    """Mean and mean squared length of all rows are the same bit for bit, whatever block comes first."""
    rows = np.random.default_rng(2).standard_normal((700, 5)).astype(np.float32) + 3
    made = []
    for starts in ([0, 200, 400, 600], [600, 0, 400, 200]):
        moments = Moments()
        for start in starts:
            moments.observe(start, rows[start : start + 200])
        made.append(moments.result())
    exact = rows.astype(np.float64)
    expected = np.append(exact.mean(axis=0), (exact**2).sum(axis=1).mean())
    np.testing.assert_allclose(made[0], expected, rtol=1e-13)
    np.testing.assert_array_equal(*made)
