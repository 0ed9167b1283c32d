"""``/v1/search``: queries, filters, and results with labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import msgspec
import numpy as np

from embsync.dtypes import Array
from embsync.reader import Version
from embsync.reader.labels import records_of
from embsync.reader.lineage import age_limit
from embsync.reader.search import stable_queries
from embsync.server.arrays import NPY, json_pieces, json_rows, matrix, npy_pieces
from embsync.server.context import JSON, LABEL_BYTES, Answer, RequestContext
from embsync.server.errors import Invalid
from embsync.server.schema import Ids, IdsOrLists, Range, SearchRequest

#: The fields that are queries.
QueryKind = Literal["vectors", "users", "items"]
#: Default number of neighbours, if the limits allow it.
_K = 10
#: Characters of the longest 64-bit integer.
_DIGITS = 20
#: Queries searched between two checks whether the request was cancelled; the second if the client sets search
#: parameters, since each query may then compare every item.
_QUERIES, _COSTLY_QUERIES = 1024, 64
#: Limits of a search that takes less than a millisecond: numbers compared (a graph compares 32 in some 12 ns), hits,
#: and bytes of an id.
_QUICK_NUMBERS, _QUICK_HITS, _QUICK_ID_BYTES = 1 << 20, 512, 128
#: Bytes of a filter per row: a mask as bytes and bits, and positions.
_FILTERED_BYTES = 12


def search(context: RequestContext, request: SearchRequest) -> Answer:
    """Return ids and scores of the nearest live items."""
    context.require_space(request.space_id)
    k = min(_K, context.limits.neighbours) if request.k is None else request.k
    context.require_at_most(context.limits.neighbours, k, "$.k")
    kind, value = _queries_given(context, request, k)
    version = context.version
    id_bytes = _DIGITS if request.string_ids else version.items.ids.dtype.itemsize
    hits = len(value) * min(k, version.record.items.live)
    if request.labels:
        context.memory.reserve(hits * LABEL_BYTES * len(request.labels), "labels")
    # Text takes four times its bytes in NumPy, and once more in JSON.
    context.memory.reserve(hits * (2 * (4 * id_bytes + 4) if context.as_array else id_bytes + 60), f"{hits} hits")
    found = _search_in_blocks(context, request, k, kind, value)
    if context.as_array:
        return Answer(npy_pieces(_hits([(ids, scores) for ids, scores, _ in found])), NPY)
    if hits <= _QUICK_HITS and len(value) <= _COSTLY_QUERIES and not request.null_ids:  # one block, as objects at once
        block_ids, block_scores, block_labels = next(found)
        reply: dict[str, Any] = {**context.head(), "ids": block_ids.tolist(), "scores": block_scores.tolist()}
        reply |= {} if request.labels is None else {"labels": block_labels}
        return Answer(deque([msgspec.json.encode(reply)]), JSON)
    ids, scores, labels = [], [], []
    for block in found:
        ids.append(json_rows(block[0], np.isneginf(block[1]) if request.null_ids else None))
        scores.append(json_rows(block[1]))
        labels.append(msgspec.json.encode(block[2])[1:-1])
    columns = {"ids": ids, "scores": scores} | ({} if request.labels is None else {"labels": labels})
    return Answer(json_pieces(context.head(), columns), JSON)


def search_is_quick(context: RequestContext, request: SearchRequest) -> bool:
    """Return whether a search has no filters and compares few vectors."""
    version = context.version
    queries = max(0 if one is None else len(one) for one in (request.vectors, request.users, request.items))
    k = min(_K, context.limits.neighbours) if request.k is None else request.k
    return (
        request.allowed is None
        and request.blocked is None
        and request.where is None
        and request.labels is None
        and request.parameters is None
        and request.space == "stable"
        and queries * k <= _QUICK_HITS
        and version.items.ids.dtype.itemsize <= _QUICK_ID_BYTES
        and queries * version.record.dimension * version.searcher.comparisons(k) <= _QUICK_NUMBERS
    )


def _queries_given(context: RequestContext, request: SearchRequest, k: int) -> tuple[QueryKind, Any]:
    """Return which of the three kinds of queries a request has, and the queries, if they are within the limits."""
    kinds: dict[QueryKind, Any] = {"vectors": request.vectors, "users": request.users, "items": request.items}
    given = {kind: value for kind, value in kinds.items() if value is not None}
    if len(given) != 1:
        raise Invalid(
            "one query is needed",
            where="$",
            found=", ".join(given) or "none",
            expected="exactly one of vectors, users, items",
        )
    kind, value = next(iter(given.items()))
    context.require_at_most(context.limits.batch, len(value), f"$.{kind}")
    if len(value) * k > context.limits.hits:
        raise Invalid(
            "more than the limit of a request",
            where="$.k",
            found=f"{len(value)} queries x {k}",
            expected=f"at most {context.limits.hits} hits",
            hint="request fewer neighbours, or in parts",
        )
    return kind, value


def _search_in_blocks(
    context: RequestContext, request: SearchRequest, k: int, kind: QueryKind, value: Any
) -> Iterator[tuple[Array, Array, list[list[dict[str, Any]]]]]:
    """Yield ids, scores and labels, one block of queries after the other."""
    lists = {name: _filter(context, getattr(request, name), len(value), name) for name in ("allowed", "blocked")}
    filters: dict[str, Any] = {"parameters": request.parameters, "where": _conditions(request)}
    _require_consistent(context, request, kind)
    version = context.version
    if not (request.allowed is None and request.blocked is None and request.where is None):
        context.memory.reserve(len(version.items.ids) * _FILTERED_BYTES, "a filter over all items")
    search_block: Callable[..., tuple[Array, Array]] = version.search
    if kind == "vectors":
        vectors = matrix(value, "$.vectors")
        context.memory.reserve(12 * vectors.size, "the queries")
        queries: Any = vectors
        if request.space != "stable" or len(vectors) > _QUERIES:  # else the search of the only block validates it
            with context.snapshot_version(request.snapshot_version) as source:
                queries = stable_queries(version, vectors, request.space, source)
    else:
        queries = context.checked_ids(value, f"$.{kind}")
        limit = None if request.max_age is None else age_limit(request.max_age, "$.max_age")
        version.side(kind).lookup(queries, request.missing, max_age=limit)  # refuses unknown ids before any search
        search_block = version.search_by_item if kind == "items" else version.search_by_user
        filters |= {"missing": request.missing, "max_age": limit}
    step = _QUERIES if request.parameters is None else _COSTLY_QUERIES
    for start in range(0, max(1, len(queries)), step):
        context.memory.raise_if_cancelled()
        part = slice(start, start + step)
        theirs = {name: given[part] if ragged else given for name, (given, ragged) in lists.items()}
        ids, scores = search_block(queries[part], k, **theirs, **filters)
        shown = _labels(version, ids, request.labels)
        if request.string_ids and ids.dtype.kind == "i":
            ids = np.where(np.isneginf(scores), "", ids.astype(f"U{_DIGITS}"))
        yield ids, scores, shown


def _labels(version: Version, ids: Array, names: list[str] | None) -> list[list[dict[str, Any]]]:
    """Return the labels of each hit, in the shape of the ids."""
    if names is None:
        return []
    hits = records_of(version, version.items.rows(ids.ravel()), names)
    width = ids.shape[1]
    return [hits[query * width : (query + 1) * width] for query in range(len(ids))]


def _filter(context: RequestContext, given: IdsOrLists | None, queries: int, name: str) -> tuple[Any, bool]:
    """Return a filter, checked, and whether it is a list for each query."""
    if given is None or not any(one is None or isinstance(one, list) for one in given):
        return None if given is None else context.checked_ids(cast("Ids", given), f"$.{name}"), False
    if len(given) != queries:
        raise Invalid(
            "the number of lists differs from the number of queries",
            where=f"$.{name}",
            found=f"{len(given)} lists",
            expected=f"{queries}, one for each query, or one list of ids for all",
        )
    for place, one in enumerate(given):
        if not (one is None or isinstance(one, list)):
            raise Invalid(
                "a list for some queries only", where=f"$.{name}[{place}]", found=repr(one)[:80], expected="ids or null"
            )
        context.checked_ids(one or [], f"$.{name}[{place}]")
    total = sum(len(cast("Ids", one or [])) for one in given)
    context.require_at_most(context.limits.hits, total, f"$.{name}")
    context.memory.reserve(16 * total, "the lists of ids")
    return given, True


def _conditions(request: SearchRequest) -> dict[str, Any] | None:
    """Return conditions on labels in the form that a version accepts."""
    if request.where is None:
        return None
    return {
        name: msgspec.to_builtins(condition) if isinstance(condition, Range) else condition
        for name, condition in request.where.items()
    }


def _require_consistent(context: RequestContext, request: SearchRequest, kind: QueryKind) -> None:
    if request.missing != "raise" and kind == "vectors":
        raise Invalid(
            "missing applies to ids only", where="$.missing", found=request.missing, expected="users or items"
        )
    if request.max_age is not None and kind == "vectors":
        raise Invalid("vectors have no age", where="$.max_age", found=request.max_age, expected="users or items")
    if request.labels is not None and context.as_array:
        raise Invalid("an array has no labels", where="$.labels", found=NPY, expected=f"Accept: {JSON}")
    if request.null_ids and context.as_array:
        raise Invalid("an array has no null", where="$.null_ids", found=NPY, expected=f"Accept: {JSON}")
    if request.snapshot_version is not None and request.space != "snapshot":
        raise Invalid(
            "a snapshot is given, but queries are in the stable space",
            where="$.snapshot_version",
            found=request.snapshot_version,
            expected="space snapshot",
        )
    if request.space != "stable" and kind != "vectors":
        raise Invalid(
            "space applies to vectors only", where="$.space", found=f"{request.space} and {kind}", expected="vectors"
        )


def _hits(found: list[tuple[Array, Array]]) -> Array:
    ids = np.concatenate([one for one, _ in found])
    hits = np.empty(ids.shape, [("id", ids.dtype), ("score", np.float32)])
    hits["id"], hits["score"] = ids, np.concatenate([scores for _, scores in found])
    return hits
