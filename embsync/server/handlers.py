"""What each endpoint answers, from one pinned version: requests in, JSON or arrays out."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import msgspec
import numpy as np

from embsync.dtypes import Array
from embsync.reader import ForeignSpace, Version
from embsync.reader.diff import diff as compared
from embsync.reader.movement import movement as moved
from embsync.reader.search import stable_queries
from embsync.server.arrays import NPY, Piece, json_pieces, json_rows, npy_pieces
from embsync.server.errors import Invalid
from embsync.server.memory import Reservation
from embsync.server.schema import (
    DiffRequest,
    FoldInRequest,
    Ids,
    IdsOrLists,
    LookupRequest,
    MovementReply,
    MovementRequest,
    MovementStep,
    Range,
    Reply,
    Rows,
    SearchRequest,
    TransformRequest,
)
from embsync.server.settings import Limits

JSON = "application/json"
#: What a search asks with.
Kind = Literal["vectors", "users", "items"]
#: Neighbours where a request does not say how many, and the server allows as many.
_K = 10
#: Characters of the longest 64-bit integer.
_DIGITS = 20
#: Queries searched between two looks whether the request was cancelled; the second where the effort is the client's
#: choice: each may look at the whole index.
_QUERIES, _COSTLY_QUERIES = 1024, 64
#: Memory that a filter takes for each row: which may be found, as bytes, bits and positions.
_FILTERED_BYTES = 12
#: Memory that a label of a hit takes, as Python's object and as text.
_LABEL_BYTES = 400
#: Memory that a comparison of two versions takes for each row: its place in both, cosine, and ratio of norms.
_COMPARED_BYTES = 48


@dataclass(frozen=True)
class Answer:
    """What is sent: pieces, which are let go as they are sent, and their media type."""

    pieces: deque[Piece]
    media_type: str


class OpenKept(Protocol):
    """Pins a kept version by number."""

    def __call__(self, number: int, *, searched: bool = False) -> Version:
        """Pin it; with ``searched`` its index is known to be whole, and may be searched."""


@dataclass(frozen=True)
class RequestContext:
    """What a handler works with.

    Attributes
    ----------
    version : Version
        Everything in an answer comes from it, so no answer mixes two.
    limits : Limits
    open_kept : OpenKept
        Opens another kept version, for raw vectors of its snapshot and for what moved.
    kept_versions : callable
        Returns the numbers of the kept versions.
    memory : Reservation
        Is asked for memory before it is taken, and between blocks whether the request was cancelled.
    as_array : bool
        Whether the client takes ``.npy``.
    """

    version: Version
    limits: Limits
    open_kept: OpenKept
    kept_versions: Callable[[], list[int]]
    memory: Reservation
    as_array: bool

    def head(self) -> Reply:
        """Return what every answer begins with."""
        return {"version": self.version.number, "space_id": self.version.space_id}

    def require_space(self, wanted: str | None) -> None:
        """Refuse a request for another space."""
        if wanted is not None and wanted != self.version.space_id:
            raise ForeignSpace(
                "another space is served", where="$.space_id", found=self.version.space_id, expected=wanted
            )

    def require_at_most(self, limit: int, asked: int, where: str) -> None:
        """Refuse more than a request may ask for."""
        if asked > limit:
            raise Invalid("more than a request may ask for", where=where, found=asked, expected=f"at most {limit}")

    def checked_ids(self, ids: list[int | str], where: str) -> Any:
        """Return ids of one kind, as many as a request may name."""
        self.require_at_most(self.limits.batch, len(ids), where)
        for place, one in enumerate(ids):
            if type(one) is not type(ids[0]):
                raise Invalid(
                    "ids of two kinds",
                    where=f"{where}[{place}]",
                    found=type(one).__name__,
                    expected=f"{type(ids[0]).__name__}, as the first",
                )
            if isinstance(one, str) and "\0" in one:  # NumPy drops it, and another id would be found
                raise Invalid("an id with a NUL character", where=f"{where}[{place}]")
        return ids

    def reserve_vectors(self, rows: int) -> None:
        """Reserve memory for vectors to be answered: as numbers, and as text of 19 digits where it is JSON."""
        self.memory.reserve(rows * self.version.record.dimension * (8 if self.as_array else 32), f"{rows} vectors")

    @contextlib.contextmanager
    def snapshot_version(self, number: int | None) -> Iterator[Version | None]:
        """Open the version whose snapshot raw vectors are from; None: the one that is served."""
        if number is None or number == self.version.number:
            yield None
            return
        with self.open_kept(number) as source:
            if source.space_id != self.version.space_id:
                raise ForeignSpace(
                    "the version lives in another space",
                    where=f"version {number}",
                    found=source.space_id,
                    expected=self.version.space_id,
                )
            yield source


def search(context: RequestContext, request: SearchRequest) -> Answer:
    """Return ids and scores of the nearest live items."""
    context.require_space(request.space_id)
    k = min(_K, context.limits.neighbours) if request.k is None else request.k
    context.require_at_most(context.limits.neighbours, k, "$.k")
    kind, value = _queries_given(request)
    context.require_at_most(context.limits.batch, len(value), f"$.{kind}")
    if len(value) * k > context.limits.hits:
        raise Invalid(
            "more than a request may ask for",
            where="$.k",
            found=f"{len(value)} queries x {k}",
            expected=f"at most {context.limits.hits} hits",
            hint="ask for fewer neighbours, or in parts",
        )
    version = context.version
    id_bytes = _DIGITS if request.string_ids else version.items.ids.dtype.itemsize
    hits = len(value) * min(k, version.record.items.live)
    # Text takes four times its bytes as NumPy's, and once as JSON.
    context.memory.reserve(hits * _LABEL_BYTES * len(request.labels or ()), "labels")
    context.memory.reserve(hits * (2 * (4 * id_bytes + 4) if context.as_array else id_bytes + 60), f"{hits} hits")
    found = _search_in_blocks(context, msgspec.structs.replace(request, k=k), kind, value)
    if context.as_array:
        return Answer(npy_pieces(_hits([(ids, scores) for ids, scores, _ in found])), NPY)
    ids, scores, labels = [], [], []
    for block in found:
        ids.append(json_rows(block[0], np.isneginf(block[1]) if request.null_ids else None))
        scores.append(json_rows(block[1]))
        labels.append(msgspec.json.encode(block[2])[1:-1])
    columns = {"ids": ids, "scores": scores} | ({} if request.labels is None else {"labels": labels})
    return Answer(json_pieces(context.head(), columns), JSON)


def _queries_given(request: SearchRequest) -> tuple[Kind, Any]:
    """Return which of the three kinds of queries a request has, and the queries."""
    kinds: dict[Kind, Any] = {"vectors": request.vectors, "users": request.users, "items": request.items}
    given = {kind: value for kind, value in kinds.items() if value is not None}
    if len(given) != 1:
        raise Invalid(
            "one query is needed",
            where="$",
            found=", ".join(given) or "none",
            expected="exactly one of vectors, users, items",
        )
    return next(iter(given.items()))


def _search_in_blocks(
    context: RequestContext, request: SearchRequest, kind: Kind, value: Any
) -> Iterator[tuple[Array, Array, list[list[dict[str, Any]]]]]:
    """Yield ids, scores and labels of one block of queries after the other."""
    lists = {name: _filter(context, getattr(request, name), len(value), name) for name in ("allowed", "blocked")}
    filters: dict[str, Any] = {"parameters": request.parameters, "where": _conditions(request)}
    _require_consistent(context, request, kind)
    version = context.version
    if not (request.allowed is None and request.blocked is None and request.where is None):
        context.memory.reserve(len(version.items.ids) * _FILTERED_BYTES, "a filter over all items")
    search_block: Callable[..., tuple[Array, Array]] = version.search
    if kind == "vectors":
        vectors = _matrix(value, "$.vectors")
        context.memory.reserve(12 * vectors.size, "the queries")
        with context.snapshot_version(request.snapshot_version) as source:
            queries: Any = stable_queries(version, vectors, request.space, source)
    else:
        queries = context.checked_ids(value, f"$.{kind}")
        version.side(kind).lookup(queries, request.missing)  # unknown ones are refused before any work
        search_block = version.search_by_item if kind == "items" else version.search_by_user
        filters["missing"] = request.missing
    step = _QUERIES if request.parameters is None else _COSTLY_QUERIES
    for start in range(0, max(1, len(queries)), step):
        context.memory.raise_if_cancelled()
        part = slice(start, start + step)
        theirs = {name: given[part] if ragged else given for name, (given, ragged) in lists.items()}
        ids, scores = search_block(queries[part], request.k, **theirs, **filters)
        shown = _labels(version, ids, request.labels)
        if request.string_ids and ids.dtype.kind == "i":
            ids = np.where(np.isneginf(scores), "", ids.astype(f"U{_DIGITS}"))
        yield ids, scores, shown


def _labels(version: Version, ids: Array, names: list[str] | None) -> list[list[dict[str, Any]]]:
    """Return the labels of each hit, in the form of the ids."""
    if names is None:
        return []
    columns = version.labels_of(ids.ravel(), names)
    hits = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    hits = hits or [{} for _ in range(ids.size)]
    return [hits[start : start + ids.shape[1]] for start in range(0, ids.size, max(ids.shape[1], 1))]


def _filter(context: RequestContext, given: IdsOrLists | None, queries: int, name: str) -> tuple[Any, bool]:
    """Return a filter, checked, and whether it is a list for each query."""
    if given is None or not any(one is None or isinstance(one, list) for one in given):
        return None if given is None else context.checked_ids(cast("Ids", given), f"$.{name}"), False
    if len(given) != queries:
        raise Invalid(
            "lists of another number than the queries",
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
    """Return conditions on labels as a version takes them."""
    if request.where is None:
        return None
    return {
        name: msgspec.to_builtins(condition) if isinstance(condition, Range) else condition
        for name, condition in request.where.items()
    }


def _require_consistent(context: RequestContext, request: SearchRequest, kind: Kind) -> None:
    if request.missing != "raise" and kind == "vectors":
        raise Invalid(
            "vectors are never unknown", where="$.missing", found=request.missing, expected="users or items beside it"
        )
    if request.labels is not None and context.as_array:
        raise Invalid("an array has no labels", where="$.labels", found=NPY, expected=f"Accept: {JSON}")
    if request.null_ids and context.as_array:
        raise Invalid("an array has no null", where="$.null_ids", found=NPY, expected=f"Accept: {JSON}")
    if request.snapshot_version is not None and request.space != "snapshot":
        raise Invalid(
            "a snapshot, but queries in the stable space",
            where="$.snapshot_version",
            found=request.snapshot_version,
            expected="space snapshot beside it",
        )
    if request.space != "stable" and kind != "vectors":
        raise Invalid(
            "a space says where vectors live", where="$.space", found=f"{request.space} and {kind}", expected="vectors"
        )


def lookup(context: RequestContext, request: LookupRequest) -> Answer:
    """Return vectors, the age of each and the version it is from."""
    context.require_space(request.space_id)
    ids = context.checked_ids(request.ids, "$.ids")
    side = context.version.side(request.side)
    context.reserve_vectors(len(ids))
    vectors = side.lookup(ids, request.missing, max_age=request.max_age)
    if context.as_array:
        return _vectors(context, vectors)
    known = side.rows(ids) >= 0
    there: Any = [one for one, is_known in zip(ids, known, strict=True) if is_known]
    ages, origins = iter(side.age(there).tolist()), iter(side.origin(there).tolist())
    return _vectors(
        context,
        vectors,
        ages=[next(ages) if one else None for one in known],
        versions=[next(origins) if one else None for one in known],
    )


def transform(context: RequestContext, request: TransformRequest) -> Answer:
    """Return raw vectors in the space, or stable ones in a snapshot's raw basis."""
    context.require_space(request.space_id)
    vectors = _matrix(request.vectors, "$.vectors")
    context.require_at_most(context.limits.batch, len(vectors), "$.vectors")
    context.memory.reserve(8 * vectors.size, "the vectors")
    context.reserve_vectors(len(vectors))
    context.version.side(request.side)
    with context.snapshot_version(request.version) as source:
        maps = (source or context.version).transform
        chosen = {
            ("items", False): maps.items,
            ("users", False): maps.users,
            ("items", True): maps.items_inverse,
            ("users", True): maps.users_inverse,
        }
        return _vectors(context, chosen[request.side, request.inverse](vectors))


def fold_in(context: RequestContext, request: FoldInRequest) -> Answer:
    """Return vectors for untrained users or items."""
    context.require_space(request.space_id)
    if not request.ids:
        raise Invalid("nothing to fold in", where="$.ids", found="no lists", expected="at least one")
    context.require_at_most(context.limits.batch, sum(max(1, len(one)) for one in request.ids), "$.ids")
    lists = [context.checked_ids(one, f"$.ids[{place}]") for place, one in enumerate(request.ids)]
    width = context.version.record.dimension
    context.memory.reserve(24 * width * sum(map(len, lists)), "the vectors of what is folded in")
    context.reserve_vectors(len(lists))
    name = request.side or context.version.sides.queries.name
    vectors = context.version.side(name).fold_in(
        lists,
        request.weights,
        method=request.method,
        missing=request.missing,
        regularization=request.regularization,
        between=context.memory.raise_if_cancelled,
    )
    return _vectors(context, vectors)


def movement(context: RequestContext, request: MovementRequest) -> Answer:
    """Return, for each kept version of this space, the id's cosine to its vector now, its norm and age."""
    context.require_space(request.space_id)
    ids = context.checked_ids([request.id], "$.id")

    def open_kept(number: int) -> Version:
        context.memory.raise_if_cancelled()
        return context.open_kept(number)

    found = moved(context.version, context.kept_versions(), open_kept, request.side, ids, request.missing)
    steps: list[MovementStep] = [
        {"version": number, "cosine": cosine, "norm": norm, "age": age}
        for number, cosine, norm, age in zip(
            found.versions.tolist(),
            np.nan_to_num(found.cosines[0]).tolist(),
            found.norms[0].tolist(),
            found.ages[0].tolist(),
            strict=True,
        )
        if age >= 0
    ]
    id_shown = str(request.id) if request.string_ids else request.id
    reply: MovementReply = {**context.head(), "id": id_shown, "side": request.side, "steps": steps}
    return Answer(deque([msgspec.json.encode(reply)]), JSON)


def diff(context: RequestContext, request: DiffRequest) -> Answer:
    """Return what changed from a kept version to another, by default from the parent to the version served."""
    context.require_space(request.space_id)
    context.require_at_most(context.limits.batch, request.limit, "$.limit")
    with contextlib.ExitStack() as opened:

        def version(number: int) -> Version:
            if number == context.version.number:
                return context.version
            return opened.enter_context(context.open_kept(number, searched=True))

        after = context.version if request.after is None else version(request.after)
        earlier = request.before or after.record.parent
        if earlier is None:
            raise Invalid(
                "nothing to compare with",
                where="$.before",
                found=f"null, and version {after.number} has no parent",
                expected="the number of a kept version",
            )
        before = version(earlier)
        rows = sum(side.rows for side in (after.record.items, after.record.users) if side is not None)
        context.memory.reserve(rows * _COMPARED_BYTES, "a comparison of all rows")
        found = compared(before, after, limit=request.limit, between=context.memory.raise_if_cancelled)
    return Answer(deque([msgspec.json.encode({**context.head(), **msgspec.to_builtins(found)})]), JSON)


def _vectors(context: RequestContext, rows: Array, **beside: list[int | None]) -> Answer:
    """Return vectors, and in JSON what is beside them."""
    if context.as_array:
        return Answer(npy_pieces(rows), NPY)
    parts = (json_rows(rows[start : start + _QUERIES]) for start in range(0, len(rows), _QUERIES))
    columns = {name: [msgspec.json.encode(values)[1:-1]] for name, values in beside.items()}
    return Answer(json_pieces(context.head(), {"vectors": parts, **columns}), JSON)


def _matrix(rows: Rows | Array, where: str) -> Array:
    if isinstance(rows, np.ndarray):
        return rows if rows.ndim == 2 else rows[None, :]
    for place, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise Invalid(
                "rows of different lengths",
                where=f"{where}[{place}]",
                found=f"{len(row)} numbers",
                expected=f"{len(rows[0])} numbers",
            )
    if not rows:
        raise Invalid("no vectors", where=where, found="none", expected="at least one")
    return np.array(rows, np.float64)


def _hits(found: list[tuple[Array, Array]]) -> Array:
    ids = np.concatenate([one for one, _ in found])
    hits = np.empty(ids.shape, [("id", ids.dtype), ("score", np.float32)])
    hits["id"], hits["score"] = ids, np.concatenate([scores for _, scores in found])
    return hits
