"""What it costs to hash the parent version while the next one is made from it, as a share of the publish.

Processor seconds of the thread that hashes, of those of the process in the same publish: no other load on the machine
moves them. With the cheapest index the share is the largest.

    python benchmarks/parent_hash.py [--shapes 90000x64 275000x64] [--repeats 3] [--factory Flat] [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from workload import Size, write_nights

from embsync.config import Config
from embsync.config_loader import load
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.parent import ParentCheck
from embsync.store import Store


def measured(store: Path, night: Path, config: Config) -> tuple[float, float]:
    """Publish a night that has a parent; return the processor seconds of hashing it, and of all."""
    hashing, really = [], ParentCheck._hash

    def hashed(check: ParentCheck) -> None:
        began = time.thread_time()
        really(check)
        hashing.append(time.thread_time() - began)

    with mock.patch.object(ParentCheck, "_hash", hashed):
        began = time.process_time()
        publish_snapshot(Store(store), Request(night), config)
        return sum(hashing), time.process_time() - began


def measure(shape: str, repeats: int, factory: str, directory: str | None) -> dict[str, Any]:
    """Publish both nights in turn and measure each publish but the first."""
    rows, width = (int(part) for part in shape.split("x"))
    config = load(environment={}, options={"index.factory": factory, "store.keep_versions": 2})
    with tempfile.TemporaryDirectory(dir=directory) as place:
        nights = write_nights(Path(place), Size(users=rows * 4 // 5, items=rows // 5, width=width))
        publish_snapshot(Store(Path(place) / "S"), Request(nights[0]), config)
        shares = []
        for turn in range(repeats):
            hashing, all_ = measured(Path(place) / "S", nights[(turn + 1) % 2], config)
            shares.append({"hashing_seconds": hashing, "publish_seconds": all_, "share": hashing / all_})
    return {"shape": shape, "factory": factory, "publishes": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["90000x64", "275000x64"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--factory", default="Flat")
    parser.add_argument("--directory")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results = [measure(shape, given.repeats, given.factory, given.directory) for shape in given.shapes]
    if given.json:
        print(json.dumps(results))
        return
    print("rows x width   hashing s   publish s   share")
    for result in results:
        for one in result["publishes"]:
            print(
                f"{result['shape']:<15}{one['hashing_seconds']:>9.3f}{one['publish_seconds']:>12.2f}{one['share']:>8.1%}"
            )


if __name__ == "__main__":
    main()
