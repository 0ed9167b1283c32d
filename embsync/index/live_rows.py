"""The live rows as indexed: normalised for cosine, read in blocks, never copied at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from embsync.dtypes import Float32, Int64
from embsync.errors import UsageError
from embsync.similarity import unit_rows

#: Bytes of one block: small compared with any index, large enough to make the cost of a call to FAISS negligible.
BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class LiveVectors:
    """The rows that search may return.

    Parameters
    ----------
    vectors : (rows, k) ndarray of float32, C order
        All rows of the side, possibly a read-only memory map.
    rows : (n,) ndarray of int64
        Positions of the live rows, ascending.
    unit : bool
        True for cosine: rows are returned with length one (zero rows stay zero).
    """

    vectors: Float32
    rows: Int64
    unit: bool

    @property
    def count(self) -> int:
        """Number of live rows."""
        return int(self.rows.shape[0])

    @property
    def width(self) -> int:
        """Values in a row, k."""
        return int(self.vectors.shape[1])

    @property
    def step(self) -> int:
        """Rows in a block."""
        return max(1024, BLOCK_BYTES // (4 * max(self.width, 1)))

    def at(self, rows: Int64) -> Float32:
        """Return the vectors at ``rows`` (positions in the side), as a view if the positions are consecutive."""
        if rows.size and rows[-1] - rows[0] == rows.size - 1 and bool((rows[1:] > rows[:-1]).all()):
            block = self.vectors[rows[0] : rows[-1] + 1]
        else:
            block = self.vectors[rows]
        return unit_rows(block) if self.unit else block

    def blocks(self, rows: Int64 | None = None) -> Iterator[tuple[int, Float32]]:
        """Yield ``(start, block)`` over ``rows``, by default all live rows in order."""
        chosen = self.rows if rows is None else rows
        for start in range(0, chosen.shape[0], self.step):
            yield start, self.at(chosen[start : start + self.step])

    def sample(self, size: int) -> Float32:
        """Return at most ``size`` live vectors, drawn uniformly with a fixed seed, in row order."""
        if size >= self.count:
            return self.at(self.rows)
        chosen = np.random.default_rng(0).choice(self.count, size=size, replace=False)
        return self.at(self.rows[np.sort(chosen)])


def live_vectors(vectors: Float32, rows: Int64, metric: str) -> LiveVectors:
    """Return the live rows of a side, checked for properties that FAISS does not check.

    Raises
    ------
    UsageError
        The vectors are not float32 in C order, or the rows are not ascending positions in the side.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.flags.c_contiguous:
        raise UsageError(
            "vectors have the wrong form",
            found=f"{vectors.dtype} {vectors.shape}",
            expected="float32 (rows, k) in C order",
        )
    if (
        rows.ndim != 1
        or rows.size == 0
        or rows[0] < 0
        or rows[-1] >= vectors.shape[0]
        or not bool((rows[1:] > rows[:-1]).all())
    ):
        raise UsageError(
            "live rows must ascend within the vectors",
            found=f"{rows.size} rows",
            expected=f"one or more positions below {vectors.shape[0]}",
        )
    return LiveVectors(vectors, rows, metric == "cosine")
