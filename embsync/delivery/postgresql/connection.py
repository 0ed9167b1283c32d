"""Connections to PostgreSQL; its errors become embsync's, without secrets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeAlias

import psycopg
from psycopg import conninfo

from embsync.config import PostgresqlConfig
from embsync.delivery.secrets import read_secret, remember_secret, without_secrets
from embsync.errors import Hint, SinkError, SinkUnavailable, UsageError

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

#: Seconds to wait for the server's answer, and for a lock that is not held by a reader.
_CONNECT_SECONDS = 10
LOCK_SECONDS = 10
#: Interval at which the server checks whether its client has died; otherwise it would finish building an index first.
_DEATH_NOTICED = "1s"

#: What to do about an error, by its code or the first two characters of the code, and whether a retry may succeed.
_ADVICE: dict[str, tuple[str, bool]] = {
    "08": ("is the server running?", True),
    "53100": ("free space on the server's disk, or lower keep_versions", True),
    "53": ("the server lacks memory or connections", True),
    "55P03": ("another session holds a lock; the call is retried later", True),
    "57": ("the server was stopped, or ended the connection", True),
    "42501": ("GRANT CREATE ON DATABASE, or have the schema created for this user", False),
    "25006": ("deliver to the primary server: this one is read-only", False),
    "40": ("two transactions conflicted; the call is retried later", True),
}


def place_of(config: PostgresqlConfig) -> str:
    """Return the sink's place for messages: host, port, database and schema, without user and password."""
    parts = _parts(config)
    port = parts.get("port")
    host = f"{parts.get('host', 'localhost')}{f':{port}' if port else ''}"
    return f"postgresql://{host}/{parts.get('dbname', '')} schema {config.schema}"


def connect(config: PostgresqlConfig) -> Connection:
    """Connect.

    Raises
    ------
    UsageError
        The URL is malformed or contains a password, or the password cannot be read.
    SinkUnavailable, SinkError
        The server does not answer, or refuses.
    """
    parts = _parts(config)
    password = read_secret("password_file", file=config.password_file)
    if password is not None:
        parts["password"] = password
    remember_secret(os.environ.get("PGPASSWORD", ""))
    parts = {"connect_timeout": _CONNECT_SECONDS, "application_name": "embsync deliver", **parts}
    try:
        connection = psycopg.connect(**parts, autocommit=True)
    except psycopg.Error as error:
        raise _refused(config, error) from None
    with translated(config):
        connection.execute("SET client_encoding = 'UTF8'")
        connection.execute("SET search_path = pg_catalog")
        connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        with contextlib.suppress(psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject):
            connection.execute(f"SET client_connection_check_interval = '{_DEATH_NOTICED}'")
    return connection


def _parts(config: PostgresqlConfig) -> dict[str, Any]:
    """Return the parts of the URL. Messages do not show its text: in a malformed one, the password may be anywhere."""
    try:
        parts: dict[str, Any] = dict(conninfo.conninfo_to_dict(config.url))
    except psycopg.Error:
        raise UsageError(
            "not the URL of a database",
            where=f"delivery.sinks: {config.name}: url",
            expected="postgresql://user@host:port/database",
        ) from None
    if parts.get("password") or "password" in parts:
        raise UsageError(
            "a password in the configuration",
            where=f"delivery.sinks: {config.name}: url",
            expected="postgresql://user@host:port/database",
            hint="put it into a file that only this user reads, and name that as password_file",
        )
    return parts


def _refused(config: PostgresqlConfig, error: psycopg.Error) -> SinkError:
    """Return the error of a failed connection; a server that asked for a password would refuse the next attempt too."""
    text = without_secrets(str(error)).removeprefix("connection failed: ").partition("\n")[0]
    pgconn = getattr(error, "pgconn", None)
    asked = pgconn is not None and (pgconn.needs_password or pgconn.used_password)
    if asked:
        return SinkError(
            "PostgreSQL refuses the connection",
            where=place_of(config),
            found=text,
            hint="check database, user and password (delivery.sinks: url, password_file)",
        )
    return SinkUnavailable(
        "cannot connect to PostgreSQL",
        where=place_of(config),
        found=text,
        hint="are host and port right, and is the server running?",
    )


@contextlib.contextmanager
def translated(config: PostgresqlConfig, hint: Hint | None = None) -> Iterator[None]:
    """Raise errors of PostgreSQL as :class:`SinkError`, or :class:`SinkUnavailable` where a retry may succeed."""
    try:
        yield
    except psycopg.Error as error:
        code = error.sqlstate or ("08" if isinstance(error, psycopg.OperationalError) else "")
        advice, transient = _ADVICE.get(code) or _ADVICE.get(code[:2]) or (None, False)
        kind = SinkUnavailable if transient else SinkError
        raise kind(
            "PostgreSQL reports an error",
            where=place_of(config),
            found=without_secrets(error.diag.message_primary or str(error)),
            hint=hint or advice,
        ) from None
