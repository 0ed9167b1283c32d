"""Every endpoint, declared once: routing, decoding, the OpenAPI document and the answers follow from this table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from embsync.manifest import Manifest
from embsync.server import handlers, resources
from embsync.server.handlers import Answer
from embsync.server.schema import (
    FoldInRequest,
    LookupReply,
    LookupRequest,
    MovementReply,
    MovementRequest,
    Request,
    SearchReply,
    SearchRequest,
    ServerState,
    TransformRequest,
    VectorsReply,
)


@dataclass(frozen=True)
class Query:
    """An endpoint that is asked with fields and answered in a thread, from one version.

    Attributes
    ----------
    name : str
        What it does; its path is ``/v1/`` and the name.
    summary : str
    request, reply : type
        What the body and the answer are in JSON.
    handler : callable
        Takes a :class:`~embsync.server.handlers.Context` and the request.
    array_fields : tuple of str
        Where vectors may come as an array: the fields that stand beside it, in the query string.
    array_reply : bool
        Whether the answer may be an array.
    """

    name: str
    summary: str
    request: type[Request]
    reply: Any
    handler: Callable[[handlers.Context, Any], Answer]
    array_fields: tuple[str, ...] = ()
    array_reply: bool = True

    @property
    def path(self) -> str:
        """Where it is asked."""
        return f"/v1/{self.name}"


@dataclass(frozen=True)
class Resource:
    """An endpoint that is only read.

    Attributes
    ----------
    path : str
    summary : str
    handler : callable
        Takes a :class:`~embsync.server.resources.Worker`.
    reply : type or str
        What the answer is in JSON, or its media type where it is no JSON.
    failures : tuple of str
        Statuses beside 200.
    open : bool
        Says nothing about the data: read without a token.
    """

    path: str
    summary: str
    handler: Callable[[resources.Worker], Response]
    reply: Any
    failures: tuple[str, ...] = ("421",)
    open: bool = True


QUERIES = (
    Query(
        "search",
        "The live items nearest to vectors, users or items",
        SearchRequest,
        SearchReply,
        handlers.search,
        ("k", "space", "snapshot_version", "space_id"),
    ),
    Query("lookup", "Stable vectors by id, live or carried", LookupRequest, LookupReply, handlers.lookup),
    Query(
        "transform",
        "Raw vectors into the space, or back",
        TransformRequest,
        VectorsReply,
        handlers.transform,
        ("side", "inverse", "version", "space_id"),
    ),
    Query(
        "fold_in", "Vectors for users or items that were never trained", FoldInRequest, VectorsReply, handlers.fold_in
    ),
    Query(
        "movement",
        "How an id moved over the kept versions",
        MovementRequest,
        MovementReply,
        handlers.movement,
        array_reply=False,
    ),
)

RESOURCES = (
    Resource(
        "/v1/version",
        "The manifest of the version served",
        resources.manifest,
        Manifest,
        ("401", "421", "503"),
        open=False,
    ),
    Resource("/healthz", "Whether the server follows the store", resources.health, ServerState),
    Resource("/readyz", "Whether there is a version to answer from", resources.readiness, ServerState),
    Resource("/metrics", "Figures for Prometheus", resources.metrics, "text/plain", ("401", "421"), open=False),
    Resource("/openapi.json", "This document", resources.openapi, dict[str, Any]),
    Resource("/", "A page for people", resources.home, "text/html"),
)
