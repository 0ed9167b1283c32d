"""The HTTP interface, from the OpenAPI document."""

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
    schema = _resolved(schema)
    if "enum" in schema:
        return " or ".join(code(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_kind, schema["anyOf"])))
    if schema.get("type") == "array" and schema.get("items"):
        return f"array of {_kind(schema['items'])}"
    return str(schema.get("type", "any"))


def _fields(schema: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and description of the fields of an object."""
    schema = _resolved(schema)
    for name, field in schema.get("properties", {}).items():
        required = ", required" if name in schema.get("required", ()) else ""
        yield code(name), _kind(field) + required, field.get("description", "").replace("``", "`")


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
    for method, path, operation in _operations():
        if method == "POST":
            request = operation["requestBody"]["content"]["application/json"]["schema"]
            reply = operation["responses"]["200"]["content"]["application/json"]["schema"]
            parts += [f"## {path}", f"{operation['summary']}."]
            parts += ["The request has these fields:", table("field | type | meaning", _fields(request))]
            parts += ["The response has these:", table("field | type | meaning", _fields(reply))]
    return "\n\n".join(parts)


def failures() -> str:
    """Return what each status means."""
    found = {
        status: response["description"].replace("``", "`")
        for _, _, operation in _operations()
        for status, response in operation["responses"].items()
    }
    return table("status | meaning", sorted(found.items()))
