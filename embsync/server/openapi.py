"""The OpenAPI document, generated from the endpoints and the types of requests."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from embsync.server.arrays import NPY
from embsync.server.endpoints import (
    AS_JSON,
    PAGES,
    QUERIES,
    RESOURCES,
    PageEndpoint,
    QueryEndpoint,
    Resource,
    query_types,
)
from embsync.server.errors import FailureStatus
from embsync.server.schema import ErrorReply, ServerState
from embsync.server.settings import Limits

_JSON = "application/json"
_BINARY = {"schema": {"type": "string", "format": "binary"}}


_SECURED: list[dict[str, list[str]]] = [{}, {"token": []}]
_TAGS = {
    "search": "Nearest items",
    "vectors": "Vectors by id, in other spaces, for untrained ids, and over versions",
    "server": "The served version, health, metrics",
}
#: Fields that are the queries of a search; not allowed with an array.
_QUERIES_GIVEN = frozenset({"vectors", "users", "items"})
#: Fields that hold ids.
_IDS = frozenset({"users", "items", "ids", "id", "allowed", "blocked"})
#: Statuses of requests with a body only.
_OF_BODIES = {
    FailureStatus.BAD_REQUEST,
    FailureStatus.REQUEST_TIMEOUT,
    FailureStatus.CONTENT_TOO_LARGE,
    FailureStatus.UNSUPPORTED_MEDIA_TYPE,
}
_VERSION = {
    "X-Embsync-Version": {
        "description": "The version of the response, or none",
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
    for component in components.values():
        _describe_fields(component)
    for query in QUERIES:
        for field in components[query.request.__name__]["properties"].values():
            _describe_default(field)
    paths: dict[str, Any] = {}
    for query in QUERIES:
        paths[query.path] = {"post": _post(query, schemas, components)}
        if query.get:
            paths[query.path]["get"] = _get(query, schemas, components)
    paths |= {resource.path: {"get": _resource(resource, schemas)} for resource in (*RESOURCES, *PAGES)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "embsync", "version": "1"},
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "x-limits": msgspec.structs.asdict(limits),
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def attributes(docstring: str) -> dict[str, str]:
    """Return the descriptions of a numpydoc section of attributes, by name."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(docstring).partition("----------\n")[2].splitlines():
        if head := re.match(r"(\w+(?:, \w+)*) : ", line):
            names = head[1].split(", ")
        for name in names if line.startswith("    ") else []:
            found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found


def _describe_fields(component: dict[str, Any]) -> None:
    """Move the attributes of a class from its description to its fields."""
    text = component.pop("description", "")
    if described := inspect.cleandoc(text).partition("\n\nAttributes\n")[0]:
        component["description"] = described
    found = attributes(text)
    for name, field in component.get("properties", {}).items():
        if name in found:
            field.setdefault("description", re.sub(r"\bNone\b", "null", found[name]))


def _describe_default(field: dict[str, Any]) -> None:
    """Move a default into the description, since generators would send it, or require a value."""
    default = field.pop("default", None)
    if default is not None:
        field["description"] = (
            f"{field.get('description', '')} (default: {msgspec.json.encode(default).decode()})".strip()
        )


def _post(query: QueryEndpoint, schemas: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": schemas[str(query.request)], "example": query.example}}
    parameters = []
    if query.array_body:
        content[NPY] = _BINARY
        beside = [name for name in query_types(query.request) if name not in _QUERIES_GIVEN]
        parameters = _parameters(query, components, beside, f"Only with a body of {NPY}")
    return {
        **_described(query.name, query.tag, query.summary),
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "security": _SECURED,
        "responses": _responses(_answers(query, schemas), FailureStatus, schemas),
    }


def _get(query: QueryEndpoint, schemas: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    failures = [status for status in FailureStatus if status not in _OF_BODIES]
    return {
        **_described(f"get_{query.name}", query.tag, f"{query.summary}, by URL"),
        "parameters": _parameters(query, components, list(query_types(query.request))),
        "security": _SECURED,
        "responses": _responses(_answers(query, schemas), failures, schemas),
    }


def _parameters(
    query: QueryEndpoint, components: dict[str, Any], names: list[str], description: str = ""
) -> list[dict[str, Any]]:
    """Return fields as parameters, without defaults, since clients omit them."""
    schema = components[query.request.__name__]
    parameters = []
    for name in names:
        field = dict(schema["properties"][name])
        kinds = [one for one in field.pop("anyOf", []) if one != {"type": "null"}]
        if name in _IDS:  # a query string has only text
            kinds = []
            field |= {"type": "string"} if name == "id" else {"type": "array", "items": {"type": "string"}}
        if name in AS_JSON:  # generators ignore parameters with content
            kinds = []
            field |= {"type": "string", "contentMediaType": _JSON}
            field["description"] = f"{field['description']}; JSON text"
        field |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
        described = " ".join(filter(None, [field.pop("description", ""), description]))
        required = not query.array_body and name in schema.get("required", ())
        parameter = {"name": name, "in": "query", "required": required}
        parameter["schema"] = field
        if name in query.example:
            parameter["example"] = _in_a_url(name, query.example[name])
        if described:
            parameter["description"] = described
        if field.get("type") == "object":
            parameter |= {"style": "deepObject", "explode": True}
        parameters.append(parameter)
    return parameters


def _in_a_url(name: str, example: Any) -> Any:
    """Return an example as a query string."""
    if name in AS_JSON:
        return msgspec.json.encode(example).decode()
    return (list(map(str, example)) if isinstance(example, list) else str(example)) if name in _IDS else example


def _answers(query: QueryEndpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {_JSON: {"schema": schemas[str(query.reply)]}}
    return {**answers, NPY: _BINARY} if query.array_reply else answers


def _resource(resource: Resource | PageEndpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    content = (
        {resource.reply: {"schema": {"type": "string"}}}
        if isinstance(resource.reply, str)
        else {_JSON: {"schema": schemas[str(resource.reply)]}}
    )
    responses = _responses(content, resource.failures, schemas)
    if resource.reply is ServerState:
        not_now = "Not ready, or the store is no longer followed"
        responses[str(FailureStatus.SERVICE_UNAVAILABLE)] = {
            "description": not_now,
            "headers": _VERSION,
            "content": content,
        }
    return {
        **_described(resource.name, "server", resource.summary),
        "security": [] if resource.open else _SECURED,
        "responses": responses,
    }


def _described(operation: str, tag: str, summary: str) -> dict[str, Any]:
    return {"operationId": operation, "tags": [tag], "summary": summary}


def _responses(content: dict[str, Any], failures: Iterable[FailureStatus], schemas: dict[str, Any]) -> dict[str, Any]:
    failed = {_JSON: {"schema": schemas[str(ErrorReply)]}}
    return {
        "200": {"description": "Done", "headers": _VERSION, "content": content},
        **{str(one): {"description": one.description, "headers": _VERSION, "content": failed} for one in failures},
    }
