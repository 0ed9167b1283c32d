"""The fingerprint of a snapshot's contents, by the current rule and by that of earlier releases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embsync.dtypes import Array
from embsync.rows import Rows
from embsync.snapshots.row_digest import ALGORITHM, RowDigest, finished, uint64_words

if TYPE_CHECKING:
    from embsync.snapshots.snapshot import SnapshotSide

_SEED, _LANES = 20_251_123, 2


class Digest(Protocol):
    """The digest of one pass over a side."""

    def hexdigest(self) -> str:
        """Return the digest of the rows."""

    def earlier(self) -> str | None:
        """Return the digest by the rule of earlier releases; None if it was not computed."""


class SideDigest:
    """The digest of one pass over a side.

    Parameters
    ----------
    side : SnapshotSide
        Its weights are read again.
    ids : (t,) int64 or ``S<n>``
    earlier : bool
        Whether the digest by the rule of earlier releases is computed as well.

    Attributes
    ----------
    rows : Rows
        The rows to read; ``update`` is to be called with each of their blocks, in any order and by any thread.
    """

    def __init__(self, side: SnapshotSide, ids: Array, *, earlier: bool) -> None:
        self._digest = RowDigest(side.name, ids, side.weights())
        self._earlier = _EarlierRows(side, ids) if earlier else None
        self.rows: Rows = self._earlier or side
        self.update = self._digest.update

    def hexdigest(self) -> str:
        """Return the digest of the rows."""
        return self._digest.hexdigest()

    def earlier(self) -> str | None:
        """Return the digest by the rule of earlier releases; None if it was not computed."""
        return None if self._earlier is None else self._earlier.hexdigest()


def fingerprint_of(sides: Iterable[Digest]) -> str:
    """Return the fingerprint of a snapshot from the digests of its sides, items first."""
    return ALGORITHM + _sha256(side.hexdigest() for side in sides)


def fingerprints_of(sides: Iterable[Digest]) -> frozenset[str]:
    """Return the fingerprints of a snapshot by every rule that was computed."""
    found = list(sides)
    earlier = [digest for digest in (side.earlier() for side in found) if digest is not None]
    return frozenset({fingerprint_of(found)} | ({_sha256(earlier)} if earlier else set()))


def is_earlier(fingerprint: str | None) -> bool:
    """Whether a fingerprint is by the rule of earlier releases."""
    return fingerprint is not None and not fingerprint.startswith(ALGORITHM)


class _EarlierRows:
    """The rows of a side, hashed as they are read by the rule of earlier releases.

    This digest is computed if there is such a fingerprint to compare with, so that a known snapshot is not taken for a
    new one after an upgrade: a sha256 of ids, weights and numbers in file order, or, for Delta tables, of sums of row
    hashes.
    """

    def __init__(self, side: SnapshotSide, ids: Array) -> None:
        self._side = side
        self._ids = ids
        self._digest: str | None = None

    @property
    def count(self) -> int:
        """Number of rows."""
        return self._side.count

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self._side.width

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield the side's blocks, and add each to the digest."""
        weights = self._side.weights()
        digest = hashlib.sha256(f"{self._side.name} {self.count} {self.width} {self._ids.dtype.str}".encode())
        ordered = getattr(self._side, "ordered", True)
        if ordered:
            digest.update(_bytes(self._ids))
            if weights is not None:
                digest.update(_bytes(weights))
        sums, kind = np.zeros(_LANES, np.uint64), b""
        for start, block in self._side.blocks():
            kind = block.dtype.str.encode()
            if ordered:
                if start == 0:
                    digest.update(kind)
                digest.update(_bytes(block))
            else:
                part = slice(start, start + len(block))
                sums += _row_sums(self._ids[part], None if weights is None else weights[part], block)
            yield start, block
        if not ordered:
            digest = hashlib.sha256(digest.digest() + kind + sums.tobytes())
        self._digest = digest.hexdigest()

    def hexdigest(self) -> str:
        """Return the digest of the last complete pass."""
        if self._digest is None:
            raise RuntimeError("no complete pass over the rows yet")
        return self._digest


def _sha256(digests: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _bytes(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _row_sums(ids: Array, weights: Array | None, block: Array) -> Array:
    """Return the two sums over rows of a Delta table, as earlier releases computed them."""
    words = np.hstack([uint64_words(part) for part in (ids, weights, block) if part is not None])
    factors = np.random.default_rng(_SEED).integers(1, 2**63, (_LANES, words.shape[1] + 1), np.uint64) * 2 + 1
    mixed = words ^ (words >> np.uint64(32))
    return np.array([finished((mixed * row[1:]).sum(axis=1, dtype=np.uint64) + row[0]).sum() for row in factors])
