"""Every endpoint, declared once: routing, decoding, the OpenAPI document and responses follow from this table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from starlette.responses import Response

from embsync.manifest import Manifest
from embsync.server import handlers, pages, resources
from embsync.server.context import Answer, RequestContext
from embsync.server.errors import FailureStatus
from embsync.server.schema import (
    DiffReply,
    DiffRequest,
    FoldInRequest,
    LookupReply,
    LookupRequest,
    MovementReply,
    MovementRequest,
    RequestBody,
    SearchReply,
    SearchRequest,
    ServerState,
    TransformRequest,
    VectorsReply,
)
from embsync.server.search import search, search_is_quick

#: Fields that a query string carries as JSON text.
AS_JSON = frozenset({"where"})
#: Failures of a request that may not be made.
_ACCESS = (FailureStatus.UNAUTHORIZED, FailureStatus.MISDIRECTED_REQUEST)


@dataclass(frozen=True)
class QueryEndpoint:
    """An endpoint with a request of several fields, handled with one version.

    Attributes
    ----------
    name : str
        Its path is ``/v1/`` and the name.
    tag : str
        Its group in the OpenAPI document.
    summary : str
    request, reply : type
        The types of body and response in JSON.
    handler : callable
        Takes a :class:`~embsync.server.context.RequestContext` and the request.
    example : dict
        A request.
    array_body : bool
        Whether ``vectors`` may be sent as an array, with the other fields in the query string.
    array_reply : bool
        Whether the response may be an array.
    get : bool
        Whether all fields may be in the query string of a GET request.
    is_quick : callable
        Returns whether a request takes less than a millisecond, and so little memory that it never waits for any.
    """

    name: str
    tag: str
    summary: str
    request: type[RequestBody]
    reply: Any
    handler: Callable[[RequestContext, Any], Answer]
    example: dict[str, Any]
    array_body: bool = False
    array_reply: bool = True
    get: bool = False
    is_quick: Callable[[RequestContext, Any], bool] = lambda context, request: False

    @property
    def path(self) -> str:
        """The path."""
        return f"/v1/{self.name}"


@cache
def query_types(request: type[RequestBody]) -> dict[str, msgspec.inspect.Type]:
    """Return the fields that a query string can carry, with the type of each: no lists of lists."""
    types = {}
    for field in msgspec.inspect.type_info(request).fields:  # type: ignore[attr-defined]
        kind = _without_null(field.type)
        lists = isinstance(kind, msgspec.inspect.ListType) and isinstance(kind.item_type, msgspec.inspect.ListType)
        if not lists:
            types[field.encode_name] = kind
    return types


def _without_null(kind: msgspec.inspect.Type) -> msgspec.inspect.Type:
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    if isinstance(kind, msgspec.inspect.UnionType):
        rest = [_without_null(one) for one in kind.types if not isinstance(one, msgspec.inspect.NoneType)]
        return rest[0] if len(rest) == 1 else msgspec.inspect.StrType()  # an id: text stands for either kind
    return kind


@dataclass(frozen=True)
class Resource:
    """A read-only endpoint without parameters.

    Attributes
    ----------
    path : str
    name : str
        Its operation in the OpenAPI document.
    summary : str
    handler : callable
        Takes a :class:`~embsync.server.resources.WorkerState`.
    reply : type or str
        The type of the response in JSON, or its media type.
    failures : tuple of FailureStatus
        Statuses other than 200.
    open : bool
        Whether it shows no data, and needs no token.
    """

    path: str
    name: str
    summary: str
    handler: Callable[[resources.WorkerState], Response]
    reply: Any
    failures: tuple[FailureStatus, ...] = (FailureStatus.MISDIRECTED_REQUEST,)
    open: bool = True


@dataclass(frozen=True)
class PageEndpoint:
    """A web page or a part of one: made in a thread from the served version, within the limits of queries.

    Attributes
    ----------
    path : str
    name : str
        Its operation in the OpenAPI document.
    summary : str
    handler : callable
        Takes a :class:`~embsync.server.context.RequestContext`.
    reply : str
        Its media type.
    failures : tuple of FailureStatus
        Statuses other than 200.
    """

    path: str
    name: str
    summary: str
    handler: Callable[[RequestContext, None], Answer]
    reply: str = "text/html"
    failures: tuple[FailureStatus, ...] = (
        *_ACCESS,
        FailureStatus.UNPROCESSABLE_CONTENT,
        FailureStatus.TOO_MANY_REQUESTS,
        FailureStatus.SERVICE_UNAVAILABLE,
    )
    open: bool = False

    def is_quick(self, context: RequestContext, request: None) -> bool:
        """Return False: a page is always made in a thread."""
        del context, request
        return False


QUERIES = (
    QueryEndpoint(
        "search",
        "search",
        "Live items with the highest scores for vectors, users or items",
        SearchRequest,
        SearchReply,
        search,
        {
            "users": [100002, 100003],
            "k": 5,
            "blocked": [17],
            "where": {"genre": ["history", "crime"]},
            "labels": ["title"],
            "missing": "nan",
        },
        array_body=True,
        get=True,
        is_quick=search_is_quick,
    ),
    QueryEndpoint(
        "lookup",
        "vectors",
        "Stable vectors by id, live or carried",
        LookupRequest,
        LookupReply,
        handlers.lookup,
        {"side": "users", "ids": [100002, 100003], "missing": "mean", "max_age": "7d"},
        get=True,
        is_quick=handlers.lookup_is_quick,
    ),
    QueryEndpoint(
        "transform",
        "vectors",
        "Map raw vectors into the space, or back",
        TransformRequest,
        VectorsReply,
        handlers.transform,
        {"side": "users", "vectors": [[0.5, -1.25, 0.0]], "version": 1},
        array_body=True,
    ),
    QueryEndpoint(
        "fold_in",
        "vectors",
        "Vectors for untrained users or items",
        FoldInRequest,
        VectorsReply,
        handlers.fold_in,
        {"side": "users", "ids": [[17, 23, 42]], "weights": [[5, 3, -1]], "missing": "mean"},
    ),
    QueryEndpoint(
        "movement",
        "vectors",
        "Movement of an id over the kept versions",
        MovementRequest,
        MovementReply,
        handlers.movement,
        {"side": "items", "id": 17},
        array_reply=False,
        get=True,
    ),
    QueryEndpoint(
        "diff",
        "vectors",
        "What changed between two versions: ids, rows, neighbours, scores, labels",
        DiffRequest,
        DiffReply,
        handlers.diff,
        {"before": 1, "limit": 5},
        array_reply=False,
        get=True,
    ),
)

RESOURCES = (
    Resource(
        "/v1/version",
        "get_version",
        "The manifest of the served version",
        resources.manifest,
        Manifest,
        (*_ACCESS, FailureStatus.SERVICE_UNAVAILABLE),
        open=False,
    ),
    Resource("/healthz", "get_health", "Whether the server follows the store", resources.health, ServerState),
    Resource("/readyz", "get_readiness", "Whether a version is being served", resources.readiness, ServerState),
    Resource("/metrics", "get_metrics", "Prometheus metrics", resources.metrics, "text/plain", _ACCESS, open=False),
    Resource("/openapi.json", "get_openapi", "This document", resources.openapi, dict[str, Any]),
    Resource("/", "get_page", "A web page", resources.home, "text/html"),
)

PAGES = (
    PageEndpoint("/report", "get_report", "The report of the served version", pages.report),
    PageEndpoint("/overview", "get_overview", "The part of the web page with data", pages.overview),
)
