"""Removing a version: its partitions are detached without stopping readers, and dropped when no transaction uses them.

``DETACH PARTITION … CONCURRENTLY`` waits for every transaction that has read the partitioned table, even an idle one.
If it gives up, the detachment stays pending, and ``FINALIZE`` completes it later; one can be pending at a time.
"""

from __future__ import annotations

from psycopg import errors, sql

from embsync.config import PostgresqlConfig
from embsync.delivery.postgresql.connection import LOCK_SECONDS, Connection, place_of
from embsync.delivery.postgresql.schema import partition_name
from embsync.errors import SinkError, SinkUnavailable
from embsync.sides import NAMES, SideName


def remove(connection: Connection, config: PostgresqlConfig, number: int) -> None:
    """Remove a version that is not current, complete or not; do nothing if it does not exist.

    Raises
    ------
    SinkError
        It is the current one.
    SinkUnavailable
        Readers still use it.
    """
    generations, pointer = (sql.Identifier(config.schema, name) for name in ("generations", "pointer"))
    with connection.transaction():
        served = connection.execute(sql.SQL("SELECT version FROM {} FOR UPDATE").format(pointer)).fetchone()
        if served == (number,):
            raise SinkError("the version is served", where=place_of(config), found=f"version {number}")
        marked = sql.SQL("UPDATE {} SET state = 'dropping' WHERE version = %s").format(generations)
        if connection.execute(marked, (number,)).rowcount == 0:
            return
    try:
        connection.execute(f"SET lock_timeout = {round(1000 * config.drop_seconds)}")
        for name in NAMES:
            _detach(connection, config, name, number)
            partition = sql.Identifier(config.schema, partition_name(name, number))
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(partition))
    except errors.LockNotAvailable:
        raise SinkUnavailable(
            "readers still use an old version",
            where=place_of(config),
            found=f"version {number}, {_holders(connection, config)}",
            hint="end transactions that are idle; its removal is completed later",
        ) from None
    finally:
        connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.execute(sql.SQL("DELETE FROM {} WHERE version = %s").format(generations), (number,))


def _detach(connection: Connection, config: PostgresqlConfig, side: SideName, number: int) -> None:
    """Detach a partition, after completing a detachment that is pending, of any version."""
    parent = sql.Identifier(config.schema, side)
    attached = connection.execute(
        "SELECT c.relname::text, i.inhdetachpending FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = to_regclass(%s)",
        (f'"{config.schema}"."{side}"',),
    ).fetchall()
    name = partition_name(side, number)
    for other, pending in attached:
        if pending:
            connection.execute(
                sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(
                    parent, sql.Identifier(config.schema, other)
                )
            )
    if (name, False) in attached:
        connection.execute(
            sql.SQL("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY").format(
                parent, sql.Identifier(config.schema, name)
            )
        )


def _holders(connection: Connection, config: PostgresqlConfig) -> str:
    """Return the sessions that hold a lock on a table of the schema, for a message."""
    rows = connection.execute(
        "SELECT DISTINCT a.pid, coalesce(a.usename, 'another user'), coalesce(a.state, 'busy')"
        " FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_stat_activity AS a USING (pid)"
        " WHERE c.relnamespace = to_regnamespace(%s) AND a.pid <> pg_backend_pid() ORDER BY a.pid LIMIT 3",
        (f'"{config.schema}"',),
    ).fetchall()
    return ", ".join(f"process {pid} of {user} ({state})" for pid, user, state in rows) or "none found"
