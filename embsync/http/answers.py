"""What each endpoint answers, from one pinned version: requests in, plain values or arrays out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embsync.dtypes import Array
from embsync.http.messages import (
    FoldInRequest,
    Invalid,
    LookupRequest,
    MovementRequest,
    Rows,
    SearchRequest,
    TransformRequest,
)
from embsync.http.replies import Found, Hits, Movement, Reply, Step, Vectors
from embsync.http.settings import Limits
from embsync.reader import ForeignSpace, Version

#: Opens a kept version by number.
Opener = Callable[[int], Version]


@dataclass(frozen=True)
class Answer:
    """Plain values for JSON, and the array that stands for them in ``.npy`` where there is one."""

    plain: Callable[[], Mapping[str, object]]  # encoded later: numbers that are not finite become null
    array: Array | None = None


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
    """

    version: Version
    limits: Limits
    kept: Opener
    numbers: Callable[[], list[int]]

    def search(self, asked: SearchRequest, given: Array | None) -> Answer:
        """Return ids and scores of the nearest live items."""
        self._same_space(asked.space_id)
        self._within(asked.k, self.limits.neighbours, "$.k")
        ways = {"vectors": asked.vectors if given is None else given, "users": asked.users, "items": asked.items}
        chosen = {name: value for name, value in ways.items() if value is not None}
        if len(chosen) != 1:
            raise Invalid("one query is needed", where="$", found=", ".join(chosen) or "none",
                          expected="exactly one of vectors, users, items")
        (way, value), = chosen.items()
        self._within(len(value), self.limits.batch, f"$.{way}")
        ids, scores = self._found(asked, way, value)

        def plain() -> Hits:
            return {**self._head(), "ids": ids.tolist(), "scores": scores.tolist()}

        return Answer(plain, _hits(ids, scores))

    def _found(self, asked: SearchRequest, way: str, value: Any) -> tuple[Array, Array]:
        filters: dict[str, Any] = {
            "allowed": None if asked.allowed is None else self._ids(asked.allowed, "$.allowed"),
            "blocked": None if asked.blocked is None else self._ids(asked.blocked, "$.blocked"),
            "parameters": asked.parameters}
        if asked.snapshot_version is not None and asked.space != "snapshot":
            raise Invalid("a snapshot, but queries in the stable space", where="$.snapshot_version",
                          found=asked.snapshot_version, expected="space snapshot beside it")
        if asked.space != "stable" and way != "vectors":
            raise Invalid("a space says where vectors live", where="$.space", found=f"{asked.space} and {way}",
                          expected="vectors")
        if way == "users":
            return self.version.search_by_user(self._ids(value, "$.users"), asked.k, **filters)
        if way == "items":
            return self.version.search_by_item(self._ids(value, "$.items"), asked.k, **filters)
        vectors = _matrix(value, "$.vectors")
        with self._snapshot(asked.snapshot_version) as source:
            return self.version.search(vectors, asked.k, space=asked.space, snapshot=source, **filters)

    def lookup(self, asked: LookupRequest, _: Array | None) -> Answer:
        """Return vectors, the age of each and the version it is from."""
        self._same_space(asked.space_id)
        ids = self._ids(asked.ids, "$.ids")
        side = self.version.side(asked.side)
        vectors = side.lookup(ids, asked.missing, max_age=asked.max_age)

        def plain() -> Found:
            known = side.rows(ids) >= 0
            there: Any = [one for one, is_known in zip(ids, known, strict=True) if is_known]
            ages, origins = iter(side.age(there).tolist()), iter(side.origin(there).tolist())
            return {**self._head(), "vectors": vectors.tolist(), "ages": [next(ages) if one else None for one in known],
                    "versions": [next(origins) if one else None for one in known]}

        return Answer(plain, vectors)

    def transform(self, asked: TransformRequest, given: Array | None) -> Answer:
        """Return raw vectors in the space, or stable ones in a snapshot's raw basis."""
        self._same_space(asked.space_id)
        vectors = _matrix(asked.vectors if given is None else given, "$.vectors")
        self._within(len(vectors), self.limits.batch, "$.vectors")
        self.version.side(asked.side)
        with self._snapshot(asked.version) as source:
            maps = (source or self.version).transform
            chosen = {("items", False): maps.items, ("users", False): maps.users,
                      ("items", True): maps.items_inverse, ("users", True): maps.users_inverse}
            moved = chosen[asked.side, asked.inverse](vectors)
        return self._vectors(moved)

    def fold_in(self, asked: FoldInRequest, _: Array | None) -> Answer:
        """Return vectors for who was never trained."""
        self._same_space(asked.space_id)
        if not asked.ids:
            raise Invalid("nothing to fold in", where="$.ids", found="no lists", expected="at least one")
        self._within(sum(max(1, len(one)) for one in asked.ids), self.limits.batch, "$.ids")
        lists = [self._ids(one, f"$.ids[{place}]") for place, one in enumerate(asked.ids)]
        folded = self.version.side(asked.side).fold_in(
            lists, asked.weights, method=asked.method, regularization=asked.regularization, missing=asked.missing)
        return self._vectors(folded)

    def movement(self, asked: MovementRequest, _: Array | None) -> Answer:
        """Return, for each kept version of this space, the id's cosine to its vector now, its norm and age."""
        wanted = self._ids([asked.id], "$.id")
        now = self.version.side(asked.side).lookup(wanted)[0]
        steps: list[Step] = []
        for number in self.numbers():
            with contextlib.suppress(Exception), self.kept(number) as version:
                side = version.side(asked.side)
                if version.space_id != self.version.space_id or side.rows(wanted)[0] < 0:
                    continue
                then = side.lookup(wanted)[0]
                length = float(np.linalg.norm(then))
                shared = min(len(now), len(then))
                product = float(now[:shared] @ then[:shared])
                cosine = product / max(length * float(np.linalg.norm(now)), 1e-30)
                steps.append({"version": number, "cosine": cosine, "norm": length,
                              "age": int(side.age(wanted)[0])})
        moved: Movement = {**self._head(), "id": asked.id, "side": asked.side, "steps": steps}
        return Answer(lambda: moved)

    def _vectors(self, rows: Array) -> Answer:
        def plain() -> Vectors:
            return {**self._head(), "vectors": rows.tolist()}

        return Answer(plain, rows)

    def _head(self) -> Reply:
        return {"version": self.version.number, "space_id": self.version.space_id}

    @contextlib.contextmanager
    def _snapshot(self, number: int | None) -> Iterator[Version | None]:
        if number is None or number == self.version.number:
            yield None
            return
        with self.kept(number) as source:
            if source.space_id != self.version.space_id:
                raise ForeignSpace("the version lives in another space", where=f"version {number}",
                                   found=source.space_id, expected=self.version.space_id)
            yield source

    def _same_space(self, wanted: str | None) -> None:
        if wanted is not None and wanted != self.version.space_id:
            raise ForeignSpace("another space is served", where="$.space_id", found=self.version.space_id,
                               expected=wanted)

    def _ids(self, ids: list[int | str], where: str) -> Any:
        """Return ids of one kind, as many as a request may name."""
        self._within(len(ids), self.limits.batch, where)
        for place, one in enumerate(ids):
            if type(one) is not type(ids[0]):
                raise Invalid("ids of two kinds", where=f"{where}[{place}]", found=type(one).__name__,
                              expected=f"{type(ids[0]).__name__}, as the first")
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
            raise Invalid("rows of different lengths", where=f"{where}[{place}]", found=f"{len(row)} numbers",
                          expected=f"{len(rows[0])} numbers")
    if not rows:
        raise Invalid("no vectors", where=where, found="none", expected="at least one")
    return np.array(rows, np.float64)


def _hits(ids: Array, scores: Array) -> Array:
    hits = np.empty(ids.shape, [("id", ids.dtype), ("score", np.float32)])
    hits["id"], hits["score"] = ids, scores
    return hits
