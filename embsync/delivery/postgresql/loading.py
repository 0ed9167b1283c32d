"""Loading a version into separate tables, which are then attached to the partitioned ones."""

from __future__ import annotations

from psycopg import sql

from embsync.config import PostgresqlConfig
from embsync.delivery.postgresql.binary_copy import HEADER, TRAILER, encoded
from embsync.delivery.postgresql.connection import Connection
from embsync.delivery.postgresql.requirements import exists, extension_schema, is_ours, require_free, uses_halfvec
from embsync.delivery.postgresql.schema import Schema
from embsync.delivery.rows import row_blocks
from embsync.delivery.sink import fingerprint_of
from embsync.reader import Side, Version


def create_schema(connection: Connection, config: PostgresqlConfig, version: Version) -> Schema:
    """Create the schema with tables, views and functions in one transaction, unless it exists; return it."""
    schema = Schema(config.schema, extension_schema(connection, config))
    if is_ours(connection, config):
        return schema
    with connection.transaction():
        # An ordinary user may use pgvector's settings only after its library is loaded.
        connection.execute(sql.SQL("SELECT '[1]'::{}.vector").format(sql.Identifier(schema.extension)))
        if not exists(connection, config):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(config.schema)))
        connection.execute(schema.contents(version))
    return schema


def load(connection: Connection, config: PostgresqlConfig, schema: Schema, version: Version) -> None:
    """Load a version that is not in the database at all: its record, rows and indexes; then mark it as complete.

    Each step is committed separately.
    """
    require_free(connection, config, version)
    number, record = version.number, version.record
    halfvec = uses_halfvec(config, record.dimension)
    _begin(connection, config, schema, version, halfvec)
    search_index = schema.search_index(config.index, halfvec, record.dimension, record.index.metric, record.items.live)
    for side in version.sides:
        _copy(connection, schema, version, side)
        connection.execute(schema.indexes(side, number, search_index if side.name == "items" else None))
    with connection.transaction():
        for side in version.sides:
            connection.execute(schema.attached(side.name, number))
        connection.execute(
            sql.SQL("UPDATE {} SET state = 'complete' WHERE version = %s").format(schema.table("generations")),
            (number,),
        )


def _begin(connection: Connection, config: PostgresqlConfig, schema: Schema, version: Version, halfvec: bool) -> None:
    """Record the version as being loaded."""
    record = version.record
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (version, state, fingerprint, space_id, created, dimension, metric, index, halfvec,"
            " target_recall) VALUES (%s, 'loading', %s, %s, %s, %s, %s, %s, %s, %s)"
        ).format(schema.table("generations")),
        (
            version.number,
            fingerprint_of(version),
            record.space_id,
            record.created,
            record.dimension,
            record.index.metric,
            config.index,
            halfvec,
            record.index.target_recall,
        ),
    )


def _copy(connection: Connection, schema: Schema, version: Version, side: Side) -> None:
    """Create the table of a side and fill it, in one transaction, so that its rows need no vacuum (``FREEZE``)."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(schema.created_aside(side, version.number))
        command = sql.SQL("COPY {} FROM STDIN (FORMAT binary, FREEZE)")
        with cursor.copy(command.format(schema.partition(side.name, version.number))) as copy:
            copy.write(HEADER)
            for block in row_blocks(version, side.name):
                for part in encoded(block, version.number):
                    copy.write(part)
            copy.write(TRAILER)
