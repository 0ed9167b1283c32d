"""Statistics of sampled raw values: values at an extreme of their column, exact zeros, and repeated rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embsync.dtypes import Array


@dataclass(frozen=True)
class Values:
    """Figures of sampled raw rows.

    Attributes
    ----------
    saturation : float
        Sum over columns of the share of values equal to the column's largest or smallest nonzero value; a constant
        column adds 1.
    zero_values : float
        Share of values that are exactly zero.
    repeated : float
        Share of rows that are equal to another sampled row.
    """

    saturation: float
    zero_values: float
    repeated: float


def examine(rows: Array) -> Values:
    """Return the figures of sampled rows, leaving out all-zero rows, which are counted elsewhere.

    Parameters
    ----------
    rows : (s, e) ndarray
    """
    kept = rows[rows.any(axis=1)]
    if len(kept) == 0:
        return Values(0.0, 0.0, 0.0)
    together = np.zeros(kept.shape[1])
    for extreme in (kept.max(axis=0), kept.min(axis=0)):
        equal = np.count_nonzero(kept == extreme, axis=0)
        # One row always has the extreme value; zeros are counted separately, unless the whole column is zero.
        equal[(equal == 1) | ((extreme == 0) & (equal < len(kept)))] = 0
        together += equal / len(kept)
    rows_as_one = np.ascontiguousarray(kept).view(f"V{kept.dtype.itemsize * kept.shape[1]}")[:, 0]
    counts = np.unique(rows_as_one, return_counts=True)[1]
    repeated = float(counts[counts > 1].sum() / len(kept))
    return Values(float(np.minimum(together, 1.0).sum()), float(np.mean(kept == 0)), repeated)
