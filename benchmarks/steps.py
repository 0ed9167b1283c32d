"""Where a night's publish spends its processor time: the steps of both passes in one thread, without an index.

Each step is a function, whose seconds are counted without those of steps within it; the run with the least sum counts.

    python benchmarks/steps.py [--shapes 1200000x64] [--repeats 3]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from publish import shape
from threadpoolctl import threadpool_limits
from workload import Size, write_nights

from embsync.alignment import anchors, certified, drift, gram, moments, two_pass
from embsync.config_loader import load
from embsync.pipeline import Request, publish_snapshot, references, run
from embsync.snapshots.row_digest import RowDigest
from embsync.store import Store
from embsync.store.staging import ArrayFile

#: Where a step's function is looked up, its name there, and what it does.
STEPS: tuple[tuple[Any, str, str], ...] = (
    (run, "fit", "first pass: all else"),
    (two_pass, "sum_side", "Gram matrix"),
    (gram, "_cross", "cross-Gram matrix with the anchors"),
    (anchors.Blend, "__getitem__", "anchors gathered"),
    (two_pass, "standardize", "SVDs of both sides"),
    (two_pass, "align", "rotations, of all and without each fold"),
    (two_pass, "sum_judged", "sums of the judged rows"),
    (two_pass, "out_of_sample_fit", "cosines of the judged rows"),
    (two_pass, "_with_axes", "axes and columns"),
    (run, "write_sides", "second pass: all else"),
    (certified.SampledNeighbours, "observe", "scan of the items for the neighbours of the sampled users"),
    (two_pass, "written_block", "map in float64, rounding, sums of the residual"),
    (drift.DriftMeter, "observe", "drift, with the parent's rows mapped back"),
    (drift.DriftMeter, "result", "medians and percentiles of drift"),
    (ArrayFile, "put", "rows written to the file, and their check sums"),
    (RowDigest, "update", "hash of the rows"),
    (references, "advance", "next anchors"),
    (moments.Moments, "observe", "moments"),
)


class Clock:
    """Processor seconds of this thread by step, without those of nested steps."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._within: list[float] = []

    def timed(self, label: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its seconds counted under ``label``."""

        @functools.wraps(work)
        def run_(*given: Any, **named: Any) -> Any:
            began = time.thread_time()
            self._within.append(0.0)
            try:
                return work(*given, **named)
            finally:
                took = time.thread_time() - began
                self.spent[label] += took - self._within.pop()
                if self._within:
                    self._within[-1] += took

        return run_


@contextlib.contextmanager
def counted() -> Iterator[Clock]:
    """Count the steps while the context is active."""
    clock = Clock()
    with contextlib.ExitStack() as stack:
        for place, name, label in STEPS:
            stack.enter_context(mock.patch.object(place, name, clock.timed(label, getattr(place, name))))
        yield clock


def measured(nights: tuple[Path, Path], work: Path, repeats: int) -> Counter[str]:
    """Return the seconds of each step of the second night."""
    config = load(environment={"EMBSYNC_THREADS": "1", "EMBSYNC_INDEX__FACTORY": "Flat"})
    store = Store(work / "S")
    publish_snapshot(store, Request(nights[0]), config)
    runs = []
    for _ in range(repeats):
        with counted() as clock:
            made = publish_snapshot(store, Request(nights[1]), config)
        runs.append(clock.spent)
        store.rollback(1)
        shutil.rmtree(store.path(made.version))
    return min(runs, key=lambda spent: sum(spent.values()))


def main() -> None:
    """Print a table of each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", type=shape, default=[shape("1200000x64")])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for rows, width in options.shapes:
        with tempfile.TemporaryDirectory() as work, threadpool_limits(1):
            nights = write_nights(Path(work), Size(rows - rows // 6, rows // 6, width))
            spent = measured(nights, Path(work), options.repeats)
        print(f"\n| {rows:,} x {width} | processor s of {sum(spent.values()):.2f} |\n| --- | --- |")
        for _, _, label in STEPS:
            if label in spent:
                print(f"| {label} | {spent[label]:.3f} |")


if __name__ == "__main__":
    main()
