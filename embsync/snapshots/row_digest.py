"""A digest of rows that does not depend on their order, for tables, whose files may be rewritten in any.

Each row of id, weight and numbers becomes two 64-bit hashes (multilinear over its 64-bit words, finished as splitmix64
does), and the digest is their sum over all rows, modulo 2^64. It tells retrainings apart; it is no proof against
somebody who wants two tables to agree.
"""

from __future__ import annotations

import hashlib

import numpy as np

from embsync.dtypes import Array

_SEED = 20_251_123
_LANES = 2


class RowDigest:
    """The sum of row hashes of one side, fed block by block."""

    def __init__(self, head: bytes, ids: Array, weights: Array | None) -> None:
        self._head = head
        self._ids = ids
        self._weights = weights
        self._sums = np.zeros(_LANES, np.uint64)
        self._kind = ""

    def update(self, start: int, block: Array) -> None:
        """Take in the rows from ``start`` on."""
        self._kind = block.dtype.str
        rows = slice(start, start + len(block))
        parts = [_words(self._ids[rows]), _words(block)]
        if self._weights is not None:
            parts.insert(1, _words(self._weights[rows]))
        words = np.hstack(parts)
        factors = np.random.default_rng(_SEED).integers(1, 2**63, (_LANES, words.shape[1] + 1), np.uint64) * 2 + 1
        mixed = words ^ (words >> np.uint64(32))
        for lane in range(_LANES):
            hashes = (mixed * factors[lane, 1:]).sum(axis=1, dtype=np.uint64) + factors[lane, 0]
            self._sums[lane : lane + 1] += _finished(hashes).sum(dtype=np.uint64, keepdims=True)

    def hexdigest(self) -> str:
        """Return the digest as a hexadecimal sha256."""
        return hashlib.sha256(self._head + self._kind.encode() + self._sums.tobytes()).hexdigest()


def _words(rows: Array) -> Array:
    """Return the bytes of each row as 64-bit words, filled up with zeros."""
    plain = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    filled = np.zeros((len(plain), -(-plain.shape[1] // 8) * 8), np.uint8)
    filled[:, : plain.shape[1]] = plain
    return filled.view(np.uint64)


def _finished(hashes: Array) -> Array:
    """Return the hashes after the last steps of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
