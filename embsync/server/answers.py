"""What each endpoint answers, from one pinned version: requests in, plain values or arrays out."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from embsync.dtypes import Array
from embsync.reader import ForeignSpace, Version
from embsync.reader.search import stable_queries
from embsync.server.arrays import NPY, Piece, json_pieces, json_rows, npy_pieces
from embsync.server.messages import (
    FoldInRequest,
    Invalid,
    LookupRequest,
    MovementRequest,
    Rows,
    SearchRequest,
    TransformRequest,
)
from embsync.server.replies import Movement, Reply, Step
from embsync.server.settings import Limits
from embsync.server.work import Work

#: Opens a kept version by number.
Opener = Callable[[int], Version]
JSON = "application/json"
#: Queries searched between two looks whether anybody still waits; the second where the effort is the client's choice:
#: each may look at the whole index.
_QUERIES, _COSTLY_QUERIES = 1024, 64
#: Memory that a filter takes for each row: which may be found, as bytes, bits and positions.
_FILTERED_BYTES = 12


@dataclass(frozen=True)
class Answer:
    """What is sent: pieces, which are let go as they are sent, and their type."""

    pieces: deque[Piece]
    media_type: str


@dataclass(frozen=True)
class Desk:
    """Answers requests from one version.

    Attributes
    ----------
    version : Version
        Everything in an answer comes from it, so no answer mixes two.
    limits : Limits
    kept : callable
        Opens another kept version, for raw vectors of its snapshot and for how an id moved.
    numbers : callable
        Returns the kept versions.
    work : Work
        Is asked for memory before it is taken, and between blocks whether anybody still waits.
    as_array : bool
        Whether the client takes ``.npy``.
    """

    version: Version
    limits: Limits
    kept: Opener
    numbers: Callable[[], list[int]]
    work: Work
    as_array: bool

    def search(self, asked: SearchRequest, given: Array | None) -> Answer:
        """Return ids and scores of the nearest live items."""
        self._same_space(asked.space_id)
        self._within(asked.k, self.limits.neighbours, "$.k")
        ways = {"vectors": asked.vectors if given is None else given, "users": asked.users, "items": asked.items}
        chosen = {name: value for name, value in ways.items() if value is not None}
        if len(chosen) != 1:
            raise Invalid(
                "one query is needed",
                where="$",
                found=", ".join(chosen) or "none",
                expected="exactly one of vectors, users, items",
            )
        ((way, value),) = chosen.items()
        self._within(len(value), self.limits.batch, f"$.{way}")
        if len(value) * asked.k > self.limits.hits:
            raise Invalid(
                "more than a request may ask for",
                where="$.k",
                found=f"{len(value)} queries x {asked.k}",
                expected=f"at most {self.limits.hits} hits",
                hint="ask for fewer neighbours, or in parts",
            )
        id_bytes = self.version.items.ids.dtype.itemsize  # text takes four times that as NumPy's, and once as JSON
        k = min(asked.k, self.version.record.items.live)
        each = 2 * (4 * id_bytes + 4) if self.as_array else id_bytes + 60
        self.work.take(len(value) * k * each, f"{len(value) * k} hits")
        found = self._found(asked, way, value)
        if self.as_array:
            return Answer(npy_pieces(_hits(list(found))), NPY)
        names, scores = [], []
        for block in found:
            names.append(json_rows(block[0]))
            scores.append(json_rows(block[1]))
        return Answer(json_pieces(self._head(), {"ids": names, "scores": scores}), JSON)

    def _found(self, asked: SearchRequest, way: str, value: Any) -> Iterator[tuple[Array, Array]]:
        """Yield ids and scores of a block of queries after the other."""
        filters: dict[str, Any] = {
            "allowed": None if asked.allowed is None else self._ids(asked.allowed, "$.allowed"),
            "blocked": None if asked.blocked is None else self._ids(asked.blocked, "$.blocked"),
            "parameters": asked.parameters,
        }
        if asked.snapshot_version is not None and asked.space != "snapshot":
            raise Invalid(
                "a snapshot, but queries in the stable space",
                where="$.snapshot_version",
                found=asked.snapshot_version,
                expected="space snapshot beside it",
            )
        if asked.space != "stable" and way != "vectors":
            raise Invalid(
                "a space says where vectors live", where="$.space", found=f"{asked.space} and {way}", expected="vectors"
            )
        if asked.allowed is not None or asked.blocked is not None:
            self.work.take(len(self.version.items.ids) * _FILTERED_BYTES, "a filter over all items")
        by_item = way == "items"
        if by_item:
            queries: Any = self._ids(value, "$.items")
            self.version.items.lookup(queries)  # unknown ones are told before any work
        elif way == "users":
            queries = self.version.side("users").lookup(self._ids(value, "$.users"))
        else:
            vectors = _matrix(value, "$.vectors")
            self.work.take(12 * vectors.size, "the queries")
            with self._snapshot(asked.snapshot_version) as source:
                queries = stable_queries(self.version, vectors, asked.space, source)
        search = self.version.search_by_item if by_item else self.version.search
        step = _QUERIES if asked.parameters is None else _COSTLY_QUERIES
        for start in range(0, max(1, len(queries)), step):
            self.work.go_on()
            yield search(queries[start : start + step], asked.k, **filters)

    def lookup(self, asked: LookupRequest, _: Array | None) -> Answer:
        """Return vectors, the age of each and the version it is from."""
        self._same_space(asked.space_id)
        ids = self._ids(asked.ids, "$.ids")
        side = self.version.side(asked.side)
        self._take_rows(len(ids))
        vectors = side.lookup(ids, asked.missing, max_age=asked.max_age)
        if self.as_array:
            return self._vectors(vectors)
        known = side.rows(ids) >= 0
        there: Any = [one for one, is_known in zip(ids, known, strict=True) if is_known]
        ages, origins = iter(side.age(there).tolist()), iter(side.origin(there).tolist())
        return self._vectors(
            vectors,
            ages=[next(ages) if one else None for one in known],
            versions=[next(origins) if one else None for one in known],
        )

    def transform(self, asked: TransformRequest, given: Array | None) -> Answer:
        """Return raw vectors in the space, or stable ones in a snapshot's raw basis."""
        self._same_space(asked.space_id)
        vectors = _matrix(asked.vectors if given is None else given, "$.vectors")
        self._within(len(vectors), self.limits.batch, "$.vectors")
        self.work.take(8 * vectors.size, "the vectors")
        self._take_rows(len(vectors))
        self.version.side(asked.side)
        with self._snapshot(asked.version) as source:
            maps = (source or self.version).transform
            chosen = {
                ("items", False): maps.items,
                ("users", False): maps.users,
                ("items", True): maps.items_inverse,
                ("users", True): maps.users_inverse,
            }
            moved = chosen[asked.side, asked.inverse](vectors)
        return self._vectors(moved)

    def fold_in(self, asked: FoldInRequest, _: Array | None) -> Answer:
        """Return vectors for who was never trained."""
        self._same_space(asked.space_id)
        if not asked.ids:
            raise Invalid("nothing to fold in", where="$.ids", found="no lists", expected="at least one")
        self._within(sum(max(1, len(one)) for one in asked.ids), self.limits.batch, "$.ids")
        lists = [self._ids(one, f"$.ids[{place}]") for place, one in enumerate(asked.ids)]
        width = self.version.record.dimension
        self.work.take(24 * width * sum(map(len, lists)), "the vectors of what is folded in")
        self._take_rows(len(lists))
        side = self.version.side(asked.side)
        return self._vectors(
            side.fold_in(
                lists,
                asked.weights,
                method=asked.method,
                missing=asked.missing,
                regularization=asked.regularization,
                between=self.work.go_on,
            )
        )

    def movement(self, asked: MovementRequest, _: Array | None) -> Answer:
        """Return, for each kept version of this space, the id's cosine to its vector now, its norm and age."""
        wanted = self._ids([asked.id], "$.id")
        now = self.version.side(asked.side).lookup(wanted)[0]
        steps: list[Step] = []
        for number in self.numbers():
            self.work.go_on()
            with contextlib.suppress(Exception), self.kept(number) as version:
                side = version.side(asked.side)
                if version.space_id != self.version.space_id or side.rows(wanted)[0] < 0:
                    continue
                then = side.lookup(wanted)[0]
                length = float(np.linalg.norm(then))
                shared = min(len(now), len(then))
                product = float(now[:shared] @ then[:shared])
                cosine = product / max(length * float(np.linalg.norm(now)), 1e-30)
                steps.append({"version": number, "cosine": cosine, "norm": length, "age": int(side.age(wanted)[0])})
        moved: Movement = {**self._head(), "id": asked.id, "side": asked.side, "steps": steps}
        return Answer(deque([msgspec.json.encode(moved)]), JSON)

    def _take_rows(self, rows: int) -> None:
        """Take the memory of vectors to be answered: as numbers, and as text of 19 digits where it is JSON."""
        self.work.take(rows * self.version.record.dimension * (8 if self.as_array else 32), f"{rows} vectors")

    def _vectors(self, rows: Array, **beside: list[int | None]) -> Answer:
        """Return vectors, and in JSON what is beside them."""
        if self.as_array:
            return Answer(npy_pieces(rows), NPY)
        parts = (json_rows(rows[start : start + _QUERIES]) for start in range(0, len(rows), _QUERIES))
        told = {name: [msgspec.json.encode(values)[1:-1]] for name, values in beside.items()}
        return Answer(json_pieces(self._head(), {"vectors": parts, **told}), JSON)

    def _head(self) -> Reply:
        return {"version": self.version.number, "space_id": self.version.space_id}

    @contextlib.contextmanager
    def _snapshot(self, number: int | None) -> Iterator[Version | None]:
        if number is None or number == self.version.number:
            yield None
            return
        with self.kept(number) as source:
            if source.space_id != self.version.space_id:
                raise ForeignSpace(
                    "the version lives in another space",
                    where=f"version {number}",
                    found=source.space_id,
                    expected=self.version.space_id,
                )
            yield source

    def _same_space(self, wanted: str | None) -> None:
        if wanted is not None and wanted != self.version.space_id:
            raise ForeignSpace(
                "another space is served", where="$.space_id", found=self.version.space_id, expected=wanted
            )

    def _ids(self, ids: list[int | str], where: str) -> Any:
        """Return ids of one kind, as many as a request may name."""
        self._within(len(ids), self.limits.batch, where)
        for place, one in enumerate(ids):
            if type(one) is not type(ids[0]):
                raise Invalid(
                    "ids of two kinds",
                    where=f"{where}[{place}]",
                    found=type(one).__name__,
                    expected=f"{type(ids[0]).__name__}, as the first",
                )
            if isinstance(one, str) and "\0" in one:  # NumPy drops it, and another id would be found
                raise Invalid("an id with a NUL character", where=f"{where}[{place}]")
        return ids

    @staticmethod
    def _within(asked: int, limit: int, where: str) -> None:
        if asked > limit:
            raise Invalid("more than a request may ask for", where=where, found=asked, expected=f"at most {limit}")


def _matrix(rows: Rows | Array, where: str) -> Array:
    if isinstance(rows, np.ndarray):
        return rows if rows.ndim == 2 else rows[None, :]
    for place, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise Invalid(
                "rows of different lengths",
                where=f"{where}[{place}]",
                found=f"{len(row)} numbers",
                expected=f"{len(rows[0])} numbers",
            )
    if not rows:
        raise Invalid("no vectors", where=where, found="none", expected="at least one")
    return np.array(rows, np.float64)


def _hits(found: list[tuple[Array, Array]]) -> Array:
    ids = np.concatenate([one for one, _ in found])
    hits = np.empty(ids.shape, [("id", ids.dtype), ("score", np.float32)])
    hits["id"], hits["score"] = ids, np.concatenate([scores for _, scores in found])
    return hits
