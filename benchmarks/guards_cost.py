"""What judging the fit costs: processor seconds of stabilizing with and without it, in turn, each its best.

Every row has an anchor but one in a hundred, which costs most. Without: no row is judged, so there are no sums by fold,
no maps by fold, and no figures of cosines, axes and columns.

    python benchmarks/guards_cost.py [--rows 100000] [--width 64] [--anchors 100000] [--repeats 25] [--publish]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from guards import MEMORY, configuration
from workload import Size, write_nights

import embsync
from embsync.alignment.anchors import ReferenceRows
from embsync.alignment.gram import Pairing
from embsync.config import DEFAULT_LIMITS
from embsync.dtypes import Array, RowNumbers
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

_PAIRED = Pairing.of


def _judge_nothing(positions: RowNumbers, anchors: ReferenceRows, ids: Array) -> Pairing:
    return Pairing(positions, anchors, np.empty(0, np.int64), np.empty(0, np.uint8))


def in_turn(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the least processor seconds of ``work`` with and without judging."""
    taken: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * (repeats + 1)):
        judging = number % 2 == 0
        Pairing.of = _PAIRED if judging else _judge_nothing
        began = time.process_time()
        work()
        if number > 1:  # the first pair is a warm-up
            taken[judging].append(time.process_time() - began)
    Pairing.of = _PAIRED
    return min(taken[True]), min(taken[False])


def stabilizing(nights: tuple[Path, Path], anchor_rows: int) -> Callable[[], object]:
    """Return a function that stabilizes the second night in memory."""
    arrays = [
        [np.load(night / f"{name}.npy") for name in ("items", "users", "item_ids", "user_ids")] for night in nights
    ]
    first, second = ({"item_ids": ids, "user_ids": names} for _, _, ids, names in arrays)
    anchors = embsync.stabilize(*arrays[0][:2], **first, anchor_rows=anchor_rows, threads=1).anchors
    options = {"anchors": anchors, "anchor_rows": anchor_rows, "threads": 1, "check": False}
    return lambda: embsync.stabilize(*arrays[1][:2], **second, **options)


def publishing(nights: tuple[Path, Path], root: Path, anchor_rows: int) -> Callable[[], object]:
    """Return a function that publishes the second night with an exact index, and rolls it back."""
    config = configuration(**{"space.anchors.rows": anchor_rows})
    store = Store(root)
    publish_snapshot(store, Request(nights[0]), config)

    def work() -> None:
        made = publish_snapshot(store, Request(nights[1], tuple(DEFAULT_LIMITS)), config)
        store.rollback(1)
        shutil.rmtree(store.path(made.version))

    return work


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="users, and as many items up to 200,000")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--anchors", type=int, default=100_000, help="space.anchors.rows")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument(
        "--publish", action="store_true", help="time the whole publish instead, index and fsync included"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="embsync-cost-", dir=MEMORY if MEMORY.is_dir() else None) as place:
        nights = write_nights(Path(place), Size(given.rows, min(given.rows, 200_000), given.width))
        if given.publish:
            work = publishing(nights, Path(place) / "S", given.anchors)
        else:
            work = stabilizing(nights, given.anchors)
        judged, not_judged = in_turn(work, given.repeats)
    what = "publish" if given.publish else "stabilize"
    print(
        f"{given.rows:,} x {given.width}, {given.anchors:,} anchors a side, {what}: "
        f"{judged:.3f} s with, {not_judged:.3f} s without: {judged / not_judged - 1:.1%}"
    )


if __name__ == "__main__":
    main()
