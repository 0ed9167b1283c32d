"""What requests look like: decoded strictly, so that an error names the field."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from embsync.errors import EmbsyncError

Id = int | str
Ids = list[int | str]
Rows = list[list[float]]
Positive = Annotated[int, msgspec.Meta(ge=1)]
SideName = Literal["items", "users"]
Missing = Literal["raise", "nan", "mean"]


class Invalid(EmbsyncError):
    """A request that cannot be answered; ``where`` is the path of the field."""

    exit_code = 2
    status = 422


class Refused(EmbsyncError):
    """A request turned away before it was looked at."""

    def __init__(self, status: int, what: str, **parts: Any) -> None:
        super().__init__(what, **parts)
        self.status = status


class Malformed(Invalid):
    """A body that is not what its content type says."""

    status = 400


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class SearchRequest(_Request, frozen=True):
    """Exactly one of ``vectors``, ``users`` and ``items`` asks."""

    vectors: Rows | None = None
    users: Ids | None = None
    items: Ids | None = None
    k: Positive = 10
    space: Literal["stable", "snapshot"] = "stable"
    snapshot_version: Positive | None = None
    allowed: Ids | None = None
    blocked: Ids | None = None
    parameters: dict[str, Positive] | None = None
    space_id: str | None = None


class LookupRequest(_Request, frozen=True):
    """Stable vectors by id."""

    side: SideName
    ids: Ids
    missing: Missing = "raise"
    max_age: Annotated[int, msgspec.Meta(ge=0)] | None = None
    space_id: str | None = None


class TransformRequest(_Request, frozen=True):
    """Raw vectors of a version's snapshot into the space, or back."""

    side: SideName
    vectors: Rows = []
    inverse: bool = False
    version: Positive | None = None
    space_id: str | None = None


class FoldInRequest(_Request, frozen=True):
    """Vectors for ``side`` from lists of ids of the other side."""

    ids: list[Ids]
    side: SideName = "users"
    weights: Rows | None = None
    method: Literal["ridge", "mean", "nearest"] = "ridge"
    regularization: Annotated[float, msgspec.Meta(gt=0)] | None = None
    missing: Missing = "raise"
    space_id: str | None = None


class MovementRequest(_Request, frozen=True):
    """How an id moved over the kept versions."""

    side: SideName
    id: Id


#: What msgspec says of a value of another type, or out of its range.
_EXPECTED = re.compile(r"Expected (.+?)(?:, got .+)?")
_STEP = re.compile(r"\.(\w+)|\[([^]]+)\]")
_SHOWN = 80
Message = TypeVar("Message", bound=_Request)


def decoded(body: bytes, kind: type[Message]) -> Message:
    """Return a JSON body as a message.

    Raises
    ------
    Malformed
        Not JSON.
    Invalid
        JSON of another form; ``where`` is the path of the field, such as ``$.ids[3]``.
    """
    try:
        try:
            return msgspec.json.decode(body, type=kind)  # nothing is made that no message has a place for
        except msgspec.ValidationError:
            tree: Any = msgspec.json.decode(body)  # to say what stands at the wrong place
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("not JSON", where="$", found=str(error)) from None
    return converted(tree, kind, strict=True)


def size_decoded(body: bytes) -> int:
    """Return about the bytes that a JSON body takes as Python objects, at most: lists and mappings are the largest."""
    return len(body) + 40 * body.count(b",") + 30 * body.count(b'"') + 100 * body.count(b"[") + 300 * body.count(b"{")


def converted(tree: object, kind: type[Message], *, strict: bool) -> Message:
    """Return plain values as a message; not strict: numbers may stand in strings, as in a query string."""
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
