"""``/openapi.json``: made from the very types that requests are decoded with."""

from __future__ import annotations

from typing import Any

import msgspec

from embsync.http.arrays import NPY
from embsync.http.messages import FoldInRequest, LookupRequest, MovementRequest, SearchRequest, TransformRequest

_POSTS: dict[str, tuple[type[Any], str]] = {
    "search": (SearchRequest, "The live items nearest to vectors, users or items"),
    "lookup": (LookupRequest, "Stable vectors by id, live or carried"),
    "transform": (TransformRequest, "Raw vectors into the space, or back"),
    "fold_in": (FoldInRequest, "Vectors for who was never trained"),
    "movement": (MovementRequest, "How an id moved over the kept versions"),
}
_GETS = {
    "/v1/version": "The manifest of the version served",
    "/healthz": "Whether the server follows the store",
    "/readyz": "Whether there is a version to answer from",
    "/metrics": "Figures for Prometheus",
    "/openapi.json": "This document",
    "/": "A page for people",
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
    "422": "A field is wrong; ``where`` is its path",
    "429": "Too many requests at once",
    "503": "No version yet, or not answered in time",
}


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    kinds = [kind for kind, _ in _POSTS.values()]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {f"/v1/{name}": {"post": _post(name, schema, summary)}
                             for (name, (_, summary)), schema in zip(_POSTS.items(), schemas, strict=True)}
    for path, summary in _GETS.items():
        paths[path] = {"get": {"summary": summary, "responses": {
            "200": {"description": "Done"}, "401": {"description": _FAILURES["401"]},
            "421": {"description": _FAILURES["421"]}, "503": {"description": _FAILURES["503"]}}}}
    return {"openapi": "3.1.0", "info": {"title": "embsync", "version": "1"}, "paths": paths,
            "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}}


def _post(name: str, schema: dict[str, Any], summary: str) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    answers: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if name in ("search", "transform"):
        content[NPY] = {"schema": {"type": "string", "format": "binary"}}
    if name != "movement":
        answers[NPY] = {"schema": {"type": "string", "format": "binary"}}
    version = {"X-Embsync-Version": {"description": "The version the answer is from", "schema": {"type": "string"}}}
    failures = {code: {"description": text} for code, text in _FAILURES.items()}
    return {"summary": summary, "requestBody": {"required": True, "content": content}, "security": [{}, {"token": []}],
            "responses": {"200": {"description": "Done", "headers": version, "content": answers}, **failures}}
