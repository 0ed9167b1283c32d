"""Time and memory of a publish beside what a team would write instead, in one run.

Peers, in memory (`recipes.py`): the plain recipe, and what an expert makes of it. Neither writes, hashes or
certifies anything. Each has the second night's arrays and the first night's stable vectors, and joins their ids;
embsync has its anchors. With `--spark`, also the alignment by pyspark's local mode, from parquet to parquet without
its start (`spark_recipe.py`), and unless the index is exact, bare FAISS that builds an `HNSW32` as it comes. Best of
alternating pairs, wall and processor seconds; the second night is published `--repeats` times, after a rollback each.

    python benchmarks/publish.py [--shapes 1200000x128] [--repeats 5] [--factory Flat] [--directory DIR] [--json]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import recipes
from pairs import Cost, best
from workload import Size, write_nights

import embsync

STAGES = ("read", "align", "write", "index", "recall", "publish")
ALLOWED_BYTES = 300_000_000
ALLOWED_BYTES_A_ROW = 48
#: Judged rows with their anchors, sums of the folds, products of blocks, and the memory of each worker's SVD.
ALLOWED_MATRICES = 90


def in_turn(nights: tuple[Path, Path], repeats: int, *, graph: bool, spark: bool) -> dict[str, Cost]:
    """Time the recipes and ``embsync.stabilize`` on the second night, in turn."""
    (items, users), (items_now, users_now) = (_load(night) for night in nights)
    before = recipes.reference(items, users)
    first = embsync.stabilize(items.vectors, users.vectors, item_ids=items.ids, user_ids=users.ids)
    anchors = first.anchors
    del items, users, first

    def own() -> None:
        embsync.stabilize(
            items_now.vectors, users_now.vectors, item_ids=items_now.ids, user_ids=users_now.ids, anchors=anchors
        )

    works: dict[str, Callable[[], object]] = {
        "plain": lambda: recipes.plain(items_now, users_now, before),
        "expert": lambda: recipes.expert(items_now, users_now, before),
        "in_memory": own,
    }
    if spark:
        works["spark"] = importlib.import_module("spark_recipe").job(
            nights[0].parent / "spark", items_now, users_now, before
        )
    if graph:
        works["HNSW32"] = lambda: _graph(items_now.vectors)
    return dict(zip(works, best(list(works.values()), repeats), strict=True))


def _graph(vectors: np.ndarray) -> None:
    faiss.index_factory(vectors.shape[1], "HNSW32", faiss.METRIC_INNER_PRODUCT).add(vectors)


def _load(night: Path) -> tuple[recipes.Table, recipes.Table]:
    items, users = (
        recipes.Table(np.load(night / f"{name}s.npy"), np.load(night / f"{name}_ids.npy")) for name in ("item", "user")
    )
    return items, users


def publish(nights: tuple[Path, Path], store: Path, factory: str = "auto", repeats: int = 1) -> dict[str, Any]:
    """Publish the first night once and the second one ``repeats`` times, in a process each.

    Returns the figures of the second night's fastest publish without its index, the least processor seconds of the
    process, and the highest peak of RssAnon.
    """
    environment = {**os.environ, "EMBSYNC_INDEX__FACTORY": factory}
    peak, found = _sync(nights[0], store, environment)[0], []
    for _ in range(repeats):
        peak_now, processor = _sync(nights[1], store, environment)
        peak = max(peak, peak_now)
        with embsync.open(store) as opened:
            manifest = opened.current.manifest
        seconds = manifest["seconds"]
        without = seconds["total"] - seconds["index"] - seconds["recall"]
        found.append({**seconds, "publish_without_index": without, "processor": processor})
        roll_back = [sys.executable, "-m", "embsync", "rollback", "1", "--store", str(store)]
        subprocess.run(roll_back, check=True, stdout=subprocess.DEVNULL)
    return {
        **min(found, key=lambda one: one["publish_without_index"]),
        "processor": min(one["processor"] for one in found),
        "peak_anonymous": peak,
        "score_error": manifest["preservation"]["score_error"],
        "action": manifest["index"]["action"],
        "factory": manifest["index"]["factory"],
    }


def _sync(night: Path, store: Path, environment: dict[str, str]) -> tuple[int, float]:
    """Publish a night; return the peak of RssAnon and the processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = _peak_anonymous([sys.executable, "-m", "embsync", "sync", str(night), "--store", str(store)], environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return peak, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _peak_anonymous(command: list[str], environment: dict[str, str]) -> int:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    peak, done = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.005):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                return
            for line in status.splitlines():
                if line.startswith("RssAnon:"):
                    peak = max(peak, int(line.split()[1]) * 1024)

    watcher = threading.Thread(target=sample)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return peak


def shape(text: str) -> tuple[int, int]:
    """Parse ``1200000x128``: rows of both sides, and width."""
    rows, _, width = text.partition("x")
    return int(rows), int(width)


def main() -> None:
    """Run everything and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=shape, nargs="+", default=[shape("275000x64"), shape("1200000x128")])
    parser.add_argument("--factory", default="auto", help="index of the published versions")
    parser.add_argument("--directory", type=Path, help="where to work; default: a temporary directory")
    parser.add_argument("--repeats", type=int, default=5, help="pairs, of which the best count")
    parser.add_argument("--spark", action="store_true", help="pyspark's local mode as another peer")
    parser.add_argument("--skip-peers", action="store_true", help="the publish alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for rows, width in options.shapes:
        with tempfile.TemporaryDirectory(dir=options.directory) as work:
            nights = write_nights(Path(work), Size(rows - rows // 6, rows // 6, width))
            found = publish(nights, Path(work) / "store", options.factory, options.repeats)
            peers = {}
            if not options.skip_peers:
                graph = "Flat" not in found["factory"]
                peers = in_turn(nights, options.repeats, graph=graph, spark=options.spark)
        result = {
            "rows": rows,
            "width": width,
            **found,
            "allowed_anonymous": ALLOWED_BYTES + ALLOWED_BYTES_A_ROW * rows + ALLOWED_MATRICES * 8 * width**2,
            "peers": {name: asdict(spent) for name, spent in peers.items()},
        }
        results.append(result)
        if not options.json:
            _print(result, peers)
    if options.json:
        print(json.dumps(results, indent=2))


def _print(result: dict[str, Any], peers: dict[str, Cost]) -> None:
    print(f"{result['rows']:,} rows (one item to five users) x {result['width']} float32")
    peak, allowed = result["peak_anonymous"] / 1e6, result["allowed_anonymous"] / 1e6
    print(f"  peak RssAnon           {peak:8.0f} MB  (allowed {allowed:.0f})")
    steps = ", ".join(f"{name} {result[name]:.2f}" for name in STAGES)
    print(f"  publish                {result['total']:8.2f} s   ({steps}; {result['factory']} {result['action']})")
    without = result["publish_without_index"]
    faster = f"   plain takes {peers['plain'].wall / without:.1f} times that" if peers else ""
    processor = f"{result['processor']:8.2f} processor s, with the index and the start"
    print(f"  publish without index  {without:8.2f} s   {processor}{faster}")
    for name, spent in peers.items():
        faster = [f"{peers['plain'].wall / spent.wall:.1f}", f"{peers['plain'].processor / spent.processor:.1f}"]
        beside = f"plain takes {' and '.join(faster)} times that"
        print(f"  {name:<21}  {spent.wall:8.2f} s   {spent.processor:8.2f} processor s   {beside}")


if __name__ == "__main__":
    main()
