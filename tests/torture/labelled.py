"""Versions whose items and labels are functions of two numbers, and searches whose results can be checked with them."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.nights import Night, configured, night, write_npy

import embsync
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.relabel import relabel
from embsync.reader import Version
from embsync.store import Store

SIZES = {"items": 900, "users": 120, "width": 8}
NAMES = ("turn", "genre", "stock", "price", "tags")
CONFIG = configured(snapshot__labels=list(NAMES), store__keep_versions=2, index__factory="HNSW16")
#: Users of the first nights, and two unknown ones.
USERS = [*range(2000, 2000 + 7 * 160, 7), -5, -6]


def labels_of(item: int, turn: int) -> dict[str, Any]:
    """Return the labels of an item."""
    return {
        "turn": turn,
        "genre": "abc"[(item + turn) % 3],
        "stock": (item // 7 + turn) % 2 == 0,
        "price": None if item % 11 == 0 else item * (turn + 1) % 100 / 2,
        "tags": [f"t{place}" for place in range(4) if (item + turn) >> place & 1],
    }


@lru_cache(4)
def made(number: int) -> Night:
    """Return a night."""
    return night(number, **SIZES)


@lru_cache(8)
def catalogue(number: int, turn: int) -> dict[int, dict[str, Any]]:
    """Return the labels of each item of a night."""
    return {item: labels_of(item, turn) for item in made(number).item_ids.tolist()}


def _table(number: int, turn: int) -> pa.Table:
    columns = {name: [one[name] for one in catalogue(number, turn).values()] for name in NAMES}
    return pa.table({"item_id": list(catalogue(number, turn)), **columns})


def publish(root: Path, number: int, turn: int) -> int:
    """Publish a night with labels, and return its version."""
    path = write_npy(root.parent / "snapshots" / f"n{number}", made(number))
    pq.write_table(_table(number, turn), path / "item_labels.parquet")
    return publish_snapshot(Store(root, wait=60.0), Request(path), CONFIG).version


def change_labels(root: Path, number: int, turn: int) -> int:
    """Publish the current version, made from this night, with other labels, and return its number."""
    file = root.parent / "labels.parquet"
    pq.write_table(_table(number, turn), file)
    return relabel(Store(root, wait=60.0), file, CONFIG).version


def meets(labels: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Return whether labels meet conditions, as documented."""
    for name, condition in where.items():
        value = labels[name]
        if isinstance(condition, dict):
            if value is None or not condition.get("min", value) <= value <= condition.get("max", value):
                return False
        else:
            wanted = condition if isinstance(condition, list) else [condition]
            there = set(value) & set(wanted) if isinstance(value, list) else value in wanted
            if not there:
                return False
    return True


@dataclass(frozen=True)
class Question:
    """A search by ids or vectors, with any filters."""

    kind: str
    asked: list[Any]
    k: int
    where: dict[str, Any] | None
    allowed: list[list[int] | None] | None
    blocked: list[list[int] | None] | None

    @classmethod
    def any(cls, chance: random.Random, items: list[int]) -> Question:
        """Return a random search."""
        kind = chance.choice(["users", "items", "vectors"])
        count = chance.randint(1, 4)
        asked: list[Any] = chance.choices({"users": USERS, "items": items, "vectors": [0]}[kind], k=count)
        if kind == "vectors":
            asked = [[chance.gauss(0, 1) for _ in range(SIZES["width"])] for _ in asked]
        conditions = {
            "genre": chance.choice(["a", ["b", "c"], "nothing"]),
            "stock": chance.choice([True, False]),
            "price": chance.choice([{"min": 5, "max": 20}, {"max": 1}, None, {"min": 10}]),
            "tags": chance.choice(["t1", ["t0", "t3"]]),
        }
        where = {name: conditions[name] for name in chance.sample(list(conditions), chance.randint(0, 3))}

        def lists(longest: int) -> list[list[int] | None] | None:
            if chance.random() < 0.5:
                return None
            some = [chance.choices(items, k=chance.randint(0, longest)) for _ in range(count)]
            return [None if chance.random() < 0.3 else one for one in some]

        k = chance.choice([1, 5, 10, 50, 200])
        return cls(kind, asked, k, where or None, lists(300) if chance.random() < 0.5 else None, lists(100))

    def fields(self) -> dict[str, Any]:
        """Return the fields of a request."""
        filters = {"where": self.where, "allowed": self.allowed, "blocked": self.blocked}
        return {self.kind: self.asked, "k": self.k, **{name: one for name, one in filters.items() if one is not None}}

    def wrong(
        self, number: int, turn: int, known: Iterable[bool | None], hits: list[list[tuple[int, float]]]
    ) -> str | None:
        """Return what is wrong with hits per query; ``known`` says whether a queried id is known, None if it may be."""
        items = catalogue(number, turn)
        meeting = {item for item, labels in items.items() if meets(labels, self.where or {})}
        for place, (is_known, found) in enumerate(zip(known, hits, strict=True)):
            findable = set(meeting)
            if self.allowed is not None and self.allowed[place] is not None:
                findable &= set(self.allowed[place] or ())
            if self.blocked is not None and self.blocked[place] is not None:
                findable -= set(self.blocked[place] or ())
            if self.kind == "items":
                findable.discard(self.asked[place])
            ids = [item for item, _ in found]
            if set(ids) - findable:
                return f"query {place}: {sorted(set(ids) - findable)[:5]} may not be found: {self}"
            lengths = {True: {min(self.k, len(findable))}, False: {0}, None: {0, min(self.k, len(findable))}}[is_known]
            if len(ids) != len(set(ids)) or len(ids) not in lengths:
                return f"query {place}: {len(ids)} of {len(findable)} that may be found: {self}"
            scores = [score for _, score in found]
            if scores != sorted(scores, reverse=True):
                return f"query {place}: scores do not descend: {self}"
        return None


def of_version(version: Version) -> tuple[int, int]:
    """Return the two numbers from which a version's items and labels follow."""
    live = version.items.ids[version.items.live]
    return int(version.record.snapshot.name[1:]), int(version.labels_of(live[:1], ["turn"])["turn"][0])


def ask(version: Version, chance: random.Random) -> str | None:
    """Run a random search and look up the labels of all items; return what is wrong."""
    number, turn = of_version(version)
    items = catalogue(number, turn)
    live = version.items.ids[version.items.live].tolist()
    if set(live) != set(items):
        return f"version {version.number} has other items than night {number}"
    question = Question.any(chance, live)
    given = {name: one for name, one in question.fields().items() if name not in (question.kind, "k")}
    if question.kind == "vectors":
        known = [True] * len(question.asked)
        ids, scores = version.search(question.asked, question.k, **given)
    else:
        side = version.side(question.kind)
        known = [one in side for one in question.asked]
        search = version.search_by_item if question.kind == "items" else version.search_by_user
        ids, scores = search(question.asked, question.k, missing="nan", **given)
    hits = [
        [(item, score) for item, score in zip(*row, strict=True) if score != float("-inf")]
        for row in zip(ids.tolist(), scores.tolist(), strict=True)
    ]
    shown = version.labels_of(live)
    for name in NAMES:
        if shown[name] != [items[item][name] for item in live]:
            return f"version {version.number} has other labels {name} than turn {turn}"
    return question.wrong(number, turn, known, hits)


def memory() -> int:
    """Return the anonymous resident memory of this process in bytes."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) << 10


def main() -> None:
    """Follow a store and search it until the input ends; print counts, versions, memory and what is wrong."""
    root, chance, versions = sys.argv[1], random.Random(sys.argv[2]), set()
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    with embsync.open(root) as store:
        follower = store.follow(interval=0.05)
        asked = 0
        while not (over.is_set() and asked):
            version = store.current
            wrong = ask(version, chance)
            asked += 1
            versions.add(version.number)
            wrong = wrong or (None if follower.error is None else str(follower.error))
            if wrong is not None or asked % 20 == 1:  # and the first: a slow machine runs few searches
                print(asked, len(versions), memory(), wrong or "", sep="\t", flush=True)
