"""Handlers of the endpoints other than search, for one pinned version: vectors, movement, differences."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

import msgspec
import numpy as np

from embsync.dtypes import Array
from embsync.reader import Version
from embsync.reader.diff import diff as compared
from embsync.reader.lineage import age_limit, last_seen_of
from embsync.reader.movement import movement as moved
from embsync.server.arrays import NPY, json_pieces, json_rows, matrix, npy_pieces
from embsync.server.context import JSON, LABEL_BYTES, Answer, RequestContext
from embsync.server.errors import Invalid
from embsync.server.schema import (
    DiffRequest,
    FoldInRequest,
    LookupRequest,
    MovementReply,
    MovementRequest,
    MovementStep,
    TransformRequest,
)

#: Vectors converted to text at once.
_ROWS = 1024
#: Numbers in a response that are converted to text in less than half a millisecond.
_QUICK_NUMBERS = 1 << 12
#: Bytes per row for a comparison of two versions: its position in both, cosine, and ratio of norms.
_COMPARED_BYTES = 48


def lookup(context: RequestContext, request: LookupRequest) -> Answer:
    """Return vectors, each with its age, the version of the vector and the time of that version."""
    context.require_space(request.space_id)
    ids = context.checked_ids(request.ids, "$.ids")
    side = context.version.side(request.side)
    context.reserve_vectors(len(ids))
    if request.labels is not None and request.side != "items":
        raise Invalid("only items have labels", where="$.labels", found=f"side {request.side}", expected="side items")
    labels = context.labels_of(ids, request.labels)
    limit = None if request.max_age is None else age_limit(request.max_age, "$.max_age")
    vectors = side.lookup(ids, request.missing, max_age=limit)
    if context.as_array:
        return _vectors(context, vectors)
    seen = last_seen_of(side, ids)
    return _vectors(
        context,
        vectors,
        ages=seen.ages,
        versions=seen.versions,
        last_seen_at=seen.times,
        age_seconds=seen.seconds,
        **({} if labels is None else {"labels": labels}),
    )


def lookup_is_quick(context: RequestContext, request: LookupRequest) -> bool:
    """Return whether only a few vectors are requested."""
    return request.labels is None and len(request.ids) * context.version.record.dimension <= _QUICK_NUMBERS


def transform(context: RequestContext, request: TransformRequest) -> Answer:
    """Map raw vectors into the space, or stable ones into a snapshot's raw basis."""
    context.require_space(request.space_id)
    vectors = matrix(request.vectors, "$.vectors")
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
    context.memory.reserve(24 * width * sum(map(len, lists)), "the vectors of the given ids")
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
    """Return, for each kept version of this space, an id's cosine with its present vector, its norm and age."""
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
    """Return the changes from one kept version to another, by default from the parent to the served version."""
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
        rows = sum(counts.rows for counts in after.record.sides)
        context.memory.reserve(rows * _COMPARED_BYTES, "a comparison of all rows")
        labels = len(after.record.labels) + len(before.record.labels)
        context.memory.reserve(5 * request.limit * labels * LABEL_BYTES, "the labels of the listed items")
        found = compared(
            before, after, limit=request.limit, labels=request.labels, between=context.memory.raise_if_cancelled
        )
    return Answer(deque([msgspec.json.encode({**context.head(), **msgspec.to_builtins(found)})]), JSON)


def _vectors(context: RequestContext, rows: Array, **beside: list[Any]) -> Answer:
    """Return vectors; a JSON response also has the fields ``beside``."""
    if context.as_array:
        return Answer(npy_pieces(rows), NPY)
    parts = (json_rows(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS))
    columns = {name: [msgspec.json.encode(values)[1:-1]] for name, values in beside.items()}
    return Answer(json_pieces(context.head(), {"vectors": parts, **columns}), JSON)
