"""The OpenAPI document: made from the endpoints and the types that requests are decoded by."""

from __future__ import annotations

from typing import Any

import msgspec

from embsync.server.arrays import NPY
from embsync.server.endpoints import QUERIES, RESOURCES, Query, Resource
from embsync.server.schema import ErrorReply, ServerState
from embsync.server.settings import Limits

_JSON = "application/json"
_BINARY = {"schema": {"type": "string", "format": "binary"}}


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
    types: list[Any] = [kind for query in QUERIES for kind in (query.request, query.reply)]
    types += [resource.reply for resource in RESOURCES if not isinstance(resource.reply, str)]
    types.append(ErrorReply)
    found, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(map(str, types), found, strict=True))
    paths: dict[str, Any] = {query.path: {"post": _post(query, schemas, components)} for query in QUERIES}
    paths |= {resource.path: {"get": _get(resource, schemas)} for resource in RESOURCES}
    return {
        "openapi": "3.1.0",
        "info": {"title": "embsync", "version": "1"},
        "paths": paths,
        "x-limits": msgspec.structs.asdict(limits),
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _post(query: Query, schemas: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": schemas[str(query.request)]}}
    if query.array_fields:
        content[NPY] = _BINARY
    answers: dict[str, Any] = {_JSON: {"schema": schemas[str(query.reply)]}}
    if query.array_reply:
        answers[NPY] = _BINARY
    fields = components[query.request.__name__]["properties"]
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": fields[name],
            "description": f"The field of this name, beside a body of {NPY}",
        }
        for name in query.array_fields
    ]
    return {
        "summary": query.summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "security": [{}, {"token": []}],
        "responses": _responses(answers, tuple(_FAILURES), schemas),
    }


def _get(resource: Resource, schemas: dict[str, Any]) -> dict[str, Any]:
    content = (
        {resource.reply: {"schema": {"type": "string"}}}
        if isinstance(resource.reply, str)
        else {_JSON: {"schema": schemas[str(resource.reply)]}}
    )
    responses = _responses(content, resource.failures, schemas)
    if resource.reply is ServerState:
        responses["503"] = {"description": "Not now", "headers": _VERSION, "content": content}
    security: list[dict[str, list[str]]] = [] if resource.open else [{}, {"token": []}]
    return {"summary": resource.summary, "security": security, "responses": responses}


def _responses(content: dict[str, Any], failures: tuple[str, ...], schemas: dict[str, Any]) -> dict[str, Any]:
    failed = {_JSON: {"schema": schemas[str(ErrorReply)]}}
    return {
        "200": {"description": "Done", "headers": _VERSION, "content": content},
        **{code: {"description": _FAILURES[code], "headers": _VERSION, "content": failed} for code in failures},
    }
