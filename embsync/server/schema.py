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
#: A number of versions, or a duration.
_AGE = rf"^[0-9]{{1,18}}$|{PATTERN}"


def _about(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


Positive = Annotated[int, msgspec.Meta(ge=1)]
MaxAge = Annotated[
    Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(extra_json_schema={"pattern": _AGE})] | None,
    _about(
        "Ids last in a snapshot longer ago count as unknown: a number of versions, or a duration such as 36h or 7d; "
        "null: no limit"
    ),
]
SideName = Annotated[Literal["items", "users"], _about("Whether the ids or vectors are those of items or of users")]
Missing = Annotated[
    Literal["raise", "nan", "mean"],
    _about("For an unknown id: an error, a vector of nulls, or the mean vector of the side"),
]
SpaceId = Annotated[
    str | None, _about("The space that the client's vectors belong to; if another one is served, status 409. null: any")
]
LabelNames = Annotated[list[str] | None, _about("Names of labels to return for each item; null: none")]
#: JavaScript rounds integers above 2**53.
StringIds = Annotated[bool, _about("Return ids as strings even if they are integers")]
#: Non-finite numbers are null in JSON.
Number = float | None


class RequestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all requests: unknown fields are refused."""


class Range(RequestBody, frozen=True, omit_defaults=True):
    """Numbers from ``min`` to ``max``, inclusive; either bound may be omitted."""

    min: Annotated[int | float | None, _about("The least value")] = None
    max: Annotated[int | float | None, _about("The greatest value")] = None


class SearchRequest(RequestBody, frozen=True):
    """A search by exactly one of ``vectors``, ``users`` and ``items``."""

    vectors: Annotated[Rows | None, _about("Queries as vectors, one list of numbers for each")] = None
    users: Annotated[Ids | None, _about("Queries as ids of users: the items that score highest for each")] = None
    items: Annotated[Ids | None, _about("Queries as ids of items: the items nearest to each, without itself")] = None
    k: Annotated[Positive | None, _about("Neighbours per query; null: 10, or the largest k if that is less")] = None
    space: Annotated[
        Literal["stable", "snapshot"],
        _about("What ``vectors`` are: stable ones, or raw ones of the snapshot of ``snapshot_version``"),
    ] = "stable"
    snapshot_version: Annotated[
        Positive | None, _about("The kept version whose snapshot the raw vectors are from; null: the served version")
    ] = None
    allowed: Annotated[
        IdsOrLists | None, _about("The only ids to return; or a list of them, or null, for each query")
    ] = None
    blocked: Annotated[IdsOrLists | None, _about("Ids to exclude; or a list of them, or null, for each query")] = None
    where: Annotated[
        dict[str, Scalar | list[Scalar] | Range] | None,
        _about(
            "Conditions on labels, all of which must hold: a value, a list of alternatives, or a range "
            'such as ``{"min": 5, "max": 20}``'
        ),
    ] = None
    labels: Annotated[list[str] | None, _about("Names of labels to return for each result; null: none")] = None
    parameters: Annotated[
        dict[str, Positive] | None,
        _about("Search parameters of the index, such as efSearch or nprobe; null: as measured for k"),
    ] = None
    missing: Annotated[
        Literal["raise", "nan", "mean"],
        _about("For an unknown user or item: an error, no results, or the results of the mean vector"),
    ] = "raise"
    max_age: MaxAge = None
    string_ids: StringIds = False
    null_ids: Annotated[bool, _about("Return null instead of -1 or an empty string if fewer than k were found")] = False
    space_id: SpaceId = None


class LookupRequest(RequestBody, frozen=True):
    """Stable vectors by id."""

    side: SideName
    ids: Annotated[Ids, _about("The ids, in the order of the response")]
    missing: Missing = "raise"
    max_age: MaxAge = None
    labels: LabelNames = None
    space_id: SpaceId = None


class TransformRequest(RequestBody, frozen=True):
    """Raw vectors of a version's snapshot into the space, or back."""

    side: SideName
    vectors: Annotated[Rows, _about("Raw vectors, or stable ones if ``inverse``")]
    inverse: Annotated[bool, _about("Map stable vectors to raw ones")] = False
    version: Annotated[
        Positive | None, _about("The kept version whose snapshot the raw vectors are from; null: the served version")
    ] = None
    space_id: SpaceId = None


class FoldInRequest(RequestBody, frozen=True):
    """Vectors for ``side`` from lists of ids of the other side."""

    ids: Annotated[list[Ids], _about("For each vector, the ids of the other side that it interacted with")]
    side: Annotated[
        Literal["items", "users"] | None,
        _about("The side of the vectors to compute; null: users, or items if the store has no users"),
    ] = None
    weights: Annotated[Rows | None, _about("A weight for each of ``ids``, negative for dislikes; null: 1 for each")] = (
        None
    )
    method: Annotated[
        Literal["ridge", "mean", "nearest"],
        _about(
            "Ridge regression, the weighted mean of unit vectors, or the mean of the 30 trained vectors nearest to the "
            "solution of ridge"
        ),
    ] = "ridge"
    regularization: Annotated[
        Annotated[float, msgspec.Meta(gt=0)] | None,
        _about("Of ridge, in units of the mean squared norm of the other side; null: 1"),
    ] = None
    missing: Annotated[
        Literal["raise", "nan", "mean"],
        _about(
            "For unknown ids: an error, or they are left out; a list without known ids then gives nulls, or the mean "
            "vector"
        ),
    ] = "raise"
    space_id: SpaceId = None


class MovementRequest(RequestBody, frozen=True):
    """The movement of an id over the kept versions."""

    side: SideName
    id: Annotated[Id, _about("The id")]
    missing: Annotated[Literal["raise", "nan"], _about("For an unknown id: an error, or no steps")] = "raise"
    string_ids: StringIds = False
    space_id: SpaceId = None


class DiffRequest(RequestBody, frozen=True):
    """What changed between two kept versions."""

    before: Annotated[Positive | None, _about("The earlier version; null: the parent of ``after``")] = None
    after: Annotated[Positive | None, _about("The later version; null: the served one")] = None
    limit: Annotated[
        int, msgspec.Meta(ge=0, description="Ids to list of each kind: new, removed, moved most, with a changed label")
    ] = 20
    labels: Annotated[list[str] | None, _about("Labels to compare and to show; null: all of both versions")] = None
    space_id: SpaceId = None


class Reply(TypedDict):
    """Each response comes from one version."""

    version: Annotated[int, _about("The number of the version of the response")]
    space_id: Annotated[str, _about("The space of that version")]


class SearchReply(Reply):
    """One row per query, best first; id -1 or "" (null on request) and a null score if fewer were found."""

    ids: Annotated[list[list[Id | None]], _about("For each query, k ids of items, best first")]
    scores: Annotated[list[list[Number]], _about("Their scores, by the metric of the store")]
    labels: NotRequired[
        Annotated[list[list[dict[str, Value]]], _about("For each of them, its labels by name; if requested")]
    ]


class VectorsReply(Reply):
    """One row per vector."""

    vectors: Annotated[list[list[Number]], _about("One list of numbers for each vector, in the order of the request")]


class LookupReply(VectorsReply):
    """Vectors of ids; age, origin and labels of unknown ids are null, and so are unknown times."""

    ages: Annotated[list[int | None], _about("Versions since each id was last in a snapshot; 0: it is in this one")]
    versions: Annotated[list[int | None], _about("The version that last had each id in its snapshot")]
    last_seen_at: Annotated[list[str | None], _about("The time of that version, in UTC")]
    age_seconds: Annotated[
        list[int | None], _about("Seconds from that time to the time of the version of the response")
    ]
    labels: NotRequired[Annotated[list[dict[str, Value]], _about("The labels of each item by name; if requested")]]


class MovementStep(TypedDict):
    """An id in one kept version, with the cosine to its present vector."""

    version: Annotated[int, _about("The number of the kept version")]
    cosine: Annotated[float, _about("The cosine between the vector there and the present one")]
    norm: Annotated[float, _about("The length of the vector there")]
    age: Annotated[int, _about("Versions since the id was last in a snapshot, in that version")]


class MovementReply(Reply):
    """An id over the kept versions, oldest first."""

    id: Annotated[Id, _about("The id of the request")]
    side: SideName
    steps: Annotated[list[MovementStep], _about("One for each kept version of the space that has the id, oldest first")]


class DiffReply(Reply):
    """Ids, rows, neighbours, scores and labels of two versions; cosines are null between different spaces."""

    before: Annotated[int, _about("The number of the earlier version")]
    after: Annotated[int, _about("The number of the later version")]
    same_space: Annotated[bool, _about("Whether both have one space, so that vectors can be compared")]
    items: Annotated[SideDiff, _about("Changes of the items")]
    users: Annotated[SideDiff | None, _about("Changes of the users; null unless both versions have users")]
    neighbours: Annotated[NeighboursDiff, _about("Changes of the ten nearest items of sampled users")]
    labels: Annotated[list[LabelDiff], _about("One for each label that was compared")]


class ServerState(TypedDict):
    """The state of a server."""

    ready: Annotated[bool, _about("Whether there is a version to serve")]
    following: Annotated[bool, _about("Whether the store is still checked for new versions")]
    serving: Annotated[int | None, _about("The served version; null: none yet")]
    newest: Annotated[
        int | None, _about("The current version of the store; null: none yet, or the store cannot be read")
    ]
    error: Annotated[str | None, _about("Why the newest version is not served; null: nothing is wrong")]
    seconds_since_look: Annotated[float, _about("Seconds since the store was last checked")]


class ErrorReply(TypedDict):
    """What is wrong, the path of the field, what was found, what was expected, and what to do."""

    error: Annotated[str, _about("The kind of error, such as UsageError or NotFoundError")]
    what: Annotated[str, _about("What is wrong")]
    where: Annotated[str | None, _about("The path of the field, such as $.ids")]
    found: Annotated[str | None, _about("What was found there")]
    expected: Annotated[str | None, _about("What was expected")]
    hint: Annotated[str | None, _about("What to do")]
