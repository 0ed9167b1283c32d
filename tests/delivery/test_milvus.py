"""The sink of kind milvus: its calls, answered by milvus-lite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from contract import Served, ServedSide, SinkContract

import embsync
from embsync.config import MilvusConfig
from embsync.delivery.kinds import open_sink

pytestmark = pytest.mark.services("pymilvus", "milvus_lite")


def side_in(client: Any, collection: str, side: str) -> ServedSide:
    """Return a side as a reader sees it."""
    fields = ["key", "id", "vector", "live", "age"]
    rows = client.query(collection, filter="age >= 0", output_fields=fields, partition_names=[side], limit=10_000)
    rows = sorted(rows, key=lambda row: row["id"] if isinstance(row["id"], int) else row["id"].encode())
    columns = {name: [row[name] for row in rows] for name in fields}
    return ServedSide(columns["id"], np.array(columns["vector"], np.float32), columns["live"], columns["age"])


def simple_collection(client: Any, name: str) -> None:
    """Make a collection that is not ours."""
    client.create_collection(name, dimension=4)
    client.insert(name, [{"id": 1, "vector": [1.0, 2.0, 3.0, 4.0]}])


def served_by_milvus(client: Any) -> Served | None:
    """Return what a reader sees that resolves the alias once."""
    if "embsync" not in client.list_aliases()["aliases"]:
        return None
    name = client.describe_alias("embsync")["collection_name"]
    users = side_in(client, name, "users")
    return Served(int(name.rpartition("_")[2]), side_in(client, name, "items"), users if users.ids else None)


class TestMilvus(SinkContract):
    @pytest.fixture(autouse=True)
    def _place(self, milvus: str, milvus_client: Any) -> Iterator[None]:
        self.server, self.client = milvus, milvus_client
        self.opened: list[Any] = []
        yield
        for sink in self.opened:
            sink.close()

    def sink(self, **keys: Any) -> Any:
        self.opened.append(open_sink(MilvusConfig(name="test", url=self.server, **keys)))
        return self.opened[-1]

    def served(self) -> Served | None:
        return served_by_milvus(self.client)

    def break_off(self, version: embsync.Version) -> None:
        from embsync.delivery.milvus.collection import Collection, described
        from embsync.delivery.milvus.connection import Client

        sink = self.sink()
        sink.stage(version)
        call = Client(MilvusConfig(name="test", url=self.server))
        Collection(call, f"embsync_{version.number}").describe(described(version, complete=False))
        call.close()

    def leave_foreign(self) -> Callable[[], object]:
        simple_collection(self.client, "embsync_7")
        simple_collection(self.client, "embsync_items_1")

        def read() -> object:
            return [
                (name, list(self.client.query(name, filter="id > 0", output_fields=["vector"])))
                for name in ("embsync_7", "embsync_items_1")
            ]

        return read

    def occupy(self) -> None:
        simple_collection(self.client, "embsync")
