"""Search in a version: validation of queries, filters, and an exact scan if the index finds too few."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from embsync.dtypes import Array, Bool, Float32, Int64
from embsync.errors import UsageError
from embsync.reader.blocked import BlockedIds
from embsync.reader.given_ids import Ids
from embsync.reader.side import Side
from embsync.rows import as_slice
from embsync.similarity import RunningTopK

if TYPE_CHECKING:
    from embsync.reader.version import Version

Filter: TypeAlias = Ids | Sequence[Ids | None] | None

#: Up to this many allowed rows, an exact scan is faster than the search of a graph most of whose nodes are skipped:
#: 10,000 x 64 are 0.6 million products, about 0.3 ms.
_SCANNED = 10_000
#: Candidates scored at once: their vectors take 4 MiB at 128 dimensions, and the scores of 512 queries 16 MiB.
_HELD = 1 << 13


@dataclass(frozen=True)
class Query:
    """Vectors (q, d) in the space, number of neighbours (any type of integer), and search parameters."""

    vectors: Float32
    k: int
    parameters: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if type(self.k) is int and self.k > 0:
            return
        is_integer = isinstance(self.k, int | np.integer)
        if not is_integer or self.k < 1:
            raise UsageError(
                "k is not a number of neighbours", found=self.k if is_integer else repr(self.k), expected="1 or more"
            )
        object.__setattr__(self, "k", int(self.k))  # FAISS does not accept NumPy integers


@dataclass(frozen=True)
class Filters:
    """Filters: allowed and blocked ids, for all queries together or as a list (or None) for each.

    ``rows`` is a mask of the items that may be found; None: all of them.
    """

    allowed: Filter = None
    blocked: Filter = None
    rows: Bool | None = None

    @property
    def none(self) -> bool:
        """Whether there is no filter."""
        return self.allowed is None and self.blocked is None and self.rows is None


def stable_queries(version: Version, queries: Array, space: str, snapshot: Version | None) -> Float32:
    """Return queries as finite float32 rows in the space.

    Raises
    ------
    UsageError
        The wrong shape or type, NaN or infinity, or raw queries of a snapshot whose version is in another space.
    """
    if space not in ("stable", "snapshot"):
        raise UsageError("unknown space of queries", found=repr(space), expected="stable or snapshot")
    if snapshot is not None and space == "stable":
        raise UsageError(
            "a snapshot is given, but queries are in the stable space",
            found=f"version {snapshot.number}",
            expected="pass space='snapshot' too",
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
    """Return rows as float32; values too large become infinite."""
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
    return np.pad(stable, ((0, 0), (0, version.record.dimension - stable.shape[1])))  # the space was widened since


def narrowed(version: Version, query: Query, filters: Filters) -> tuple[Int64, Float32]:
    """Return rows and scores (q, k) of the live items nearest to each query among those that pass the filters."""
    if _is_per_query(filters.allowed):
        return _one_by_one(version, query, filters)
    if _is_per_query(filters.blocked):
        return _without_blocked(version, query, filters)
    searcher = version.searcher
    mask = None if filters.none else _mask(version, filters)
    findable = searcher.live if mask is None else int(np.count_nonzero(mask))
    few = mask is not None and findable <= _SCANNED
    if few or (query.parameters is None and searcher.costs_a_scan(min(query.k, findable), findable)):
        return scan(version, query, np.flatnonzero(version.items.live if mask is None else mask))
    rows, scores = searcher.search(query.vectors, query.k, query.parameters, mask)
    missing = rows[:, -1] < 0
    if np.count_nonzero(missing):  # the probed lists held fewer than k, or the search of the graph ended early
        short = np.flatnonzero(missing)
        candidates = np.flatnonzero(version.items.live if mask is None else mask)
        rows[short], scores[short] = scan(version, replace(query, vectors=query.vectors[short]), candidates)
    return rows, scores


def _is_per_query(ids: Filter) -> bool:
    if ids is None or len(ids) == 0:
        return False
    if isinstance(ids, np.ndarray) and ids.dtype.kind != "O":
        return ids.ndim > 1
    return ids[0] is None or isinstance(ids[0], list | tuple | np.ndarray)


def _for_each(ids: Filter, queries: int, name: str) -> Any:
    """Return a filter as one list, or None, for each query; a matrix is returned unchanged."""
    if not _is_per_query(ids):
        return [ids] * queries
    lists: Any = ids if isinstance(ids, np.ndarray) and ids.dtype.kind != "O" else list(ids)  # type: ignore[arg-type]
    for place, one in enumerate(lists if isinstance(lists, list) else ()):
        if not (one is None or isinstance(one, list | tuple | np.ndarray)):
            raise UsageError(
                f"{name} has a list for some queries only", where=f"list {place}", found=repr(one)[:80], expected="ids"
            )
    if len(lists) != queries:
        raise UsageError(
            f"{name} and queries differ in number",
            found=f"{len(lists)} lists",
            expected=f"{queries}, one for each query, or one list of ids for all",
        )
    return lists


def _one_by_one(version: Version, query: Query, filters: Filters) -> tuple[Int64, Float32]:
    """Search like :func:`narrowed` if each query has its own allowed items."""
    count = len(query.vectors)
    lists = zip(_for_each(filters.allowed, count, "allowed"), _for_each(filters.blocked, count, "blocked"), strict=True)
    found = [
        narrowed(version, replace(query, vectors=query.vectors[place : place + 1]), Filters(*pair, filters.rows))
        for place, pair in enumerate(lists)
    ]
    width = max((rows.shape[1] for rows, _ in found), default=0)
    rows, scores = _nothing(count, width)
    for place, (its_rows, its_scores) in enumerate(found):
        rows[place, : its_rows.shape[1]], scores[place, : its_rows.shape[1]] = its_rows[0], its_scores[0]
    return rows, scores


def _without_blocked(version: Version, query: Query, filters: Filters) -> tuple[Int64, Float32]:
    """Search like :func:`narrowed` if each query has its own blocked items.

    Blocked items are removed from the results by id: looking up the rows of all of them would take longer than the
    search. At first, as many additional results are requested as random lists would remove. Queries left with fewer
    than ``k`` are repeated with twice as many additional results as were removed, or, if none was left, with as many as
    are blocked; or all items are scanned if that costs less.
    """
    count = len(query.vectors)
    blocked = BlockedIds.of(version.items, _for_each(filters.blocked, count, "blocked"))
    rows, scores = _nothing(count, query.k)
    asking, fetched = np.arange(count), query.k + _expected(version, query.k, blocked)
    again = False
    while len(asking):
        part, theirs = replace(query, vectors=query.vectors[asking], k=fetched), blocked[asking]
        if again and query.parameters is None:
            candidates = np.flatnonzero(_mask(version, replace(filters, blocked=None)))
            if version.searcher.costs_a_scan(min(fetched, len(candidates)), len(candidates), len(asking)):
                found, best = scan(version, replace(part, k=query.k), candidates, theirs.pairs(version.items))
                rows[asking, : found.shape[1]], scores[asking, : found.shape[1]] = found, best
                return rows, scores
        found, their_scores = narrowed(version, part, replace(filters, blocked=None))
        names = np.asarray(version.items.ids).take(found, mode="clip")
        left = (found >= 0) & ~theirs.contain(names)
        best_first = np.argsort(~left, axis=1, kind="stable")[:, : query.k]
        there = np.take_along_axis(left, best_first, axis=1)
        width = best_first.shape[1]
        rows[asking, :width] = np.where(there, np.take_along_axis(found, best_first, axis=1), -1)
        scores[asking, :width] = np.where(there, np.take_along_axis(their_scores, best_first, axis=1), -np.inf)
        if found.shape[1] < fetched:
            return rows[:, : min(query.k, found.shape[1])], scores[:, : min(query.k, found.shape[1])]
        kept = left.sum(axis=1)
        short = kept < query.k
        asking, again = asking[short], True
        fewest, longest = kept[short].min(initial=fetched), blocked.lengths[asking].max(initial=0)
        fetched = query.k + int(min(2 * (fetched - fewest), longest) if fewest else longest)
    return rows, scores


def _expected(version: Version, k: int, blocked: BlockedIds) -> int:
    """Return the expected number of blocked ids among the best ``k`` for random lists, plus two standard deviations."""
    longest = int(blocked.lengths.max(initial=0))
    mean = k * longest / max(version.searcher.live, 1)
    return min(longest, math.ceil(mean + 2 * math.sqrt(mean)))


def _nothing(queries: int, k: int) -> tuple[Int64, Float32]:
    return np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)


def of_known(
    version: Version, side: Side, ids: Ids, query: Query, filters: Filters, unknown: Bool | None
) -> tuple[Int64, Float32]:
    """Search with the vectors of ids; an item itself is left out, and ``unknown`` ids have no results."""
    rows, scores = (of_items if side is version.items else _of_users)(version, ids, query, filters)
    if unknown is not None:
        rows[unknown], scores[unknown] = -1, -np.inf
    return rows, scores


def _of_users(version: Version, _: Ids, query: Query, filters: Filters) -> tuple[Int64, Float32]:
    return narrowed(version, query, filters)


def of_items(version: Version, ids: Ids, query: Query, filters: Filters) -> tuple[Int64, Float32]:
    """Search like :func:`narrowed` with the vectors of items, without each item itself."""
    own = version.items.rows(ids)
    rows, scores = narrowed(version, replace(query, k=query.k + 1), filters)
    scores = np.where(rows == own[:, None], -np.inf, scores).astype(np.float32)
    rows = np.where(rows == own[:, None], -1, rows)
    last = np.argsort(rows < 0, axis=1, kind="stable")[:, : query.k]
    return np.take_along_axis(rows, last, axis=1), np.take_along_axis(scores, last, axis=1)


def _mask(version: Version, filters: Filters) -> Bool:
    items = version.items
    mask = items.live.copy() if filters.rows is None else items.live & filters.rows
    if filters.allowed is not None:
        chosen = items.rows(cast("Ids", filters.allowed))
        only = np.zeros(len(mask), np.bool_)
        only[chosen[chosen >= 0]] = True
        mask &= only
    if filters.blocked is not None:
        barred = items.rows(cast("Ids", filters.blocked))
        mask[barred[barred >= 0]] = False
    return mask


def scan(
    version: Version, query: Query, candidates: Int64, without: tuple[Int64, Int64] | None = None
) -> tuple[Int64, Float32]:
    """Return rows and exact scores of the best ``min(k, len(candidates))`` among ascending candidate rows.

    Memory use does not grow with the number of candidates. ``without`` has pairs of a query and a row that is not a
    result of it, ascending by row; missing results are -1 and -inf.
    """
    best = RunningTopK(query.vectors, min(query.k, len(candidates)), version.record.index.metric)
    for first in range(0, len(candidates), _HELD):
        part = candidates[first : first + _HELD]
        pairs = None if without is None else _pairs_in(part, without)
        best.observe(part, version.items.vectors[as_slice(part)], pairs)
    found = best.result()
    return found.rows, found.scores.astype(np.float32)


def _pairs_in(part: Int64, without: tuple[Int64, Int64]) -> tuple[Int64, Int64]:
    """Return the pairs whose row is in ``part`` (ascending), sorted by query, with the position of the row in it."""
    between = slice(*np.searchsorted(without[1], (part[0], part[-1] + 1)))
    queries, rows = without[0][between], without[1][between]
    places = np.searchsorted(part, rows)
    there = part[places] == rows
    order = np.argsort(queries[there], kind="stable")
    return queries[there][order], places[there][order]
