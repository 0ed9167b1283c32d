"""What filters for each query cost: 1,000 users with 200 blocked items each, against the same search without.

The case 42 of a candidate generator: 20,000 items and 2,000 users of 32 numbers in 30 genres, as a graph and as lists.
Blocked are random items, or the very best of each user. Best of alternating pairs, processor seconds.

    python benchmarks/filters.py [--rounds 9]
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


def written(place: Path) -> Path:
    """Write a snapshot and return its directory."""
    random = np.random.default_rng(42)
    genres = random.normal(size=(30, WIDTH))
    norms = random.lognormal(0, 0.5, (ITEMS, 1))
    items = (genres[random.integers(0, 30, ITEMS)] + 0.7 * random.normal(size=(ITEMS, WIDTH))) * norms
    users = genres[random.integers(0, 30, USERS)] + 0.7 * random.normal(size=(USERS, WIDTH))
    place.mkdir()
    for name, array in (("items", items.astype(np.float32)), ("users", users.astype(np.float32))):
        np.save(place / f"{name}.npy", array)
        np.save(place / f"{name[:-1]}_ids.npy", np.arange(len(array)))
    return place


def seconds(work: Callable[[], Any]) -> float:
    """Return processor seconds."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print("| index | blocked | k | search, ms | times as long |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as directory:
        snapshot = written(Path(directory) / "day=1")
        for factory in ("HNSW32", "IVF128,Flat"):
            root = Path(directory) / factory[:4]
            publish_snapshot(
                Store(root), Request(snapshot), load(environment={}, options={"index": {"factory": factory}})
            )
            with embsync.open(root) as reader:
                version = reader.current
                asked = np.arange(ASKED)
                lists = {
                    "random": np.random.default_rng(0).integers(0, ITEMS, (ASKED, BLOCKED)),
                    "the best of each": version.search_by_user(asked, BLOCKED)[0],
                }
                for name, blocked in lists.items():
                    for k in (10, 100):
                        plain_search = partial(version.search_by_user, asked, k)
                        blocking_search = partial(plain_search, blocked=blocked)
                        runs = [(seconds(plain_search), seconds(blocking_search)) for _ in range(rounds)]
                        plain, filtered = (min(column) for column in zip(*runs, strict=True))
                        print(f"| {factory} | {name} | {k} | {1e3 * plain:.0f} | {filtered / plain:.2f} |")


if __name__ == "__main__":
    main()
