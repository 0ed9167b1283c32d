"""What answers look like in JSON: the OpenAPI document is made from these types, and answers are typed as them."""

from __future__ import annotations

from typing import TypedDict

from embsync.server.messages import Id, SideName

#: Numbers that are not finite are null in JSON.
Number = float | None


class Reply(TypedDict):
    """Every answer is of one version."""

    version: int
    space_id: str


class Hits(Reply):
    """A line a query, best first; id -1 or "" and a score of null where the index found fewer."""

    ids: list[list[Id]]
    scores: list[list[Number]]


class Vectors(Reply):
    """A row a vector."""

    vectors: list[list[Number]]


class Found(Vectors):
    """Vectors of ids; age and origin of an unknown id are null."""

    ages: list[int | None]
    versions: list[int | None]


class Step(TypedDict):
    """An id in one kept version: its cosine to its vector now."""

    version: int
    cosine: float
    norm: float
    age: int


class Movement(Reply):
    """An id over the kept versions, oldest first."""

    id: Id
    side: SideName
    steps: list[Step]


class State(TypedDict):
    """What a server says about its health; ``newest`` is what the store says is current."""

    ready: bool
    following: bool
    serving: int | None
    newest: int | None
    error: str | None
    seconds_since_look: float


class Failure(TypedDict):
    """What is wrong, the path of the field, what stands there, what would be right, and what to do."""

    error: str
    what: str
    where: str | None
    found: str | None
    expected: str | None
    hint: str | None
