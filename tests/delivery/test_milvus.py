"""The sink of kind milvus, tested with milvus-lite."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import Served, ServedSide, SinkContract, pinned
from support.nights import configured, night
from support.stores import sync
from support.wide import widen

import embsync
from embsync.config import MilvusConfig
from embsync.delivery.kinds import open_sink
from embsync.delivery.queries import probe_queries
from embsync.delivery.steps import deliver
from embsync.errors import SinkConflict, SinkError, SinkUnavailable, UsageError

pytestmark = pytest.mark.services("pymilvus", "milvus_lite")


def side_in(client: Any, collection: str, side: str) -> ServedSide:
    """Return a side as readers see it."""
    fields = ["key", "id", "vector", "live", "age", "labels"]
    rows = client.query(collection, filter="age >= 0", output_fields=fields, partition_names=[side], limit=10_000)
    rows = sorted(rows, key=lambda row: row["id"] if isinstance(row["id"], int) else row["id"].encode())
    columns = {name: [row[name] for row in rows] for name in fields}
    vectors = np.array(columns["vector"], np.float32)
    return ServedSide(columns["id"], vectors, columns["live"], columns["age"], columns["labels"])


def simple_collection(client: Any, name: str) -> None:
    """Make a collection of another program."""
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

    def test_readers_get_the_measured_recall(self, tmp_path: Path) -> None:
        """The probe waits for the index, since rows that are not yet indexed are compared exactly."""
        root = sync_large(tmp_path / "store")
        with pinned(root) as version:
            sink = self.sink()
            sink.stage(version)
            probe, queries = sink.probe(version), probe_queries(version)
            sink.commit(version.number, None)
            hits = self.client.search(
                "embsync", data=queries.vectors.tolist(), anns_field="vector", limit=queries.k, filter="live == true",
                partition_names=["items"], output_fields=["id"], search_params={"params": dict(probe.search)},
            )  # fmt: skip
            found = queries.recall([[hit["entity"]["id"] for hit in some] for some in hits])
            assert found == pytest.approx(probe.recall, abs=0.01)
            assert 0.95 <= probe.recall < 1


def sync_large(root: Path) -> Path:
    """Publish enough items that an approximate search misses some."""
    sync(root, night(0, items=4000, users=250, width=32), "n0", configured(index__recall_at=10))
    return root


SECRET = "hunter22-nobody-may-see"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://127.0.0.1:1", SinkUnavailable),
        (f"http://user:{SECRET}@127.0.0.1:19530", UsageError),
        ("milvus.db", UsageError),
    ],
)
def test_a_wrong_url_is_refused(
    url: str, kind: type[Exception], stores: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no server, contains a password, or is a file, which pymilvus would serve itself."""
    monkeypatch.setattr("embsync.delivery.milvus.connection._CONNECT_SECONDS", 0.5)
    sink = open_sink(MilvusConfig(name="test", url=url))
    with pinned(stores("plain")) as version, pytest.raises(kind) as caught:
        sink.check(version)
    assert caught.value.hint or kind is UsageError
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_refused_token_is_in_no_message(
    stores: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No error contains the token; since the library gives no reason, the hint names both possible ones."""
    import grpc

    class Refusal(grpc.GenericRpcHandler):
        def service(self, call: Any) -> Any:
            def refuse(request: bytes, context: Any) -> bytes:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, f"auth check failure for {SECRET}")
                return request

            return grpc.unary_unary_rpc_method_handler(refuse)

    (tmp_path / "token").write_text(f"{SECRET}\n")
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Refusal(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sink = open_sink(MilvusConfig(name="test", url=f"http://127.0.0.1:{port}", token_file=str(tmp_path / "token")))
    with pinned(stores("plain")) as version, pytest.raises(SinkUnavailable) as caught:
        sink.check(version)
    server.stop(None)
    assert "token_file" in str(caught.value.hint)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert capfd.readouterr() == ("", "")


def test_a_width_that_milvus_cannot_hold_is_refused(milvus: str, milvus_client: Any, tmp_path: Path) -> None:
    """The error is one line, before any row is written; the largest supported width is delivered."""
    sync(tmp_path / "store", night(0, items=30, users=20), "wide", configured(index__recall_at=5))
    sink = open_sink(MilvusConfig(name="test", url=milvus))
    widen(tmp_path / "store", 32_769)
    with pytest.raises(SinkError, match="vectors of a width that Milvus cannot hold") as caught:
        deliver(sink, tmp_path / "store", 3)
    assert (caught.value.found, caught.value.expected) == (32_769, "2 to 32,768")
    assert "\n" not in str(caught.value)
    assert milvus_client.list_collections() == []
    widen(tmp_path / "store", 32_768)
    assert deliver(sink, tmp_path / "store", 3).version == 1
    sink.close()


def test_a_collection_whose_index_is_still_being_written_is_loaded_again(
    milvus: str, stores: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading is retried after filling and before reading the description; a lasting error is reported."""
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    load_once, fails = MilvusClient.load_collection, itertools.cycle([True, False])

    def load(client: MilvusClient, *arguments: Any, **named: Any) -> None:
        if next(fails):
            raise MilvusException(message="'ret == (1)' failed: read error in vector.hnsw.idx: 0 != 1 (File exists)")
        load_once(client, *arguments, **named)

    monkeypatch.setattr("embsync.delivery.milvus.collection._LOAD_PAUSES", (0.0,) * 7)
    monkeypatch.setattr(MilvusClient, "load_collection", load)
    sink = open_sink(MilvusConfig(name="test", url=milvus))
    with pinned(stores("plain")) as version:
        sink.stage(version)
    assert [one.complete for one in sink.generations()] == [True]
    fails = itertools.repeat(True)
    with pytest.raises(SinkError, match="read error in vector"):
        sink.generations()
    sink.close()


def test_a_publisher_that_died_during_a_switch_is_overtaken(
    milvus: str, milvus_client: Any, stores: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abandoned second alias prevents neither a commit nor the removal of its version."""
    monkeypatch.setattr("embsync.delivery.milvus.sink._ABANDONED", 0.3)
    sink = open_sink(MilvusConfig(name="test", url=milvus))
    for number in (1, 2):
        with pinned(stores("plain"), number) as version:
            sink.stage(version)
    milvus_client.create_alias("embsync_1", "embsync_switching")
    sink.commit(2, None)
    assert (sink.current(), milvus_client.list_aliases()["aliases"]) == (2, ["embsync"])
    milvus_client.create_alias("embsync_1", "embsync_switching")
    sink.drop(1)
    assert [one.number for one in sink.generations()] == [2]
    sink.close()


@pytest.mark.parametrize("alias", ["embsync", "embsync_switching"])
def test_an_alias_of_another_program_is_left_alone(
    alias: str, milvus: str, milvus_client: Any, stores: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias is refused by the check and by the commit, and not taken for one that a publisher abandoned."""
    monkeypatch.setattr("embsync.delivery.milvus.sink._ABANDONED", 0.3)
    sink = open_sink(MilvusConfig(name="test", url=milvus))
    milvus_client.create_collection("theirs", dimension=4)
    with pinned(stores("plain")) as version:
        sink.stage(version)
        milvus_client.create_alias("theirs", alias)
        for refused in (lambda: sink.check(version), lambda: sink.commit(3, None)):
            with pytest.raises(SinkConflict, match="found theirs"):
                refused()
    assert milvus_client.describe_alias(alias)["collection_name"] == "theirs"
    assert milvus_client.list_aliases()["aliases"] == [alias]
    sink.close()


def test_a_foreign_collection_with_the_name_of_the_lock_is_refused(
    milvus: str, milvus_client: Any, stores: Callable[[str], Path]
) -> None:
    """If it is made after the check, the commit fails instead of waiting for it."""
    sink = open_sink(MilvusConfig(name="test", url=milvus))
    with pinned(stores("plain")) as version:
        sink.stage(version)
        milvus_client.create_collection("embsync_switching", dimension=4)
        for refused in (lambda: sink.check(version), lambda: sink.commit(3, None)):
            with pytest.raises(SinkConflict, match="found embsync_switching"):
                refused()
    assert "embsync_switching" in milvus_client.list_collections()
    sink.close()


def test_a_partly_created_collection_is_replaced(
    milvus: str, milvus_client: Any, stores: Callable[[str], Path]
) -> None:
    """A collection without a description does not name its store; the next run recreates or drops it."""
    sink = open_sink(MilvusConfig(name="test", url=milvus))
    with pinned(stores("plain")) as version:
        for finish in (lambda: sink.drop(3), lambda: deliver(sink, stores("plain"), 3)):
            sink.stage(version)
            milvus_client.drop_partition("embsync_3", "generation")
            assert [(one.fingerprint, one.complete) for one in sink.generations()] == [("", False)]
            finish()
            assert all(one.complete for one in sink.generations())
    assert sink.current() == 3
    sink.close()


def test_filters_on_labels_work(milvus: str, milvus_client: Any, stores: Callable[[str], Path]) -> None:
    """The documented expressions match the items that ``where=`` matches in Python."""
    sink = open_sink(MilvusConfig(name="test", url=milvus))
    conditions: list[tuple[str, dict[str, Any]]] = [
        ('labels["genre"] == "müsli"', {"genre": "müsli"}),
        ('labels["price"] >= 2.5 and labels["price"] <= 20', {"price": {"min": 2.5, "max": 20}}),
        ('json_contains(labels["tags"], "t1") and labels["stock"] == true', {"tags": "t1", "stock": True}),
    ]
    with pinned(stores("labelled")) as version:
        sink.stage(version)
        sink.commit(version.number, None)
        for condition, where in conditions:
            found = milvus_client.query(
                "embsync", filter=f"live == true and {condition}", output_fields=["id"], partition_names=["items"]
            )
            ids, _ = version.search(version.users.vectors[:1], len(version.items), where=where)
            assert sorted(row["id"] for row in found) == sorted(ids[0].tolist()), condition
    sink.close()
