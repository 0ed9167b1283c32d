"""Recall of rotated IVF lists over nights, with fixed or updated centroids, compared with rebuilt lists.

Five real retrainings in turn, the same enlarged, and synthetic ones (`rotation_worlds.py`). Of each night: recall of
the ten best with the ``nprobe`` that a rebuilt index needs for 0.95, the ``nprobe`` that each needs itself, and
processor seconds of one thread that it took.

    python benchmarks/lists.py [--goodbooks ../shared/data/goodbooks] [--rows 30000] [--nights 1 5 10]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from rotation import METRIC, TARGET, Chain, K, recall_with
from rotation_worlds import Night, enlarged, goodbooks, lasting, retrainings

from embsync.index.build import build
from embsync.index.gate import RecallGate
from embsync.index.ground_truth import exact_neighbours
from embsync.index.live_rows import LiveVectors, live_vectors
from embsync.index.rotate import rotate
from embsync.index.threads import faiss_threads

WIDTH, COSINE, TIMES = 64, 0.86, 6


@contextlib.contextmanager
def centroids_kept() -> Iterator[None]:
    """Rotate without moving the centroids."""
    with mock.patch.object(sys.modules[rotate.__module__], "move_centroids"):
        yield


#: Ways to rotate an index, by the name of the column.
WAYS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "centroids kept": centroids_kept,
    "moved by one step": contextlib.nullcontext,
}


def aging(world: str, nights: Iterable[Night], factory: str, shown: list[int]) -> None:
    """Rotate an index in each way through the nights; print a line for the nights in ``shown``."""
    chains: dict[str, Chain] = {}
    for number, night in enumerate(nights):
        live = live_vectors(night.vectors, np.arange(night.ids.size), METRIC)
        spent = {}
        for name, way in WAYS.items():
            if number == 0:
                chains[name] = Chain(build(factory, live, METRIC), night.ids)
                continue
            began = time.process_time()
            with way():
                chains[name].advance(night, live)
            spent[name] = time.process_time() - began
        if number in shown:
            print(f"| {world}, {factory} | {number} | {' | '.join(compared(chains, night, live, factory, spent))} |")


def compared(
    chains: dict[str, Chain], night: Night, live: LiveVectors, factory: str, spent: dict[str, float]
) -> Iterator[str]:
    """Yield a cell for a rebuilt index, and one for each way."""
    began = time.process_time()
    index = build(factory, live, METRIC)
    seconds = time.process_time() - began
    gate = RecallGate(live, night.queries, exact_neighbours(live, night.queries, K, METRIC), METRIC, TARGET)
    rebuilt = gate.judge(index, live.rows)
    yield f"{rebuilt.recall:.3f} at {rebuilt.search['nprobe']}, {seconds:.2f} s"
    for name, chain in chains.items():
        rows = chain.rows(night)
        recall, own = recall_with(gate, chain.index, rows, rebuilt.search), gate.judge(chain.index, rows)
        yield f"{recall:.3f}, {own.search['nprobe']}, {spent[name]:.2f} s"


def main() -> None:
    """Print the table."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "goodbooks"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goodbooks", type=Path, default=shared)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--nights", type=int, nargs="+", default=[1, 5, 10])
    options = parser.parse_args()
    nights, last = options.nights, max(options.nights)
    print(f"| | night | rebuilt | {' | '.join(WAYS)} |\n| --- | --- | --- |{' --- |' * len(WAYS)}")
    with faiss_threads(1):
        real = [stable for stable, _ in goodbooks(options.goodbooks, last)]
        aging("goodbooks", real, "IVF256,Flat", nights)
        aging(f"enlarged {TIMES} times", enlarged(real, TIMES, lasting(options.goodbooks)), "IVF512,Flat", nights)
        made = retrainings(options.rows, WIDTH, COSINE, last)
        aging(f"synthetic, {COSINE}", made, "IVF512,Flat", nights)


if __name__ == "__main__":
    main()
