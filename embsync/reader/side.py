"""One side of a version as consumers see it: ids, mapped vectors, lookup and age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from embsync.alignment.blocks import Array, Float32, Int64, block_rows
from embsync.alignment.sampling import positions_in
from embsync.errors import NotFoundError, UsageError
from embsync.store.rows import ages

Missing = Literal["raise", "nan", "mean"]
Ids = Sequence[int] | Sequence[str] | Array


@dataclass(frozen=True)
class Side:
    """Items or users of one version.

    Attributes
    ----------
    name : str
        "items" or "users".
    ids : (n,) int64 or ``S<m>``, ascending, mapped
    vectors : (n, k) float32, mapped
    last_seen : (n,) int64, mapped
        The version that last had the id live.
    """

    name: str
    ids: Array
    vectors: Float32
    last_seen: Int64
    _lineage: Int64

    def lookup(self, ids: Ids, missing: Missing = "raise") -> Float32:
        """Return the stable vectors of ids, live or carried.

        Parameters
        ----------
        ids : sequence of int or str
        missing : {"raise", "nan", "mean"}
            What an unknown id gives: an error, a row of NaN, or the mean of the live vectors.

        Returns
        -------
        (len(ids), k) float32 ndarray

        Raises
        ------
        NotFoundError
            An id is unknown and ``missing`` is "raise".
        UsageError
            Ids of the wrong type.
        """
        if missing not in ("raise", "nan", "mean"):
            raise UsageError("unknown way to answer missing ids", found=repr(missing), expected="raise, nan or mean")
        rows = self.rows(ids)
        known = rows >= 0
        if missing == "raise" and not known.all():
            raise self._unknown(ids, known)
        found = np.full((len(rows), self.vectors.shape[1]), np.nan, np.float32)
        found[known] = self.vectors[rows[known]]
        if missing == "mean" and not known.all():
            found[~known] = self.mean
        return found

    def age(self, ids: Ids) -> Int64:
        """Return, for each id, how many versions of the lineage ago it was last in a snapshot; 0 is live.

        Raises
        ------
        NotFoundError
            An id is unknown.
        """
        rows = self.rows(ids)
        if (rows < 0).any():
            raise self._unknown(ids, rows >= 0)
        return ages(self.last_seen[rows], self._lineage)

    def rows(self, ids: Ids) -> Int64:
        """Return the row of each id, -1 for unknown ones."""
        return positions_in(self._as_stored(ids), self.ids)

    def names(self, rows: Int64) -> Array:
        """Return the ids in the caller's own form: int64, or str; -1 or "" for rows below zero."""
        wanted = np.maximum(rows, 0)
        if self.ids.dtype.kind == "i":
            return np.where(rows >= 0, self.ids[wanted], -1)
        return np.asarray(np.where(rows >= 0, np.char.decode(self.ids[wanted], "utf-8"), ""))

    @cached_property
    def live(self) -> Array:
        """(n,) bool: whether the id is in this version's own snapshot."""
        return np.asarray(np.asarray(self.last_seen) == self._lineage[-1])

    @cached_property
    def mean(self) -> Float32:
        """(k,) float32 mean of the live vectors."""
        total = np.zeros(self.vectors.shape[1])
        step = block_rows(self.vectors.shape[1])
        for start in range(0, len(self.vectors), step):
            block = self.vectors[start : start + step]
            total += block[self.live[start : start + step]].sum(axis=0, dtype=np.float64)
        return (total / max(int(self.live.sum()), 1)).astype(np.float32)

    def _as_stored(self, ids: Ids) -> Array:
        wanted = np.asarray(ids)
        if wanted.ndim != 1:
            raise UsageError(f"{self.name} ids are not a list", found=f"{wanted.ndim} dimensions", expected="1")
        if wanted.size == 0:
            return np.empty(0, self.ids.dtype)
        if self.ids.dtype.kind == "S":
            if wanted.dtype.kind == "U":
                return np.asarray(np.char.encode(wanted, "utf-8"))
            if wanted.dtype.kind == "S":
                return wanted
            raise UsageError(f"{self.name} ids of the wrong type", found=str(wanted.dtype), expected="strings")
        if wanted.dtype.kind in "US":
            return self._parsed(wanted)
        if wanted.dtype.kind not in "iu":
            raise UsageError(f"{self.name} ids of the wrong type", found=str(wanted.dtype), expected="integers")
        # Beyond int64 there is no id: a row that does not exist, not one that wraps around.
        if wanted.dtype.kind == "u" and (wanted > np.iinfo(np.int64).max).any():
            raise UsageError(f"{self.name} ids are 64-bit integers with a sign", found=str(wanted.max()),
                             expected=f"at most {np.iinfo(np.int64).max}")
        return wanted.astype(np.int64)

    def _parsed(self, wanted: Array) -> Int64:
        try:
            return np.array([int(text) for text in wanted.tolist()], np.int64)
        except (ValueError, OverflowError):
            raise UsageError(f"{self.name} ids are 64-bit integers in this store", found=repr(wanted[0].item()),
                             expected="integers") from None

    def _unknown(self, ids: Ids, known: Array) -> NotFoundError:
        names = [str(name) for name in np.asarray(ids)[~known][:5]]
        more = f" and {int((~known).sum()) - 5} more" if (~known).sum() > 5 else ""
        return NotFoundError(f"unknown {self.name} ids", found=", ".join(names) + more,
                             hint="missing='nan' or 'mean' gives an answer for ids never seen")
