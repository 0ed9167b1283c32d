"""The sink of kind ``postgresql``: a schema with tables partitioned by version, and one pointer row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import LiteralString

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb

from embsync.config import PostgresqlConfig
from embsync.delivery.postgresql.connection import Connection, connect, place_of, translated
from embsync.delivery.postgresql.loading import create_schema, load
from embsync.delivery.postgresql.removal import remove
from embsync.delivery.postgresql.requirements import extension_schema, is_ours, require
from embsync.delivery.postgresql.schema import MOST_EF_SEARCH, lists_for
from embsync.delivery.queries import ProbeQueries, probe_queries
from embsync.delivery.sink import Generation, Probe, moved, require_same
from embsync.errors import SinkError
from embsync.ids import sample
from embsync.index.points import cheapest
from embsync.reader import Side, Version

#: Queries per statement of a probe, so that no statement takes long.
_QUERIES = 50
#: Rows of a side that a probe compares with the store.
_COMPARED = 100


class PostgresqlSink:
    """A schema in a PostgreSQL database with pgvector; see :class:`embsync.delivery.sink.Sink`.

    A generation has three committed states: ``loading`` (its tables are not attached to the partitioned ones yet),
    ``complete`` (they are attached) and ``dropping``. If a process dies in the first or the last, the next one removes
    the tables.
    """

    def __init__(self, config: PostgresqlConfig) -> None:
        self._config = config
        self._open: Connection | None = None

    def check(self, version: Version) -> tuple[str, ...]:
        """Refuse what the database cannot hold; see :func:`embsync.delivery.postgresql.requirements.require`."""
        with self._connected() as connection:
            require(connection, self._config, version)
        return ()

    def generations(self) -> list[Generation]:
        """Return the versions in the table ``generations``."""
        with self._connected() as connection:
            if not is_ours(connection, self._config):
                return []
            query = self._sql(
                "SELECT version, fingerprint, state = 'complete', space_id, created, search FROM {} ORDER BY version",
                "generations",
            )
            rows = connection.execute(query)
            return [Generation(*row) for row in rows.fetchall()]

    def current(self) -> int | None:
        """Return the version in the pointer row."""
        with self._connected() as connection:
            return self._pointer(connection) if is_ours(connection, self._config) else None

    def stage(self, version: Version) -> None:
        """Load a version into tables of its own, index and attach them."""
        with self._connected() as connection, self._alone(connection):
            schema = create_schema(connection, self._config, version)
            state = self._state(connection, version)
            if state == "complete":
                return
            if state is not None:
                remove(connection, self._config, version.number)
            load(connection, self._config, schema, version)

    def probe(self, version: Version) -> Probe:
        """Compare counts and sampled rows with the store, and find the smallest effort that reaches the target."""
        queries = probe_queries(version)
        with self._connected() as connection:
            if not is_ours(connection, self._config) or self._state(connection, version) != "complete":
                raise self._not_staged(version.number)
            counted = [self._compared(connection, side, version.number) for side in version.sides]
            knob, low, most = "ef_search", queries.k, MOST_EF_SEARCH
            if self._config.index == "ivfflat":
                knob, low, most = "probes", 1, lists_for(version.record.items.live)
            measure = cache(lambda effort: self._recall(connection, version.number, queries, effort))
            effort = cheapest(measure, low, most, queries.target) if len(queries) else min(most, 64)
            recall = measure(effort) if len(queries) else None
            connection.execute(
                self._sql("UPDATE {} SET search = %s, k = %s, recall = %s WHERE version = %s", "generations"),
                (Jsonb({knob: effort}), queries.k, recall, version.number),
            )
        users = counted[1] if len(counted) > 1 else None
        return Probe(counted[0], users, queries.k, recall, queries.target, {knob: effort})

    def commit(self, number: int, expected: int | None) -> None:
        """Change the pointer row, if it names the expected version."""
        with self._connected() as connection:
            if not is_ours(connection, self._config):
                raise self._not_staged(number)
            with connection.transaction():
                locked = self._sql("SELECT state FROM {} WHERE version = %s FOR SHARE", "generations")
                if connection.execute(locked, (number,)).fetchone() != ("complete",):
                    raise self._not_staged(number)
                swap = self._sql("UPDATE {} SET version = %s WHERE version IS NOT DISTINCT FROM %s", "pointer")
                if connection.execute(swap, (number, expected)).rowcount == 0:
                    raise moved(place_of(self._config), self._pointer(connection), expected)

    def drop(self, number: int) -> None:
        """Detach a version's tables without stopping readers, and drop them."""
        with self._connected() as connection, self._alone(connection):
            if is_ours(connection, self._config):
                remove(connection, self._config, number)

    def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Provide the connection, reopened if it is broken; errors of PostgreSQL are raised as embsync's."""
        if self._open is None or self._open.closed:
            self._open = connect(self._config)
        with translated(self._config):
            yield self._open

    @contextlib.contextmanager
    def _alone(self, connection: Connection) -> Iterator[None]:
        """Exclude other publishers from staging and dropping; the lock ends with the connection."""
        key = ("SELECT {}(hashtextextended(%s, 0))", (f"embsync {self._config.schema}",))
        connection.execute(key[0].format("pg_advisory_lock"), key[1])
        try:
            yield
        finally:
            if not connection.closed:
                connection.execute(key[0].format("pg_advisory_unlock"), key[1])

    def _state(self, connection: Connection, version: Version) -> str | None:
        """Return the state of a version, None if it does not exist; refuse one of another store."""
        query = self._sql("SELECT state, fingerprint FROM {} WHERE version = %s", "generations")
        row = connection.execute(query, (version.number,)).fetchone()
        if row is None:
            return None
        hint = "each store needs a schema of its own (delivery.sinks: schema)"
        require_same(version, row[1], place_of(self._config), hint)
        return str(row[0])

    def _compared(self, connection: Connection, side: Side, number: int) -> int:
        """Return the number of rows of a side, after comparing it and some rows with the store."""
        count = self._sql("SELECT count(*), count(*) FILTER (WHERE live) FROM {} WHERE version = %s", side.name)
        found = connection.execute(count, (number,)).fetchone()
        expected = (len(side), len(side.live_rows()))
        if found != expected:
            raise self._different(f"{side.name} of version {number}", f"rows, live: {found}", f"{expected}")
        rows = sample(side.ids[:], _COMPARED)
        ids = side.names(rows)
        query = self._sql(
            "SELECT id, vector::real[] FROM {} WHERE version = %s AND id = ANY(%s) ORDER BY id", side.name
        )
        stored = connection.execute(query, (number, ids.tolist())).fetchall()
        if [row[0] for row in stored] != ids.tolist() or not np.array_equal(
            np.array([row[1] for row in stored], np.float32), side.vectors[rows]
        ):
            raise self._different(f"{side.name} of version {number}", "other vectors", f"those of {len(ids)} ids")
        return int(found[0])

    def _recall(self, connection: Connection, number: int, queries: ProbeQueries, effort: int) -> float:
        """Return the recall of all queries with one effort."""
        extension = sql.Identifier(extension_schema(connection, self._config), "vector")
        query = sql.SQL(
            "SELECT array_agg(f.item_id ORDER BY f.score DESC, f.item_id) FROM unnest(%s::text[]) WITH ORDINALITY"
            " AS q(query, place) CROSS JOIN LATERAL {}(%s, q.query::{}, %s, %s) AS f GROUP BY q.place ORDER BY q.place"
        ).format(sql.Identifier(self._config.schema, "search_version"), extension)
        found: list[list[object]] = []
        for start in range(0, len(queries), _QUERIES):
            texts = [str(row) for row in queries.vectors[start : start + _QUERIES].tolist()]
            found += [row[0] for row in connection.execute(query, (texts, number, queries.k, effort)).fetchall()]
        return queries.recall(found) or 0.0

    def _pointer(self, connection: Connection) -> int | None:
        row = connection.execute(self._sql("SELECT version FROM {}", "pointer")).fetchone()
        return None if row is None else row[0]

    def _different(self, what: str, found: str, expected: str) -> SinkError:
        return SinkError(
            f"{what} differ from the store",
            where=place_of(self._config),
            found=found,
            expected=expected,
            hint="was the schema changed by another program? drop it, and the next run recreates it",
        )

    def _not_staged(self, number: int) -> SinkError:
        return SinkError(f"version {number} is not staged completely", where=place_of(self._config))

    def _sql(self, text: LiteralString, table: str) -> sql.Composed:
        return sql.SQL(text).format(sql.Identifier(self._config.schema, table))
