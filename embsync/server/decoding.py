"""Requests from JSON and from query strings, decoded strictly, so that an error names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from embsync.server.arrays import NPY, from_npy
from embsync.server.endpoints import Query
from embsync.server.errors import Invalid, Malformed, Refused
from embsync.server.memory import Reservation
from embsync.server.schema import Request

#: What msgspec says of a value of another type, or out of its range.
_EXPECTED = re.compile(r"Expected (.+?)(?:, got .+)?")
_STEP = re.compile(r"\.(\w+)|\[([^]]+)\]")
_SHOWN = 80
_JSON = "application/json"
AnyRequest = TypeVar("AnyRequest", bound=Request)


def decode(endpoint: Query, content_type: str, fields: Mapping[str, str], body: bytes, memory: Reservation) -> Any:
    """Return the request that a body, and the fields of the query string beside it, make.

    Raises
    ------
    Malformed
        A body that is not what its content type says.
    Invalid
        A field is wrong.
    Refused
        415, another content type.
    """
    content = content_type.partition(";")[0].strip().lower()
    if content == NPY and endpoint.array_fields:
        vectors = from_npy(body)
        if fields.get("vectors"):
            raise Malformed("vectors twice", where="vectors", expected="the body alone")
        return msgspec.structs.replace(convert(fields, endpoint.request, strict=False), vectors=vectors)
    if content != _JSON:
        raise Refused(415, "unknown content type", found=content, expected=f"{_JSON} or {NPY}")
    if fields:
        raise Invalid(
            "fields beside a JSON body",
            where="query string",
            found=", ".join(fields),
            expected="all of them in the body",
        )
    memory.reserve(decoded_size(body), "what the body says")
    return decode_json(body, endpoint.request)


def decode_json(body: bytes, kind: type[AnyRequest]) -> AnyRequest:
    """Return a JSON body as a request.

    Raises
    ------
    Malformed
        Not JSON.
    Invalid
        JSON of another form; ``where`` is the path of the field, such as ``$.ids[3]``.
    """
    try:
        try:
            return msgspec.json.decode(body, type=kind)  # nothing is made that no request has a place for
        except msgspec.ValidationError:
            tree: Any = msgspec.json.decode(body)  # to say what stands at the wrong place
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("not JSON", where="$", found=str(error)) from None
    return convert(tree, kind, strict=True)


def decoded_size(body: bytes) -> int:
    """Return about the bytes that a JSON body takes as Python objects, at most: lists and mappings are the largest."""
    return len(body) + 40 * body.count(b",") + 30 * body.count(b'"') + 100 * body.count(b"[") + 300 * body.count(b"{")


def convert(tree: object, kind: type[AnyRequest], *, strict: bool) -> AnyRequest:
    """Return plain values as a request; not strict: numbers may stand in strings, as in a query string."""
    try:
        return msgspec.convert(tree, kind, strict=strict)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `")
        where = path.rstrip("`") or "$"
        expected, got = _EXPECTED.fullmatch(what), _found(tree, where)
        raise Invalid(
            "wrong value" if expected else what,
            where=where,
            found=got,
            expected=expected and expected[1].replace("`", ""),
        ) from None


def _found(tree: Any, where: str) -> str | None:
    """Return what stands at a path, shortened; None where the path does not lead to one place."""
    for key, place in _STEP.findall(where):
        try:
            tree = tree[key] if key else tree[int(place)]
        except (LookupError, TypeError, ValueError):
            return None
    return msgspec.json.encode(tree)[:_SHOWN].decode("utf-8", "ignore")
