"""The sink of kind ``milvus``: a collection for each version, and one alias for the current one."""

from __future__ import annotations

import re
import time
from functools import cache

import msgspec
import numpy as np

from embsync.config import MilvusConfig
from embsync.delivery.milvus.collection import EVERY_ROW, LIVE, Collection, described
from embsync.delivery.milvus.connection import Client, place_of
from embsync.delivery.queries import probe_queries
from embsync.delivery.sink import Generation, Probe, moved, require_same
from embsync.errors import SinkConflict, SinkError, SinkUnavailable
from embsync.ids import sample
from embsync.index.points import cheapest
from embsync.reader import Side, Version

#: Milvus's limits on the width of a vector.
_NARROWEST, _WIDEST = 2, 32_768
#: Beyond this effort, a search costs as much as comparing all vectors of a small collection.
_MOST_EF = 4_096
_QUERIES = 50
#: Rows of a side that a probe compares with the store.
_COMPARED = 100
#: Seconds after which another publisher may take the switching alias, which is held for milliseconds.
_ABANDONED = 10.0


class MilvusSink:
    """Collections of a Milvus server; see :class:`embsync.delivery.sink.Sink`.

    Milvus has no compare-and-swap. While a publisher compares and switches the alias, it holds a second alias
    (``…_switching``), which only one publisher can create.
    """

    def __init__(self, config: MilvusConfig) -> None:
        self._config = config
        self._call = Client(config)
        self._switching = f"{config.alias}_switching"

    def check(self, version: Version) -> tuple[str, ...]:
        """Refuse a width that Milvus cannot hold, and names that are in use by other programs."""
        width = version.record.dimension
        if not _NARROWEST <= width <= _WIDEST:
            raise SinkError(
                "vectors of a width that Milvus cannot hold",
                where=place_of(self._config),
                found=width,
                expected=f"{_NARROWEST} to {_WIDEST:,}",
            )
        names = self._call("list_collections")
        for alias in (self._config.alias, self._switching):
            if alias in names:
                raise self._foreign(alias)
            self._named_by(alias)
        collection = self._collection(version.number)
        if collection.name in names and not collection.is_ours():
            raise self._foreign(collection.name)
        return ()

    def generations(self) -> list[Generation]:
        """Return the versions whose collections have embsync's fields."""
        found = []
        for number in self._numbers():
            collection = self._collection(number)
            if not collection.is_ours():
                continue
            about = collection.description()
            if about is None:
                found.append(Generation(number, "", complete=False))
            else:
                found.append(
                    Generation(number, about.fingerprint, about.complete, about.space_id, about.created, about.search)
                )
        return found

    def current(self) -> int | None:
        """Return the version whose collection the alias names."""
        return self._target()

    def stage(self, version: Version) -> None:
        """Fill the version's collection, and describe it as complete."""
        collection = self._collection(version.number)
        if collection.name in self._call("list_collections"):
            if not collection.is_ours():
                raise self._foreign(collection.name)
            about = collection.description()
            if about is not None:
                hint = "each store needs an alias of its own (delivery.sinks: alias)"
                require_same(version, about.fingerprint, place_of(self._config), hint)
                if about.complete:
                    return
            self._call("drop_collection", collection.name)
        collection.create(version)
        collection.fill(version)
        collection.describe(described(version, complete=True))

    def probe(self, version: Version) -> Probe:
        """Compare counts and sampled rows with the store, and find the smallest ``ef`` that reaches the target."""
        collection, queries = self._complete(version.number), probe_queries(version)
        counted = [self._compared(collection, side) for side in version.sides]

        @cache
        def measure(ef: int) -> float:
            parts = range(0, len(queries), _QUERIES)
            found = [
                ids
                for start in parts
                for ids in collection.search(queries.vectors[start : start + _QUERIES], queries.k, ef)
            ]
            return queries.recall(found) or 0.0

        ef = cheapest(measure, queries.k, _MOST_EF, queries.target) if len(queries) else 64
        recall = measure(ef) if len(queries) else None
        search = {"ef": ef}
        about = described(version, complete=True)
        collection.describe(msgspec.structs.replace(about, search=search, k=queries.k, recall=recall))
        users = counted[1] if len(counted) > 1 else None
        return Probe(counted[0], users, queries.k, recall, queries.target, search)

    def commit(self, number: int, expected: int | None) -> None:
        """Move the alias, if it names the expected version."""
        name = self._complete(number).name
        self._hold(name)
        try:
            current = self._target()
            if current != expected:
                raise moved(place_of(self._config), current, expected)
            self._call("create_alias" if current is None else "alter_alias", name, self._config.alias)
        finally:
            self._call("drop_alias", self._switching)

    def drop(self, number: int) -> None:
        """Drop a version's collection; its readers then get an error and resolve the alias again."""
        collection = self._collection(number)
        if collection.name not in self._call("list_collections") or not collection.is_ours():
            return
        if self._target() == number:
            raise SinkError("the version is served", where=place_of(self._config), found=f"version {number}")
        aliases = self._call("list_aliases", collection.name)["aliases"]
        if others := sorted(set(aliases) - {self._switching}):
            raise SinkUnavailable(
                "an old version is still in use",
                where=place_of(self._config),
                found=f"alias {others[0]} of {collection.name}",
                hint="drop that alias",
            )
        if aliases:
            self._call("drop_alias", self._switching)
        self._call("drop_collection", collection.name)

    def close(self) -> None:
        """Disconnect."""
        self._call.close()

    def _collection(self, number: int) -> Collection:
        return Collection(self._call, f"{self._config.alias}_{number}")

    def _complete(self, number: int) -> Collection:
        """Return the collection of a version that is staged completely."""
        collection = self._collection(number)
        if collection.name in self._call("list_collections") and collection.is_ours():
            about = collection.description()
            if about is not None and about.complete:
                return collection
        raise SinkError(f"version {number} is not staged completely", where=place_of(self._config))

    def _numbers(self) -> list[int]:
        pattern = re.compile(re.escape(self._config.alias) + r"_([1-9][0-9]*)")
        matches = map(pattern.fullmatch, self._call("list_collections"))
        return sorted(int(match[1]) for match in matches if match)

    def _target(self) -> int | None:
        return self._named_by(self._config.alias)

    def _named_by(self, alias: str) -> int | None:
        """Return the version that an alias names; None if there is no such alias.

        Raises
        ------
        SinkConflict
            It names a collection that does not belong to a version.
        """
        if alias not in self._call("list_aliases")["aliases"]:
            return None
        name = self._call("describe_alias", alias)["collection_name"]
        prefix, _, number = name.rpartition("_")
        if prefix != self._config.alias or not number.isdigit():
            raise self._foreign(name)
        return int(number)

    def _hold(self, name: str) -> None:
        """Create the alias that only one publisher can hold; take it from a publisher that died holding it."""
        end = time.monotonic() + _ABANDONED
        while True:
            try:
                return self._call("create_alias", name, self._switching)  # type: ignore[no-any-return]
            except SinkError as error:
                if "exist" not in str(error.found):
                    raise
            if self._switching in self._call("list_collections"):
                raise self._foreign(self._switching)
            if time.monotonic() > end and self._named_by(self._switching) is not None:
                self._call("drop_alias", self._switching)
                end = time.monotonic() + _ABANDONED
            time.sleep(0.05)

    def _compared(self, collection: Collection, side: Side) -> int:
        """Return the number of rows of a side, after comparing it and some rows with the store."""
        found = collection.count(side.name, EVERY_ROW), collection.count(side.name, LIVE)
        expected = len(side), len(side.live_rows())
        rows = sample(side.ids[:], _COMPARED)
        vectors = collection.vectors(side.name, side.names(rows).tolist())
        if found != expected or not np.array_equal(vectors, side.vectors[rows]):
            raise SinkError(
                f"{side.name} of {collection.name} differ from the store",
                where=place_of(self._config),
                found=f"{found[0]} rows, {found[1]} live",
                expected=f"{expected[0]} rows, {expected[1]} live, with the same vectors",
                hint="was the collection changed by another program? drop it, and the next run recreates it",
            )
        return found[0]

    def _foreign(self, name: str) -> SinkConflict:
        return SinkConflict(
            "a collection that embsync did not create",
            where=place_of(self._config),
            found=name,
            expected=f"{self._config.alias} and {self._switching} as aliases of {self._config.alias}_1, …",
            hint="choose another name (delivery.sinks: alias)",
        )
