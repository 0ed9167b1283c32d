"""The context of a handler: one pinned version, limits and memory; and its response."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from embsync.reader import ForeignSpace, Version
from embsync.reader.labels import records_of
from embsync.server.arrays import NPY, Piece
from embsync.server.errors import Invalid
from embsync.server.memory import Reservation
from embsync.server.schema import Reply
from embsync.server.settings import Limits

JSON = "application/json"
#: Bytes of an item's label, as a Python object and as text.
LABEL_BYTES = 400


class Answer(msgspec.Struct, frozen=True):
    """A response: pieces, which are freed once sent, their media type, and further headers."""

    pieces: deque[Piece]
    media_type: str
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


class OpenKept(Protocol):
    """Pins a kept version by number."""

    def __call__(self, number: int, *, searched: bool = False) -> Version:
        """Pin the version; with ``searched``, its index is verified first."""


class RequestContext(msgspec.Struct, frozen=True):
    """The context of a handler.

    Attributes
    ----------
    version : Version
        The only source of a response, so that no response mixes two versions.
    limits : Limits
    open_kept : OpenKept
        Opens another kept version, for raw vectors of its snapshot and for movements.
    kept_versions : callable
        Returns the numbers of the kept versions.
    memory : Reservation
        Reserves memory before it is allocated, and ends the work between blocks if the request was cancelled.
    as_array : bool
        Whether the client accepts ``.npy``.
    """

    version: Version
    limits: Limits
    open_kept: OpenKept
    kept_versions: Callable[[], list[int]]
    memory: Reservation
    as_array: bool

    def head(self) -> Reply:
        """Return the fields common to all responses."""
        return {"version": self.version.number, "space_id": self.version.space_id}

    def require_space(self, wanted: str | None) -> None:
        """Refuse a request for another space."""
        if wanted is not None and wanted != self.version.space_id:
            raise ForeignSpace(
                "another space is served", where="$.space_id", found=self.version.space_id, expected=wanted
            )

    def require_at_most(self, limit: int, asked: int, where: str) -> None:
        """Refuse requests beyond a limit."""
        if asked > limit:
            raise Invalid("more than the limit of a request", where=where, found=asked, expected=f"at most {limit}")

    def checked_ids(self, ids: list[int | str], where: str) -> Any:
        """Return the ids if they are all of one type, and at most as many as allowed."""
        self.require_at_most(self.limits.batch, len(ids), where)
        for place, one in enumerate(ids):
            if type(one) is not type(ids[0]):
                raise Invalid(
                    "ids of two kinds",
                    where=f"{where}[{place}]",
                    found=type(one).__name__,
                    expected=f"{type(ids[0]).__name__}, as the first",
                )
            if isinstance(one, str) and "\0" in one:  # NumPy would drop it, so that another id would be found
                raise Invalid("an id with a NUL character", where=f"{where}[{place}]")
        return ids

    def reserve_vectors(self, rows: int) -> None:
        """Reserve memory for vectors in a response: as numbers, and for JSON as text of 19 digits."""
        self.memory.reserve(rows * self.version.record.dimension * (8 if self.as_array else 32), f"{rows} vectors")

    def labels_of(self, ids: Any, names: list[str] | None) -> list[dict[str, Any]] | None:
        """Return the labels of items by name, null for unknown items; None if none are requested."""
        if names is None:
            return None
        if self.as_array:
            raise Invalid("an array has no labels", where="$.labels", found=NPY, expected=f"Accept: {JSON}")
        self.memory.reserve(len(ids) * LABEL_BYTES * len(names), "labels")
        return records_of(self.version, self.version.items.rows(ids), names)

    @contextlib.contextmanager
    def snapshot_version(self, number: int | None) -> Iterator[Version | None]:
        """Open the version whose snapshot has the basis of raw vectors; yield None for the served one."""
        if number is None or number == self.version.number:
            yield None
            return
        with self.open_kept(number) as source:
            if source.space_id != self.version.space_id:
                raise ForeignSpace(
                    "the version is in another space",
                    where=f"version {number}",
                    found=source.space_id,
                    expected=self.version.space_id,
                )
            yield source
