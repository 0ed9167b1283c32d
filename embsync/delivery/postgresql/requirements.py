"""What a database needs before a version is loaded; each refusal says what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
from psycopg import sql

from embsync.config import PostgresqlConfig
from embsync.delivery.postgresql.connection import Connection, place_of
from embsync.delivery.postgresql.schema import FORMAT, MADE_BY, WIDEST_HALFVEC, WIDEST_VECTOR, id_type, partition_name
from embsync.errors import SinkConflict, SinkError
from embsync.reader import Version
from embsync.rows import block_rows

#: Oldest server, for ``DETACH PARTITION … CONCURRENTLY`` and ``client_connection_check_interval``.
_OLDEST_SERVER = 140_000
#: Oldest pgvector, for iterative index scans.
_OLDEST_EXTENSION = (0, 8)
_LARGEST_HALF = float(np.finfo(np.float16).max)


def extension_schema(connection: Connection, config: PostgresqlConfig) -> str:
    """Return the schema that pgvector is in.

    Raises
    ------
    SinkError
        It is not in this database, or too old.
    """
    found = connection.execute(
        "SELECT extversion, extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    if found is None:
        raise SinkError("the database has no pgvector", where=place_of(config), hint="CREATE EXTENSION vector")
    if tuple(map(int, found[0].split(".")[:2])) < _OLDEST_EXTENSION:
        raise SinkError(
            "pgvector is too old",
            where=place_of(config),
            found=found[0],
            expected=".".join(map(str, _OLDEST_EXTENSION)),
            hint="ALTER EXTENSION vector UPDATE",
        )
    return str(found[1])


def exists(connection: Connection, config: PostgresqlConfig) -> bool:
    """Return whether a schema of that name exists, created by embsync or not."""
    return bool(_value(connection, "SELECT to_regnamespace(%s) IS NOT NULL", f'"{config.schema}"'))


def is_ours(connection: Connection, config: PostgresqlConfig) -> bool:
    """Return whether the schema was created by embsync; False if it is missing or empty.

    Raises
    ------
    SinkConflict
        It contains something that embsync did not create.
    SinkError
        Its format is that of a later release.
    """
    columns = _column_types(connection, config.schema, "pointer")
    if {"one", "made_by", "format", "version"} <= columns.keys():
        pointer = sql.Identifier(config.schema, "pointer")
        row = connection.execute(sql.SQL("SELECT made_by, format FROM {}").format(pointer)).fetchone()
        if row is not None and row[0] == MADE_BY:
            if row[1] != FORMAT:
                raise SinkError(
                    "the schema has another format", where=place_of(config), found=row[1], expected=FORMAT,
                    hint="if a later release created it, use that release",
                )  # fmt: skip
            return True
    objects = _objects_in(connection, config.schema)
    if objects:
        raise SinkConflict(
            "the schema was not created by embsync",
            where=place_of(config),
            found=", ".join(objects[:3]),
            expected="none, or an empty one",
            hint="choose another name (delivery.sinks: schema)",
        )
    return False


def require_free(connection: Connection, config: PostgresqlConfig, version: Version) -> None:
    """Refuse a new version if another program has a table with the name of one of its partitions.

    Raises
    ------
    SinkConflict
        There is such a table.
    """
    for side in version.sides:
        name = partition_name(side.name, version.number)
        if _value(connection, "SELECT to_regclass(%s) IS NOT NULL", f'"{config.schema}"."{name}"'):
            raise SinkConflict(
                "a table that embsync did not create",
                where=place_of(config),
                found=name,
                expected=f"no {name} before version {version.number} is loaded",
                hint="move it into another schema",
            )


def require(connection: Connection, config: PostgresqlConfig, version: Version) -> None:
    """Refuse a version that the database cannot hold, or that may not be delivered there.

    Raises
    ------
    SinkError
        The server, pgvector, the permissions or the limits of an index do not allow it.
    SinkConflict
        The schema belongs to another program or store.
    """
    where = place_of(config)
    if connection.info.server_version < _OLDEST_SERVER:
        found = connection.info.server_version // 10_000
        raise SinkError(
            "PostgreSQL is too old", where=where, found=found, expected=f"{_OLDEST_SERVER // 10_000} or newer"
        )
    if _value(connection, "SELECT pg_is_in_recovery()"):
        raise SinkError("a standby server", where=where, hint="deliver to the primary server")
    extension_schema(connection, config)
    _require_permission(connection, config)
    _require_width(config, version)
    if "text" in map(id_type, version.sides) and (found := _value(connection, "SHOW server_encoding")) != "UTF8":
        raise SinkError("the database cannot hold every string id", where=where, found=found, expected="encoding UTF8")
    if is_ours(connection, config):
        _require_sides(connection, config, version)


def _require_permission(connection: Connection, config: PostgresqlConfig) -> None:
    """Refuse a user that may not create what is needed."""
    there = exists(connection, config)
    may = (
        _value(connection, "SELECT has_schema_privilege(%s, 'CREATE')", config.schema)
        if there
        else _value(connection, "SELECT has_database_privilege(current_database(), 'CREATE')")
    )
    if not may:
        user = connection.info.user
        raise SinkError(
            f"user {user} may not create tables there" if there else f"user {user} may not create the schema",
            where=place_of(config),
            hint=f"GRANT CREATE, USAGE ON SCHEMA {config.schema} TO {user}"
            if there
            else f"CREATE SCHEMA {config.schema} AUTHORIZATION {user}",
        )


def _require_width(config: PostgresqlConfig, version: Version) -> None:
    """Refuse vectors with too many dimensions, or with values too large for an index of 16-bit numbers."""
    width = version.record.dimension
    if width > WIDEST_HALFVEC:
        raise SinkError(
            "vectors too wide for an index of pgvector",
            where=place_of(config),
            found=width,
            expected=f"at most {WIDEST_HALFVEC:,}",
            hint="limit space.dimension",
        )
    if not uses_halfvec(config, width):
        return
    vectors, step = version.items.vectors, block_rows(width)
    largest = max(float(np.abs(vectors[start : start + step]).max()) for start in range(0, len(vectors), step))
    if largest > _LARGEST_HALF:
        raise SinkError(
            "numbers too large for halfvec",
            where=place_of(config),
            found=f"{largest:g}",
            expected=f"at most {_LARGEST_HALF:g}",
            hint=f"halfvec: false, for up to {WIDEST_VECTOR:,} numbers",
        )


def _require_sides(connection: Connection, config: PostgresqlConfig, version: Version) -> None:
    """Refuse a store whose sides or id types differ from those of the store that the schema was created for."""
    expected: dict[str, str] = {side.name: id_type(side) for side in version.sides}
    found = {
        name: columns["id"]
        for name in ("items", "users")
        if "id" in (columns := _column_types(connection, config.schema, name))
    }
    if found != expected:
        raise SinkConflict(
            "the schema was created for another store",
            where=place_of(config),
            found=_ids(found),
            expected=_ids(expected),
            hint="choose another name (delivery.sinks: schema)",
        )


def _ids(types: dict[str, str]) -> str:
    return ", ".join(f"{name} with {kind} ids" for name, kind in types.items())


def uses_halfvec(config: PostgresqlConfig, width: int) -> bool:
    """Return whether the index has 16-bit numbers."""
    return config.halfvec or width > WIDEST_VECTOR


def _column_types(connection: Connection, schema: str, table: str) -> dict[str, str]:
    """Return the types of a table's columns by name; empty if there is no such table."""
    rows = connection.execute(
        "SELECT a.attname, a.atttypid::regtype::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_attribute a ON a.attrelid = c.oid WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0"
        " AND NOT a.attisdropped AND c.relkind IN ('r', 'p')",
        (schema, table),
    ).fetchall()
    return dict(rows)


def _objects_in(connection: Connection, schema: str) -> list[str]:
    """Return the names of the tables, views, functions and types in a schema."""
    rows = connection.execute(
        "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace(%(name)s)"
        " UNION SELECT proname::text FROM pg_proc WHERE pronamespace = to_regnamespace(%(name)s)"
        " UNION SELECT typname::text FROM pg_type WHERE typnamespace = to_regnamespace(%(name)s)"
        " AND typcategory <> 'A' ORDER BY 1",
        {"name": f'"{schema}"'},
    ).fetchall()
    return [name for (name,) in rows]


def _value(connection: Connection, query: Any, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]
