"""What filters cost: 1,000 users with 200 blocked items each, and a condition on labels, beside the search without.

The case 42 of a candidate generator: 20,000 items and 2,000 users of 32 numbers in 30 genres, as a graph and as lists.
Blocked are random items, or the very best of each user; the last column is one search for k and as many more as are
blocked, from which the blocked ones would be dropped. The condition is one genre of 30, for one query, asked for the
first time and again. Best of alternating pairs, processor seconds.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/filters.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import embsync
from embsync.config_loader import load
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

ITEMS, USERS, WIDTH, ASKED, BLOCKED = 20_000, 2_000, 32, 1_000, 200
_REPEATED = 20


def written(place: Path) -> Path:
    """Write a snapshot and return its directory."""
    random = np.random.default_rng(42)
    genres = random.normal(size=(30, WIDTH))
    norms = random.lognormal(0, 0.5, (ITEMS, 1))
    kinds = random.integers(0, 30, ITEMS)
    items = (genres[kinds] + 0.7 * random.normal(size=(ITEMS, WIDTH))) * norms
    users = genres[random.integers(0, 30, USERS)] + 0.7 * random.normal(size=(USERS, WIDTH))
    place.mkdir()
    for name, array in (("items", items.astype(np.float32)), ("users", users.astype(np.float32))):
        np.save(place / f"{name}.npy", array)
        np.save(place / f"{name[:-1]}_ids.npy", np.arange(len(array)))
    rows = [f"{item},genre {kind}" for item, kind in enumerate(kinds.tolist())]
    (place / "item_labels.csv").write_text("\n".join(["item_id,genre", *rows]))
    return place


def seconds(work: Callable[[], Any]) -> float:
    """Return the processor seconds of ``work``."""
    began = time.process_time()
    work()
    return time.process_time() - began


def blocking(version: embsync.Version, factory: str, rounds: int) -> None:
    """Print the cost of blocked items."""
    asked = np.arange(ASKED)
    lists = {
        "random": np.random.default_rng(0).integers(0, ITEMS, (ASKED, BLOCKED)),
        "the best of each": version.search_by_user(asked, BLOCKED)[0],
    }
    for name, blocked in lists.items():
        for k in (10, 100):
            plain = partial(version.search_by_user, asked, k)
            ways = (plain, partial(plain, blocked=blocked), partial(version.search_by_user, asked, k + BLOCKED))
            runs = [[seconds(way) for way in ways] for _ in range(rounds)]
            bare, filtered, more = (1e3 * min(column) for column in zip(*runs, strict=True))
            print(f"| {factory} | {name} | {k} | {bare:.1f} | {filtered:.1f} | {filtered / bare:.1f} | {more:.1f} |")


def repeated(work: Callable[[], Any]) -> None:
    """Call ``work`` several times, as one call is shorter than the resolution of the clock."""
    for _ in range(_REPEATED):
        work()


def condition(version: embsync.Version, factory: str, rounds: int) -> str:
    """Return the cost of a condition on labels, the first time and again."""
    query = version.users.vectors[:1] if version.users is not None else version.items.vectors[:1]
    plain = partial(version.search, query, 10)
    filtered = partial(plain, where={"genre": "genre 7"})

    def first() -> None:
        version.matches.cache_clear()
        filtered()

    ways: list[Callable[[], Any]] = [plain, first, filtered]
    runs = [[seconds(partial(repeated, way)) / _REPEATED for way in ways] for _ in range(rounds)]
    return f"| {factory} | " + " | ".join(f"{1e6 * min(column):.0f}" for column in zip(*runs, strict=True)) + " |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    conditions = []
    print(f"| index | blocked | k | search, ms | blocked, ms | times as long | k + {BLOCKED}, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as directory:
        snapshot = written(Path(directory) / "day=1")
        for factory in ("HNSW32", "IVF128,Flat"):
            root = Path(directory) / factory[:4]
            options = {"index": {"factory": factory}, "snapshot": {"labels": ["genre"]}}
            publish_snapshot(Store(root), Request(snapshot), load(environment={}, options=options))
            with embsync.open(root) as reader:
                blocking(reader.current, factory, rounds)
                conditions.append(condition(reader.current, factory, rounds))
    print("\n| index | one query, us | with a condition, first | again |\n| --- | --- | --- | --- |")
    print("\n".join(conditions))


if __name__ == "__main__":
    main()
