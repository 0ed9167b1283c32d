"""Types of requests and responses in JSON, used for decoding and for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec

from embsync.durations import PATTERN
from embsync.labels import Value
from embsync.reader.diff import LabelDiff, NeighboursDiff, SideDiff

Id = int | str
Ids = list[int | str]
#: Ids for all queries, or a list of ids or null for each.
IdsOrLists = list[int | str | Ids | None]
Rows = list[list[float]]
#: A value of a label.
Scalar = str | int | float | bool | None
#: A number of versions, or a length of time.
_AGE = rf"^[0-9]{{1,18}}$|{PATTERN}"
Positive = Annotated[int, msgspec.Meta(ge=1)]
MaxAge = Annotated[
    Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(extra_json_schema={"pattern": _AGE})] | None,
    msgspec.Meta(
        description="Ids last in a snapshot longer ago count as unknown: a number of versions, or a time such as "
        "36h or 7d"
    ),
]
SideName = Literal["items", "users"]
Missing = Literal["raise", "nan", "mean"]
#: JavaScript rounds integers above 2**53.
StringIds = Annotated[bool, msgspec.Meta(description="Return ids as strings even if they are integers")]
#: Non-finite numbers are null in JSON.
Number = float | None


class RequestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all requests: unknown fields are refused."""


class Range(RequestBody, frozen=True, omit_defaults=True):
    """Numbers from ``min`` to ``max``, inclusive; either bound may be omitted."""

    min: int | float | None = None
    max: int | float | None = None


class SearchRequest(RequestBody, frozen=True):
    """A search by exactly one of ``vectors``, ``users`` and ``items``."""

    vectors: Rows | None = None
    users: Ids | None = None
    items: Ids | None = None
    k: Annotated[
        Positive | None,
        msgspec.Meta(description="Neighbours per query; null: 10, or the largest k if that is less"),
    ] = None
    space: Literal["stable", "snapshot"] = "stable"
    snapshot_version: Positive | None = None
    allowed: Annotated[
        IdsOrLists | None,
        msgspec.Meta(description="The only ids to return; or a list of them, or null, for each query"),
    ] = None
    blocked: Annotated[
        IdsOrLists | None,
        msgspec.Meta(description="Ids to exclude; or a list of them, or null, for each query"),
    ] = None
    where: Annotated[
        dict[str, Scalar | list[Scalar] | Range] | None,
        msgspec.Meta(
            description="Conditions on labels, all of which must hold: a value, a list of alternatives, or a range "
            'such as {"min": 5, "max": 20}'
        ),
    ] = None
    labels: Annotated[list[str] | None, msgspec.Meta(description="Names of labels to return for each result")] = None
    parameters: dict[str, Positive] | None = None
    missing: Annotated[
        Missing,
        msgspec.Meta(
            description="For an unknown user or item: an error, no results, or the results of the mean vector"
        ),
    ] = "raise"
    max_age: MaxAge = None
    string_ids: StringIds = False
    null_ids: Annotated[
        bool, msgspec.Meta(description="Return null instead of -1 or an empty string if fewer than k were found")
    ] = False
    space_id: str | None = None


class LookupRequest(RequestBody, frozen=True):
    """Stable vectors by id."""

    side: SideName
    ids: Ids
    missing: Missing = "raise"
    max_age: MaxAge = None
    labels: Annotated[list[str] | None, msgspec.Meta(description="Names of labels to return for each item")] = None
    space_id: str | None = None


class TransformRequest(RequestBody, frozen=True):
    """Raw vectors of a version's snapshot into the space, or back."""

    side: SideName
    vectors: Rows
    inverse: bool = False
    version: Positive | None = None
    space_id: str | None = None


class FoldInRequest(RequestBody, frozen=True):
    """Vectors for ``side`` from lists of ids of the other side."""

    ids: list[Ids]
    side: Annotated[SideName | None, msgspec.Meta(description="null: users, or items if the store has no users")] = None
    weights: Rows | None = None
    method: Literal["ridge", "mean", "nearest"] = "ridge"
    regularization: Annotated[float, msgspec.Meta(gt=0)] | None = None
    missing: Missing = "raise"
    space_id: str | None = None


class MovementRequest(RequestBody, frozen=True):
    """The movement of an id over the kept versions."""

    side: SideName
    id: Id
    missing: Annotated[
        Literal["raise", "nan"], msgspec.Meta(description="For an unknown id: an error, or no steps")
    ] = "raise"
    string_ids: StringIds = False
    space_id: str | None = None


class DiffRequest(RequestBody, frozen=True):
    """What changed between two kept versions."""

    before: Annotated[Positive | None, msgspec.Meta(description="null: the parent of ``after``")] = None
    after: Annotated[Positive | None, msgspec.Meta(description="null: the served version")] = None
    limit: Annotated[
        int, msgspec.Meta(ge=0, description="Ids to list of each kind: new, removed, moved most, with a changed label")
    ] = 20
    labels: Annotated[
        list[str] | None, msgspec.Meta(description="Labels to compare and to show; null: all of both versions")
    ] = None
    space_id: str | None = None


class Reply(TypedDict):
    """Each response comes from one version."""

    version: int
    space_id: str


class SearchReply(Reply):
    """One row per query, best first; id -1 or "" (null on request) and a null score if fewer were found."""

    ids: list[list[Id | None]]
    scores: list[list[Number]]
    labels: NotRequired[list[list[dict[str, Value]]]]


class VectorsReply(Reply):
    """One row per vector."""

    vectors: list[list[Number]]


class LookupReply(VectorsReply):
    """Vectors of ids; age, origin and labels of unknown ids are null, and so are unknown times.

    ``last_seen_at`` is the time of the version in ``versions``, ``age_seconds`` the seconds from then to the served
    version.
    """

    ages: list[int | None]
    versions: list[int | None]
    last_seen_at: list[str | None]
    age_seconds: list[int | None]
    labels: NotRequired[list[dict[str, Value]]]


class MovementStep(TypedDict):
    """An id in one kept version, with the cosine to its present vector."""

    version: int
    cosine: float
    norm: float
    age: int


class MovementReply(Reply):
    """An id over the kept versions, oldest first."""

    id: Id
    side: SideName
    steps: list[MovementStep]


class DiffReply(Reply):
    """Ids, rows, neighbours, scores and labels of two versions; cosines are null between different spaces."""

    before: int
    after: int
    same_space: bool
    items: SideDiff
    users: SideDiff | None
    neighbours: NeighboursDiff
    labels: list[LabelDiff]


class ServerState(TypedDict):
    """The state of a server; ``newest`` is the store's current version."""

    ready: bool
    following: bool
    serving: int | None
    newest: int | None
    error: str | None
    seconds_since_look: float


class ErrorReply(TypedDict):
    """What is wrong, the path of the field, what was found, what was expected, and what to do."""

    error: str
    what: str
    where: str | None
    found: str | None
    expected: str | None
    hint: str | None
