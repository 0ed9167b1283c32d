"""The collection of one version: partitions ``items`` and ``users``, and one row that describes it.

Keys are ``items:17`` and ``users:17``, since a key must be unique in a collection. The description is a row as well,
since not every server keeps the description and the properties of a collection.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from pymilvus import DataType, MilvusClient

from embsync.delivery.milvus.connection import Client
from embsync.delivery.rows import RowBlock, label_objects, row_blocks
from embsync.delivery.sink import fingerprint_of
from embsync.errors import SinkError
from embsync.ids import LONGEST_ID
from embsync.reader import Version
from embsync.rows import block_rows
from embsync.sides import SideName

MADE_BY = "embsync"
FORMAT = 1
#: Name of the partition with the description, and key of its row.
DESCRIPTION = "generation"
#: A filter that every row of a side meets: Milvus counts rows in partitions only with a filter.
EVERY_ROW = "age >= 0"
LIVE = "live == true"
#: Milvus's names of the metrics; its L2 is the squared distance.
METRICS = {"inner_product": "IP", "cosine": "COSINE", "l2": "L2"}
_FIELDS = ("key", "id", "vector", "live", "age", "last_seen", "last_seen_at", "labels", "about")
_HNSW = {"M": 16, "efConstruction": 128}
#: Bytes of a request with rows; Milvus accepts up to 64 MiB.
_REQUEST_BYTES = 4 << 20
_INDEX_SECONDS = 3600.0
#: Seconds before a collection is loaded again, 12.7 in all: on a busy machine milvus-lite takes seconds for an index.
_LOAD_PAUSES = (0.1, 0.2, 0.4, 0.8, *[1.6] * 7)


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """The description of a collection's version, with ``metric`` and ``search`` for readers."""

    made_by: str
    format: int
    version: int
    fingerprint: str
    space_id: str
    created: str
    dimension: int
    metric: str
    complete: bool
    target_recall: float
    search: dict[str, int] = {}
    k: int | None = None
    recall: float | None = None


def described(version: Version, *, complete: bool) -> Description:
    """Return the description of a version that has not been probed."""
    record = version.record
    return Description(
        made_by=MADE_BY,
        format=FORMAT,
        version=version.number,
        fingerprint=fingerprint_of(version),
        space_id=record.space_id,
        created=record.created,
        dimension=record.dimension,
        metric=record.index.metric,
        complete=complete,
        target_recall=record.index.target_recall,
    )


@dataclass(frozen=True)
class Collection:
    """One collection by name."""

    call: Client
    name: str

    def is_ours(self) -> bool:
        """Return whether it has embsync's fields; other programs may use such a name."""
        return {field["name"] for field in self.call("describe_collection", self.name)["fields"]} == set(_FIELDS)

    def description(self) -> Description | None:
        """Return its description; None if its creator died before writing one."""
        if DESCRIPTION not in self.call("list_partitions", self.name):
            return None
        self._load()
        rows = self.call("get", self.name, ids=[DESCRIPTION], output_fields=["about"], partition_names=[DESCRIPTION])
        return msgspec.json.decode(rows[0]["about"], type=Description) if rows else None

    def describe(self, description: Description) -> None:
        """Write its description."""
        row: dict[str, Any] = {
            "key": DESCRIPTION,
            "id": 0 if self._id_type() == DataType.INT64 else "",
            "vector": [0.0] * description.dimension,
            "live": False,
            **dict.fromkeys(("age", "last_seen", "last_seen_at"), -1),
            "labels": {},
            "about": msgspec.json.encode(description).decode(),
        }
        self.call("upsert", self.name, [row], partition_name=DESCRIPTION)

    def create(self, version: Version) -> None:
        """Create it, empty, with an index and a description that marks it as incomplete."""
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        integers = all(side.ids.dtype.kind == "i" for side in version.sides)
        schema.add_field("key", DataType.VARCHAR, max_length=LONGEST_ID + len("items:"), is_primary=True)
        if integers:
            schema.add_field("id", DataType.INT64)
        else:
            schema.add_field("id", DataType.VARCHAR, max_length=LONGEST_ID)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=version.record.dimension)
        schema.add_field("live", DataType.BOOL)
        for name in ("age", "last_seen", "last_seen_at"):
            schema.add_field(name, DataType.INT64)
        schema.add_field("labels", DataType.JSON)
        schema.add_field("about", DataType.VARCHAR, max_length=65_535)
        index = MilvusClient.prepare_index_params()
        metric = METRICS[version.record.index.metric]
        index.add_index("vector", index_type="HNSW", metric_type=metric, params=_HNSW)
        self.call("create_collection", self.name, schema=schema, consistency_level="Strong")
        self.call("create_index", self.name, index, sync=False)  # without rows, the client would wait
        self._load()
        for partition in ("items", "users", DESCRIPTION):
            self.call("create_partition", self.name, partition)
        self.describe(described(version, complete=False))

    def fill(self, version: Version) -> None:
        """Insert the rows, and load them again when the index is complete.

        Until then, searches compare rows one by one or use indexes of small segments, so that a probe would measure a
        recall that differs from what readers get later.
        """
        width = version.record.dimension
        step = max(1, min(block_rows(width), _REQUEST_BYTES // (8 * width + 256)))
        integers = self._id_type() == DataType.INT64
        for side in version.sides:
            for block in row_blocks(version, side.name, step):
                self.call("insert", self.name, list(_rows(block, side.name, integers)), partition_name=side.name)
        self.call("flush", self.name)
        self._await_index()
        self.call("release_collection", self.name)
        self._load()

    def count(self, side: SideName, condition: str = EVERY_ROW) -> int:
        """Return the number of rows of a side that meet a condition."""
        found = self.call("query", self.name, filter=condition, output_fields=["count(*)"], partition_names=[side])
        return int(found[0]["count(*)"])

    def search(self, vectors: Any, k: int, ef: int) -> list[list[Any]]:
        """Return the ids of the live items nearest to each query."""
        hits = self.call(
            "search", self.name, data=np.asarray(vectors).tolist(), anns_field="vector", limit=k, filter=LIVE,
            partition_names=["items"], output_fields=["id"], search_params={"params": {"ef": ef}},
        )  # fmt: skip
        return [[hit["entity"]["id"] for hit in found] for found in hits]

    def vectors(self, side: SideName, ids: list[Any]) -> Any:
        """Return the stored vectors of ids in their order, without unknown ones."""
        keys = [f"{side}:{one}" for one in ids]
        rows = self.call("get", self.name, ids=keys, output_fields=["key", "vector"], partition_names=[side])
        found = {row["key"]: row["vector"] for row in rows}
        return np.array([found[key] for key in keys if key in found], np.float32)

    def _load(self) -> None:
        """Load the collection; retry while the server still writes a file of an index that it calls complete.

        It then reports a timeout, or the error of the library that reads the file.
        """
        for pause in _LOAD_PAUSES:
            try:
                self.call("load_collection", self.name)
            except SinkError:
                time.sleep(pause)
            else:
                return
        self.call("load_collection", self.name)

    def _await_index(self) -> None:
        """Wait until the server reports every row as indexed."""
        end = time.monotonic() + _INDEX_SECONDS
        pause = 0.02
        while self.call("describe_index", self.name, "vector").get("pending_index_rows", 0):
            if time.monotonic() > end:
                break
            time.sleep(pause)
            pause = min(0.5, 2 * pause)  # small collections take a fraction of a second

    def _id_type(self) -> Any:
        fields = self.call("describe_collection", self.name)["fields"]
        return next(field["type"] for field in fields if field["name"] == "id")


def _rows(block: RowBlock, side: SideName, integers: bool) -> Iterator[dict[str, Any]]:
    """Yield rows in Milvus's form; an unknown time is -1."""
    times = np.where(np.isnat(block.last_seen_at), -1, block.last_seen_at.astype(np.int64))
    columns = (block.ids, block.vectors, block.live, block.ages, block.last_seen, times)
    labels = label_objects(block.labels or {}, len(block))
    for id_, vector, live, age, last_seen, at, about in zip(
        *(column.tolist() for column in columns), labels, strict=True
    ):
        yield {
            "key": f"{side}:{id_}",
            "id": id_ if integers else str(id_),
            "vector": vector,
            "live": live,
            "age": age,
            "last_seen": last_seen,
            "last_seen_at": at,
            "labels": about,
            "about": "",
        }
