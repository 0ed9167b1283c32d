"""Search of a version: what a query may be, which items it may find, and what the index missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embsync.dtypes import Array, Bool, Float32, Int64
from embsync.errors import UsageError
from embsync.reader.side import Ids
from embsync.rows import as_slice
from embsync.similarity import RunningTopK

if TYPE_CHECKING:
    from embsync.reader.version import Version

#: Up to so many allowed rows a scan of them is exact and faster than a graph that mostly meets what it must skip:
#: 10,000 x 64 are 0.6 million products, about 0.3 ms.
_SCANNED = 10_000
#: Candidates whose vectors are held at once, 4 MiB at 128 dimensions, as are the scores of at most 512 queries, 16 MiB.
_HELD = 1 << 13


@dataclass(frozen=True)
class Query:
    """Vectors in the space (q, d), neighbours wanted (any kind of integer), and search parameters."""

    vectors: Float32
    k: int
    parameters: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.k, int | np.integer)
        if not whole or self.k < 1:
            raise UsageError(
                "k is not a number of neighbours", found=repr(self.k) if not whole else self.k, expected="1 or more"
            )
        object.__setattr__(self, "k", int(self.k))  # FAISS takes no NumPy integer


@dataclass(frozen=True)
class Filters:
    """Ids that alone may be found, and ids that may not."""

    allowed: Ids | None = None
    blocked: Ids | None = None


def stable_queries(version: Version, queries: Array, space: str, snapshot: Version | None) -> Float32:
    """Return queries as finite float32 rows in the space.

    Raises
    ------
    UsageError
        Another width or form, NaN, or raw queries of a snapshot whose version lives in another space.
    """
    if space not in ("stable", "snapshot"):
        raise UsageError("unknown space of queries", found=repr(space), expected="stable or snapshot")
    if snapshot is not None and space == "stable":
        raise UsageError(
            "a snapshot, but queries in the stable space",
            found=f"version {snapshot.number}",
            expected="space='snapshot' beside it",
        )
    given = numbers(queries)
    if given.ndim < 2:
        given = np.atleast_2d(given)
    if space == "snapshot":
        given = _from_snapshot(version, given, snapshot or version)
    if given.ndim != 2 or given.shape[1] != version.record.dimension:
        raise UsageError(
            "queries of the wrong width",
            found=f"shape {np.shape(queries)}",
            expected=f"rows of {version.record.dimension} numbers",
        )
    vectors = np.ascontiguousarray(given if given.dtype == np.float32 else _rounded(given))
    finite = np.isfinite(vectors)
    if np.count_nonzero(finite) != finite.size:
        strange = np.flatnonzero(~finite.all(axis=1))
        raise UsageError(
            "queries with NaN or infinity",
            expected="finite numbers in float32",
            found=f"{np.abs(given[strange[0]]).max():g} in query {strange[0]}",
        )
    return vectors


def _rounded(rows: Array) -> Float32:
    """Return rows as float32; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return rows.astype(np.float32)


def numbers(rows: Array) -> Array:
    """Return rows as an array.

    Raises
    ------
    UsageError
        Rows of different lengths, or anything but real numbers.
    """
    try:
        given = np.asarray(rows)
    except ValueError:
        raise UsageError("vectors of different lengths", expected="rows of one width") from None
    if given.dtype.kind not in "fiu":
        raise UsageError("vectors are not numbers", found=str(given.dtype), expected="floats")
    return given


def _from_snapshot(version: Version, raw: Array, source: Version) -> Float32:
    if source.space_id != version.space_id:
        raise UsageError("raw vectors of another space", found=source.space_id, expected=version.space_id)
    maps = source.transform
    stable = maps.items(raw) if source.users is None else maps.users(raw)
    return np.pad(stable, ((0, 0), (0, version.record.dimension - stable.shape[1])))  # widened since


def narrowed(version: Version, query: Query, filters: Filters) -> tuple[Int64, Float32]:
    """Return rows and scores (q, k) of the live items nearest to each query among those the filters let through."""
    searcher = version.searcher
    mask = None if filters.allowed is None and filters.blocked is None else _mask(version, filters)
    findable = searcher.live if mask is None else int(np.count_nonzero(mask))
    few = mask is not None and findable <= _SCANNED
    if few or (query.parameters is None and searcher.costs_a_scan(min(query.k, findable), findable)):
        return scan(version, query, np.flatnonzero(version.items.live if mask is None else mask))
    rows, scores = searcher.search(query.vectors, query.k, query.parameters, mask)
    short = np.flatnonzero(rows[:, -1] < 0)
    if len(short):  # the lists looked at held fewer, or a graph led nowhere else
        candidates = np.flatnonzero(version.items.live if mask is None else mask)
        rows[short], scores[short] = scan(version, replace(query, vectors=query.vectors[short]), candidates)
    return rows, scores


def of_items(version: Version, ids: Ids, query: Query, filters: Filters) -> tuple[Int64, Float32]:
    """Return what :func:`narrowed` does for items' own vectors, without each item itself."""
    own = version.items.rows(ids)
    rows, scores = narrowed(version, replace(query, k=query.k + 1), filters)
    scores = np.where(rows == own[:, None], -np.inf, scores).astype(np.float32)
    rows = np.where(rows == own[:, None], -1, rows)
    last = np.argsort(rows < 0, axis=1, kind="stable")[:, : query.k]
    return np.take_along_axis(rows, last, axis=1), np.take_along_axis(scores, last, axis=1)


def _mask(version: Version, filters: Filters) -> Bool:
    items = version.items
    mask = items.live.copy()
    if filters.allowed is not None:
        chosen = items.rows(filters.allowed)
        only = np.zeros(len(mask), np.bool_)
        only[chosen[chosen >= 0]] = True
        mask &= only
    if filters.blocked is not None:
        barred = items.rows(filters.blocked)
        mask[barred[barred >= 0]] = False
    return mask


def scan(version: Version, query: Query, candidates: Int64) -> tuple[Int64, Float32]:
    """Return rows and scores of the best ``min(k, len(candidates))`` among ascending candidate rows, exactly.

    Vectors of a few candidates at a time are in memory, however many there are.
    """
    best = RunningTopK(query.vectors, min(query.k, len(candidates)), version.record.index.metric)
    for first in range(0, len(candidates), _HELD):
        part = candidates[first : first + _HELD]
        best.observe(part, version.items.vectors[as_slice(part)])
    found = best.result()
    return found.rows, found.scores.astype(np.float32)
