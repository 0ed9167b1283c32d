"""``/openapi.json``: made from the very types that requests are decoded with and answers are typed as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from embsync.server.arrays import NPY
from embsync.server.messages import FoldInRequest, LookupRequest, MovementRequest, SearchRequest, TransformRequest
from embsync.server.replies import Failure, Found, Hits, Movement, State, Vectors
from embsync.server.settings import Limits
from embsync.store.manifest import Manifest

_JSON = "application/json"
_BINARY = {"schema": {"type": "string", "format": "binary"}}


@dataclass(frozen=True)
class _Post:
    """An endpoint that is asked with a body; ``query``: fields that stand beside an array."""

    summary: str
    request: type[Any]
    reply: Any
    query: tuple[str, ...] = ()
    arrays: bool = True


_POSTS = {
    "search": _Post(
        "The live items nearest to vectors, users or items",
        SearchRequest,
        Hits,
        ("k", "space", "snapshot_version", "space_id"),
    ),
    "lookup": _Post("Stable vectors by id, live or carried", LookupRequest, Found),
    "transform": _Post(
        "Raw vectors into the space, or back", TransformRequest, Vectors, ("side", "inverse", "version", "space_id")
    ),
    "fold_in": _Post("Vectors for who was never trained", FoldInRequest, Vectors),
    "movement": _Post("How an id moved over the kept versions", MovementRequest, Movement, arrays=False),
}
#: Path: summary, type of the answer, statuses beside 200.
_GETS: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "/v1/version": ("The manifest of the version served", Manifest, ("401", "421", "503")),
    "/healthz": ("Whether the server follows the store", State, ("421",)),
    "/readyz": ("Whether there is a version to answer from", State, ("421",)),
    "/metrics": ("Figures for Prometheus", "text/plain", ("401", "421")),
    "/openapi.json": ("This document", dict[str, Any], ("421",)),
    "/": ("A page for people", "text/html", ("421",)),
}
_FAILURES = {
    "400": "A body that is not what its content type says",
    "401": "No valid token",
    "404": "An id or a version that is not there",
    "408": "The body did not arrive in time",
    "409": "Another space is served",
    "413": "Body too large",
    "415": "Unknown content type",
    "421": "Not a name of this machine",
    "422": "A field is wrong, or beyond a limit; ``where`` is its path",
    "429": "Too many requests at once",
    "503": "No version yet, too much is asked for at once, or not answered in time",
}
_VERSION = {
    "X-Embsync-Version": {
        "description": "The version the answer is from, or none",
        "required": True,
        "schema": {"type": "string", "pattern": "^([0-9]+|none)$"},
    }
}


def document(limits: Limits) -> dict[str, Any]:
    """Return the OpenAPI document; ``x-limits`` has the keys below ``serve.limits``."""
    types = [kind for post in _POSTS.values() for kind in (post.request, post.reply)]
    types += [reply for _, reply, _ in _GETS.values() if not isinstance(reply, str)]
    types.append(Failure)
    found, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(map(str, types), found, strict=True))
    paths: dict[str, Any] = {f"/v1/{name}": {"post": _post(post, schemas, components)} for name, post in _POSTS.items()}
    paths |= {path: {"get": _get(path, schemas)} for path in _GETS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "embsync", "version": "1"},
        "paths": paths,
        "x-limits": msgspec.structs.asdict(limits),
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _post(post: _Post, schemas: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": schemas[str(post.request)]}}
    if post.query:
        content[NPY] = _BINARY
    answers: dict[str, Any] = {_JSON: {"schema": schemas[str(post.reply)]}}
    if post.arrays:
        answers[NPY] = _BINARY
    fields = components[post.request.__name__]["properties"]
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": fields[name],
            "description": f"The field of this name, beside a body of {NPY}",
        }
        for name in post.query
    ]
    return {
        "summary": post.summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "security": [{}, {"token": []}],
        "responses": _responses(answers, tuple(_FAILURES), schemas),
    }


def _get(path: str, schemas: dict[str, Any]) -> dict[str, Any]:
    summary, reply, failures = _GETS[path]
    content = (
        {reply: {"schema": {"type": "string"}}} if isinstance(reply, str) else {_JSON: {"schema": schemas[str(reply)]}}
    )
    responses = _responses(content, failures, schemas)
    if reply is State:
        responses["503"] = {"description": "Not now", "headers": _VERSION, "content": content}
    security: list[dict[str, list[str]]] = [{}, {"token": []}] if "401" in failures else []
    return {"summary": summary, "security": security, "responses": responses}


def _responses(content: dict[str, Any], failures: tuple[str, ...], schemas: dict[str, Any]) -> dict[str, Any]:
    failed = {_JSON: {"schema": schemas[str(Failure)]}}
    return {
        "200": {"description": "Done", "headers": _VERSION, "content": content},
        **{code: {"description": _FAILURES[code], "headers": _VERSION, "content": failed} for code in failures},
    }
