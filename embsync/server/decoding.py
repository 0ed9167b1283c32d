"""Requests from JSON and from query strings, decoded strictly, so that an error names the field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from embsync.server.arrays import NPY, from_npy
from embsync.server.endpoints import AS_JSON, QueryEndpoint, query_types
from embsync.server.errors import FailureStatus, Invalid, Malformed, Refused
from embsync.server.memory import Reservation
from embsync.server.schema import RequestBody
from embsync.validation import Violation

_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_SHOWN = 80
_JSON = "application/json"
#: Names and values of a query string, in order.
Fields = Sequence[tuple[str, str]]
AnyRequest = TypeVar("AnyRequest", bound=RequestBody)


def decode(endpoint: QueryEndpoint, content_type: str, fields: Fields, body: bytes, memory: Reservation) -> Any:
    """Return the request in a body and in the query string.

    Raises
    ------
    Malformed
        The body does not match its content type.
    Invalid
        A field is wrong.
    Refused
        415, another content type.
    """
    content = content_type.partition(";")[0].strip().lower()
    if content == NPY and endpoint.array_body:
        vectors = from_npy(body)
        if any(name == "vectors" for name, _ in fields):
            raise Malformed("vectors in both the body and the query string", where="vectors", expected="the body alone")
        request = convert({**_typed(endpoint.request, fields), "vectors": []}, endpoint.request)
        return msgspec.structs.replace(request, vectors=vectors)
    if content != _JSON:
        expected = f"{_JSON} or {NPY}"
        raise Refused(FailureStatus.UNSUPPORTED_MEDIA_TYPE, "unknown content type", found=content, expected=expected)
    if fields:
        raise Invalid(
            "query-string fields with a JSON body",
            where="query string",
            found=", ".join(name for name, _ in fields),
            expected="all of them in the body",
        )
    memory.reserve(decoded_size(body), "the contents of the body")
    return decode_json(body, endpoint.request)


def decode_query(endpoint: QueryEndpoint, fields: Fields) -> Any:
    """Return the request in a query string: the same fields as in JSON, with lists as repeated fields.

    Raises
    ------
    Invalid
        A field is wrong.
    """
    return convert(_typed(endpoint.request, fields), endpoint.request)


def decode_json(body: bytes, kind: type[AnyRequest]) -> AnyRequest:
    """Return a JSON body as a request.

    Raises
    ------
    Malformed
        Not JSON.
    Invalid
        JSON that is not such a request; ``where`` is the path of the field, such as ``$.ids[3]``.
    """
    try:
        try:
            return msgspec.json.decode(body, type=kind)  # unknown fields are not decoded
        except msgspec.ValidationError:
            tree: Any = msgspec.json.decode(body)  # to show the wrong value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("not JSON", where="$", found=str(error)) from None
    return convert(tree, kind)


def decoded_size(body: bytes) -> int:
    """Return an upper bound on the bytes of a JSON body as Python objects; lists and mappings take the most."""
    return len(body) + 40 * body.count(b",") + 30 * body.count(b'"') + 100 * body.count(b"[") + 300 * body.count(b"{")


def convert(tree: object, kind: type[AnyRequest]) -> AnyRequest:
    """Return plain values as a request.

    Raises
    ------
    Invalid
        The values are not such a request; ``where`` is the path of the field.
    """
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise _invalid(Violation.of(error), tree, kind) from None


def _invalid(violation: Violation, tree: object, kind: type[RequestBody]) -> Invalid:
    """Return an error with the field, its value, and what was expected."""
    where, names = violation.path, list(kind.__struct_fields__)
    if field := _FIELD.fullmatch(violation.what):
        if field[1] == "missing required":
            return Invalid("missing field", where=f"{where}.{field[2]}", expected=f"{field[2]} in the request")
        near = difflib.get_close_matches(field[2], names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known fields: {', '.join(names)}"
        return Invalid("unknown field", where=where, found=field[2][:_SHOWN], hint=hint)
    try:
        found = msgspec.json.encode(violation.value(tree))[:_SHOWN].decode("utf-8", "ignore")
    except LookupError:
        found = None
    what = violation.what if violation.expected is None else "wrong value"
    return Invalid(what, where=where, found=found, expected=violation.expected)


def _typed(kind: type[RequestBody], fields: Fields) -> dict[str, Any]:
    """Return the fields of a query string with the types of JSON: ``users=1&users=2``, ``parameters[efSearch]=64``.

    Conditions are JSON text: ``where={"genre":"history"}``.
    """
    types = query_types(kind)
    tree: dict[str, Any] = {}
    for name, text in fields:
        outer, _, inner = name.rstrip("]").partition("[")
        if isinstance(types.get(name), msgspec.inspect.ListType):
            tree.setdefault(name, []).append(text)
        elif name in AS_JSON and name not in tree:
            tree[name] = _json(name, text)
        elif isinstance(types.get(outer), msgspec.inspect.DictType) and inner and outer not in AS_JSON:
            tree.setdefault(outer, {})[inner] = int(text) if _INTEGER.fullmatch(text) else text
        elif name in tree:
            raise Invalid("repeated field", where=f"$.{name}", found=text[:_SHOWN], expected="one value")
        else:
            tree[name] = _scalar(types.get(name), text)
    return tree


def _json(name: str, text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(
            "not JSON", where=f"$.{name}", found=text[:_SHOWN], expected='such as {"genre": "history"}', hint=str(error)
        ) from None


def _scalar(kind: msgspec.inspect.Type | None, text: str) -> object:
    if isinstance(kind, msgspec.inspect.IntType) and _INTEGER.fullmatch(text):
        return int(text)
    if isinstance(kind, msgspec.inspect.BoolType):
        return {"true": True, "false": False}.get(text, text)
    return text
