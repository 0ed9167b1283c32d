"""Mean and mean squared length of live vectors, for versions whose files lack them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from embsync.dtypes import Array, Float32, Int64
from embsync.rows import block_rows


def live_moments(
    blocks: Callable[[int], Iterator[tuple[Array, Float32, Int64]]], newest: int, width: int
) -> tuple[Float32, float]:
    """Return the (k,) mean of the live vectors, and their mean squared length.

    Parameters
    ----------
    blocks : callable
        Takes a number of rows; yields ids, vectors and ``last_seen`` of that many rows at a time.
    newest : int
        ``last_seen`` of live rows.
    width : int
        k, the length of a vector.
    """
    total, squares, count = np.zeros(width), 0.0, 0
    for _, vectors, seen in blocks(max(1, block_rows(width) // 4)):  # half a megabyte of float64
        # Not by BLAS, which is twice as fast: its threads would spin on cores that concurrent queries need.
        block = vectors[seen == newest].astype(np.float64)
        total += block.sum(axis=0)
        squares += float(np.einsum("ij,ij->", block, block))
        count += len(block)
    count = max(count, 1)
    return (total / count).astype(np.float32), squares / count
