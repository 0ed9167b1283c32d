"""The HTTP interface, from the OpenAPI document."""

import json
import re
from collections.abc import Iterator
from typing import Any

from tables import code, table

from embsync.server.openapi import document
from embsync.server.settings import Limits

DOCUMENT: dict[str, Any] = document(Limits())


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _kind(schema: dict[str, Any]) -> str:
    """Return a type in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return " or ".join(code(value) for value in schema["enum"])
    if "anyOf" in schema:
        kinds = dict.fromkeys(map(_kind, schema["anyOf"]))
        return " or ".join(sorted(kinds, key=lambda kind: kind == "null"))
    if schema.get("additionalProperties"):
        return f"object of {_inner(schema['additionalProperties'])}"
    if schema.get("type") == "array" and schema.get("items"):
        return f"array of {_inner(schema['items'])}"
    return str(schema.get("type", "any"))


def _inner(schema: dict[str, Any]) -> str:
    kind = _kind(schema)
    return f"({kind})" if " or " in kind else kind


def _fields(schema: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and description of the fields of an object."""
    schema = _resolved(schema)
    for name, field in schema.get("properties", {}).items():
        required = ", required" if name in schema.get("required", ()) else ""
        yield code(name), _kind(field) + required, field.get("description", "")


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def endpoints() -> str:
    """Return a table of all operations, and a section for each with a body: the fields of request and reply."""
    summaries = table(
        "operation | purpose | statuses",
        (
            (code(f"{method} {path}"), operation["summary"], ", ".join(sorted(operation["responses"])))
            for method, path, operation in _operations()
        ),
    )
    parts = ["## Operations", summaries]
    queue: dict[str, None] = {}
    for method, path, operation in _operations():
        if method == "POST":
            request = operation["requestBody"]["content"]["application/json"]["schema"]
            reply = operation["responses"]["200"]["content"]["application/json"]["schema"]
            parts += [f"## {path}", f"{operation['summary']}."]
            parts += ["The request has these fields:", table("field | type | meaning", _fields(request))]
            parts += ["The response has these:", table("field | type | meaning", _fields(reply))]
            queue |= dict.fromkeys(_objects(request) + _objects(reply))
    parts.append("## Objects")
    seen: list[str] = []
    while rest := [name for name in queue if name not in seen]:
        seen.append(name := rest[0])
        schema = DOCUMENT["components"]["schemas"][name]
        parts += [f"### {name}", schema["description"], table("field | type | meaning", _fields(schema))]
        queue |= dict.fromkeys(_objects(schema))
    return "\n\n".join(parts)


def _objects(schema: dict[str, Any]) -> list[str]:
    """Return the names of the objects among the values of an object's fields."""
    return re.findall(r'"#/components/schemas/(\w+)"', json.dumps(_resolved(schema).get("properties", {})))


def failures() -> str:
    """Return what each status means."""
    found = {
        status: response["description"].replace("``", "`")
        for _, _, operation in _operations()
        for status, response in operation["responses"].items()
    }
    return table("status | meaning", sorted(found.items()))
