"""A digest of rows that does not depend on their order, the basis of a snapshot's fingerprint.

Each row of id, weight and numbers is read as 64-bit words. Two hashes of them are computed, each

    h = key + sum over words w of (a w + b (w >> 32)) mod 2^64

with keys a and b that depend on the word's position, and finished as in splitmix64. The digest is the sum of both over
all rows, modulo 2^64, so any parts of a side can be hashed by any threads or machines, and their sums added.

For random keys, two different rows have the same h with probability at most 2^-33, and the same two hashes with 2^-66:
either some word differs in its lower half, and at most 2^31 of the 2^64 values of its key a offset the rest of the sum,
or some word differs in its upper half, and the same is true of b. Of two different sides, one has a row that the other
lacks; its hashes equal those of one of the other's n rows with probability at most n 2^-66 (2^-43 for 8 million rows).
Otherwise, the finished hashes are taken as random, and the sums are equal with probability 2^-128. The keys are fixed:
the digest distinguishes retrainings, but is not secure against deliberate collisions.

It takes half the time of sha256: 4.1 GB/s in one thread at width 64 and 5.6 GB/s at 512; sha256 reaches 2.1 GB/s.
"""

from __future__ import annotations

import hashlib
import threading

import numpy as np

from embsync.dtypes import Array, UInt64
from embsync.ids import LONGEST_ID, hash_ids

#: Prefix of every fingerprint by this rule. Those of earlier releases are 64 hexadecimal digits without a prefix.
ALGORITHM = "rows1:"
_LANES = 2
_SEED = 20_251_128
#: Words before the numbers of a row: those of the longest id, and one of its weight.
_ID_WORDS = LONGEST_ID // 8
_FIRST_NUMBER = _ID_WORDS + 1
#: Keys by lane, first position and number of words: only a few. A plain dictionary, because these functions also run on
#: machines without embsync.
_COMPUTED: dict[tuple[int, int, int], tuple[UInt64, UInt64]] = {}


def row_sums(ids: Array, block: Array, weights: Array | None = None) -> UInt64:
    """Return the sums of the rows' hashes.

    Parameters
    ----------
    ids : (b,) int64 or ``S<n>``
    block : (b, e) float16, float32 or float64
    weights : (b,) float64, optional

    Returns
    -------
    (2,) uint64 ndarray
        Sums of several blocks are added, modulo 2^64.
    """
    parts = [(0, uint64_words(ids)), (_FIRST_NUMBER, uint64_words(block))]
    if weights is not None:
        parts.append((_ID_WORDS, uint64_words(weights)))
    hashes = np.zeros((_LANES, len(block)), np.uint64)
    for first, words in parts:
        upper = words >> np.uint64(32)
        for lane in range(_LANES):
            low, high = _keys(lane, first, words.shape[1])
            hashes[lane] += np.einsum("ij,j->i", words, low)
            hashes[lane] += np.einsum("ij,j->i", upper, high)
    return np.array([finished(one).sum(dtype=np.uint64) for one in hashes])


def side_digest(name: str, kind: str, width: int, rows: int, sums: UInt64, *, weighted: bool, strings: bool) -> str:
    """Return the digest of a side from the sums over its rows, as a hexadecimal sha256.

    Parameters
    ----------
    name : "items" or "users"
    kind : str
        NumPy's name of the numbers' type, such as ``<f4``.
    width, rows : int
    sums : (2,) uint64
    weighted, strings : bool
        Whether there are weights, and whether ids are strings.
    """
    head = f"{name} {rows} {width} {kind} {'strings' if strings else 'integers'}{' weighted' if weighted else ''} "
    return hashlib.sha256(head.encode() + sums.astype("<u8").tobytes()).hexdigest()


class RowDigest:
    """The digest of one pass over a side, fed block by block, in any order and by any thread.

    Parameters
    ----------
    name : str
    ids : (t,) int64 or ``S<n>``
    weights : (t,) float64 or None
    """

    def __init__(self, name: str, ids: Array, weights: Array | None) -> None:
        self._name = name
        self._ids = ids
        self._weights = weights
        self._sums = np.zeros(_LANES, np.uint64)
        self._rows = 0
        self._width = 0
        self._kind = ""
        self._lock = threading.Lock()

    def update(self, start: int, block: Array) -> None:
        """Add the rows from ``start`` on."""
        rows = slice(start, start + len(block))
        sums = row_sums(self._ids[rows], block, None if self._weights is None else self._weights[rows])
        with self._lock:
            self._sums += sums
            self._rows += len(block)
            self._width, self._kind = block.shape[1], block.dtype.str

    def hexdigest(self) -> str:
        """Return the digest; every row must have been added."""
        if self._rows != len(self._ids):
            raise RuntimeError(f"a digest of {self._rows} of {len(self._ids)} rows")
        return side_digest(
            self._name,
            self._kind,
            self._width,
            self._rows,
            self._sums,
            weighted=self._weights is not None,
            strings=self._ids.dtype.kind == "S",
        )


def uint64_words(rows: Array) -> UInt64:
    """Return the bytes of each row as 64-bit words, padded with zeros."""
    plain = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    if spare := -plain.shape[1] % 8:
        plain = np.pad(plain, ((0, 0), (0, spare)))
    words: UInt64 = plain.view(np.uint64)
    return words


def _keys(lane: int, first: int, count: int) -> tuple[UInt64, UInt64]:
    """Return the keys a and b of ``count`` words from position ``first`` on."""
    if (found := _COMPUTED.get((lane, first, count))) is None:
        places = np.arange(first, first + count)
        low, high = (hash_ids((places * 2 + half) * _LANES + lane + (_SEED << 32)) for half in (0, 1))
        found = _COMPUTED[lane, first, count] = low, high
    return found


def finished(hashes: UInt64) -> UInt64:
    """Return the hashes after the last steps of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
