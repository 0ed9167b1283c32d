"""What a search costs through embsync and through bare FAISS, on a new index and on a rotated one.

Two nights are published; the first version's index is built, the second's is rotated. Asked in turn, with one thread,
the best of each: ``version.search``; ``index.search`` of FAISS on the same file with the same effort, which also finds
dead labels and returns labels, not ids; and ``index.search`` of ``HNSW32`` as most people build it, with the effort
that gives it the recall of ours.

    python benchmarks/searching.py [--rows 100000] [--width 64] [--repeats 25]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from workload import Size, write_nights

import embsync
from embsync.config_loader import load
from embsync.index.gate import RecallGate
from embsync.index.ground_truth import exact_neighbours
from embsync.index.layers import search_parameters
from embsync.index.live_rows import LiveVectors, live_vectors
from embsync.pipeline import Request, publish_snapshot
from embsync.reader import Version
from embsync.store import Store

K, QUERIES, SINGLES = 10, 1000, 200
METRIC = "inner_product"


def plain(live: LiveVectors, queries: np.ndarray, target: float) -> tuple[Callable[[np.ndarray], object], str]:
    """Return the search of an index with common settings, and its recall."""
    index = faiss.index_factory(live.width, "HNSW32", faiss.METRIC_INNER_PRODUCT)
    index.add(live.at(live.rows))
    gate = RecallGate(live, queries, exact_neighbours(live, queries, K, METRIC), METRIC, target)
    tuning = gate.judge(index, live.rows)
    parameters = search_parameters(index, tuning.search)
    return lambda asked: index.search(asked, K, params=parameters), f"{tuning.recall:.3f} at {tuning.search}"


def same_file(version: Version) -> Callable[[np.ndarray], object]:
    """Return the search of bare FAISS on the version's file."""
    index = faiss.read_index(str(version.path / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    parameters = search_parameters(index, version.record.index.search)
    return lambda asked: index.search(asked, K, params=parameters)


def processor(work: Callable[[], object]) -> float:
    """Return the processor seconds of this process that ``work`` took."""
    began = time.process_time()
    work()
    return time.process_time() - began


def compared(version: Version, repeats: int) -> None:
    """Print the times of batches and single queries."""
    assert version.users is not None
    queries = np.ascontiguousarray(version.users.vectors[version.users.live][:QUERIES])
    live = live_vectors(np.asarray(version.items.vectors), np.flatnonzero(version.items.live), METRIC)
    report = version.record.index
    usual, reached = plain(live, queries, report.target_recall)
    ways = {
        "embsync": lambda asked: version.search(asked, K),
        "FAISS, the same file": same_file(version),
        f"FAISS, plain HNSW32 ({reached})": usual,
    }
    singles = [queries[place : place + 1] for place in range(SINGLES)]
    batch, single = (dict.fromkeys(ways, np.inf) for _ in range(2))
    for _ in range(repeats):
        for name, way in ways.items():
            way(queries)  # the previous one has filled the CPU cache with another index
            batch[name] = min(batch[name], processor(lambda way=way: way(queries)))
            single[name] = min(single[name], processor(lambda way=way: [way(one) for one in singles]) / SINGLES)
    bare = "FAISS, the same file"
    print(
        f"\n{report.action}: {len(live.rows):,} x {live.width}, {report.dead} dead labels of {report.labels}, recall "
        f"{report.recall_at_10:.3f} at {dict(report.search)}\n"
    )
    print(f"| | {QUERIES} queries, ms | over bare | one query, us | over bare, us |\n| --- | --- | --- | --- | --- |")
    for name in ways:
        print(
            f"| {name} | {1e3 * batch[name]:.2f} | {100 * (batch[name] / batch[bare] - 1):+.1f} % "
            f"| {1e6 * single[name]:.1f} | {1e6 * (single[name] - single[bare]):+.1f} |",
            flush=True,
        )


def main() -> None:
    """Publish two nights and compare on each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--keep", type=Path, help="work here, and use the store that is here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = options.keep or Path(temporary)
        root = place / "S"
        if not root.exists():
            config = load(environment={}, options={"index": {"factory": "HNSW32"}})
            for night in write_nights(place, Size(options.rows // 10, options.rows, options.width)):
                publish_snapshot(Store(root), Request(night), config)
        faiss.omp_set_num_threads(1)
        with embsync.open(root) as reader:
            for number in reader.numbers():
                with reader.version(number) as version:
                    compared(version, options.repeats)


if __name__ == "__main__":
    main()
