"""Stores with which every kind of sink is tested; they are published once and only read."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.milvus import running_milvus
from support.nights import Night, configured, night
from support.postgresql import PostgresqlServer, running_postgresql
from support.stores import sync

sys.path.insert(0, str(Path(__file__).parent))
from servers import KEY, SECRET, S3Server, moto, program, rclone

pytest.register_assert_rewrite("contract")

#: Enough to distinguish rows, and few enough for any sink.
_SIZES = {"items": 120, "users": 90}


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a store by name: plain (three nights, with carried rows), named, one_sided, other, new_space, labelled."""
    made: dict[str, Path] = {}

    def store(name: str) -> Path:
        if name not in made:
            made[name] = _publish(tmp_path_factory.mktemp(name) / "store", name)
        return made[name]

    return store


def _labels(name: str) -> list[str]:
    return ["genre", "price", "stock", "count", "tags"] if name == "labelled" else []


def _write_labels(folder: Path, made: Night) -> None:
    """Write labels of every type beside a night, with nulls and with characters that JSON and databases must escape."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    ids = made.item_ids.tolist()
    columns = {
        "genre": [("müsli", 'a "b"\\', "x\0y", None, "")[id_ // 7 % 5] for id_ in ids],
        "price": [None if id_ % 11 == 0 else math.inf if id_ % 13 == 0 else id_ % 100 / 4 for id_ in ids],
        "stock": [None if id_ % 5 == 0 else id_ % 2 == 0 for id_ in ids],
        "count": [None if id_ % 5 == 1 else 2**60 + id_ for id_ in ids],
        "tags": [None if id_ % 5 == 2 else [f"t{place}" for place in range(3) if id_ >> place & 1] for id_ in ids],
    }
    pq.write_table(pa.table({"item_id": ids, **columns}), folder / "item_labels.parquet")


def _publish(root: Path, name: str) -> Path:
    nights = [night(number, **_SIZES, seed=9 if name == "other" else 7, churn=0.1) for number in range(3)]
    change: dict[str, Callable[[Night], Night]] = {"named": Night.named, "one_sided": Night.one_sided}
    config = configured(space__standardize=name != "one_sided", index__recall_at=5, snapshot__labels=_labels(name))
    for number, made in enumerate(map(change.get(name, lambda made: made), nights)):
        if name == "labelled":
            _write_labels(root.parent / "snapshots" / f"day={number}", made)
        sync(root, made, f"day={number}", config)
    if name == "new_space":
        sync(root, night(7, **_SIZES, seed=11), "day=7", config, new_space=True)
    return root


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 endpoint with conditional writes."""
    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 endpoint without conditional writes."""
    if not Path(program("rclone")).exists():
        pytest.skip("rclone not installed (extra 'test-services')")
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the credentials of these servers, and none of a cloud."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A server with pgvector, one for all tests of a worker."""
    with running_postgresql() as running:
        yield running


@pytest.fixture
def database(postgresql: PostgresqlServer) -> Iterator[str]:
    """The name of an empty database with pgvector."""
    with postgresql.database() as name:
        yield name


@pytest.fixture(scope="session")
def milvus_server() -> Iterator[str]:
    """The URL of a server with the Milvus API, one for all tests of a worker."""
    with running_milvus() as url:
        yield url


@pytest.fixture
def milvus_client(milvus_server: str) -> Iterator[Any]:
    """A reader's connection to a server without collections; what a test leaves there is dropped."""
    from pymilvus import MilvusClient

    connection = MilvusClient(uri=milvus_server)
    yield connection
    for name in connection.list_collections():
        connection.drop_collection(name)
    connection.close()


@pytest.fixture
def milvus(milvus_server: str, milvus_client: Any) -> str:
    """The URL of a server without collections."""
    return milvus_server
