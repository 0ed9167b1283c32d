"""Readers of databases that check each answer against the store: version, users and items must belong together.

``python -m support.sink_readers KIND STORE PLACE…`` reads until its standard input ends, and prints its counts.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from embsync.reader import Version, open_version

K = 10


class Answers:
    """Counts answers of a single version, and mixed ones."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.counts: Counter[str] = Counter()
        self._versions: dict[int, Version] = {}

    def version(self, number: int) -> Version:
        """Return a version of the store, opened once."""
        if number not in self._versions:
            self._versions[number] = open_version(self.root, number)
        return self._versions[number]

    def check(self, number: int, user: Any, items: list[Any], scores: list[float]) -> None:
        """Count an answer: the scores must be those of this version's user and items, and the items near the best."""
        version = self.version(number)
        assert version.users is not None
        known = all(item in version.items for item in items) and user in version.users
        if known:
            vector = version.users.lookup([user])[0]
            expected = version.items.lookup(items) @ vector
            known = len(items) == K and np.allclose(scores, expected, rtol=1e-4, atol=1e-5)
        self.counts["right" if known else "mixed"] += 1
        self.counts[f"version {number}"] += 1


def users_of_all(root: Path) -> list[Any]:
    """Return ids that every version of a store has."""
    numbers = sorted(int(path.name) for path in (root / "versions").iterdir())
    with open_version(root, numbers[0], indexed=False) as first, open_version(root, numbers[-1], indexed=False) as last:
        assert first.users is not None
        assert last.users is not None
        ids = first.users.names(np.arange(len(first.users))).tolist()
        return [id_ for id_ in ids if id_ in last.users]


def function(answers: Answers, users: list[Any], connection: Any) -> Callable[[], None]:
    """Read by one call of ``search``."""

    def read() -> None:
        user = random.choice(users)
        rows = connection.execute("SELECT version, item_id, score FROM embsync.search(%s, %s)", (user, K)).fetchall()
        assert len({row[0] for row in rows}) == 1, rows
        answers.check(rows[0][0], user, [row[1] for row in rows], [row[2] for row in rows])

    return read


def views(answers: Answers, users: list[Any], connection: Any) -> Callable[[], None]:
    """Read by one statement over both views, an exact search."""
    statement = (
        "SELECT v.version, i.id, -(i.vector <#> u.vector) AS score FROM embsync.current_version AS v,"
        " embsync.current_items AS i, embsync.current_users AS u WHERE u.id = %s AND i.live"
        f" ORDER BY score DESC LIMIT {K}"
    )

    def read() -> None:
        user = random.choice(users)
        rows = connection.execute(statement, (user,)).fetchall()
        answers.check(rows[0][0], user, [row[1] for row in rows], [row[2] for row in rows])

    return read


def two_statements(answers: Answers, users: list[Any], connection: Any, isolation: str) -> Callable[[], None]:
    """Read the user with one statement and its items with another one, in one transaction."""

    def read() -> None:
        user = random.choice(users)
        with connection.transaction():
            connection.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
            (number, vector), *_ = connection.execute(
                "SELECT version, vector FROM embsync.current_users WHERE id = %s", (user,)
            ).fetchall()
            rows = connection.execute(
                "SELECT item_id, score FROM embsync.search_vector(%s::vector, %s)", (vector, K)
            ).fetchall()
        answers.check(number, user, [row[0] for row in rows], [row[1] for row in rows])

    return read


def milvus(answers: Answers, users: list[Any], client: Any, once: bool) -> Callable[[], None]:
    """Read by the name to which the alias points, or by the alias in each call."""

    def read() -> None:
        user = random.choice(users)
        name = client.describe_alias("embsync")["collection_name"]
        place = name if once else "embsync"
        vector = client.get(place, ids=[f"users:{user}"], output_fields=["vector"])[0]["vector"]
        hits = client.search(
            place, data=[vector], anns_field="vector", limit=K, partition_names=["items"], filter="live == true",
            output_fields=["id"], search_params={"params": {"ef": 64}},
        )[0]  # fmt: skip
        ids, scores = [hit["entity"]["id"] for hit in hits], [hit["distance"] for hit in hits]
        answers.check(int(name.rpartition("_")[2]), user, ids, scores)

    return read


@contextmanager
def reading(kind: str, root: Path, place: list[str]) -> Iterator[tuple[Answers, Callable[[], None]]]:
    """Yield the counts, and a function that reads once more."""
    answers, users = Answers(root), users_of_all(root)
    if kind.startswith("milvus"):
        from pymilvus import MilvusClient

        client = MilvusClient(uri=place[0])
        yield answers, milvus(answers, users, client, kind == "milvus")
        client.close()
        return
    import psycopg

    with psycopg.connect(place[0], password=Path(place[1]).read_text().strip(), autocommit=True) as connection:
        if kind in ("function", "views"):
            yield answers, {"function": function, "views": views}[kind](answers, users, connection)
        else:
            yield answers, two_statements(answers, users, connection, kind)


def main(kind: str, root: str, *place: str) -> None:
    """Read until the standard input ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with reading(kind, Path(root), list(place)) as (answers, read):
        while not ended.is_set():
            try:
                read()
            except Exception as error:
                answers.counts["errors"] += 1
                answers.counts[f"{type(error).__name__}: {error}"[:300]] += 1
            if sum(answers.counts[name] for name in ("right", "mixed", "errors")) == 1:
                print("ready", flush=True)
        print(json.dumps(answers.counts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
