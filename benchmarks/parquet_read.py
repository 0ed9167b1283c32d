"""One pass of ours over parquet of 1M x 128 float32, against what pyarrow alone needs to read the same columns.

Both read the files once before, so that the system's file cache is warm, and take turns; medians are printed. pyarrow
is timed in the two ways it is used: streaming batches, as we do, and ``read_table``, which holds everything in memory.

    python benchmarks/parquet_read.py [--rows 1000000] [--passes 7]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embsync.config import SnapshotConfig
from embsync.rows import block_rows
from embsync.snapshots import open_snapshot

WIDTH = 128


def write(folder: Path, rows: int) -> dict[str, Path]:
    """Write the same table in three layouts of files."""
    matrix = np.random.default_rng(0).standard_normal((rows, WIDTH)).astype(np.float32)
    offsets = np.arange(0, rows * WIDTH + 1, WIDTH, dtype=np.int32)
    table = pa.table({"id": np.arange(rows), "features": pa.ListArray.from_arrays(offsets, matrix.reshape(-1))})
    pq.write_table(table, folder / "one_row_group.parquet")
    pq.write_table(table, folder / "ten_row_groups.parquet", row_group_size=rows // 10)
    (folder / "parts").mkdir()
    for part in range(8):
        start, end = part * rows // 8, (part + 1) * rows // 8
        pq.write_table(table.slice(start, end - start), folder / "parts" / f"part-{part}.parquet")
    return {path.name: path for path in sorted(folder.iterdir())}


def files_of(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def stream_with_pyarrow(path: Path) -> None:
    for file in files_of(path):
        with pq.ParquetFile(file) as opened:
            for _ in opened.iter_batches(block_rows(WIDTH), columns=["features"]):
                pass


def table_with_pyarrow(path: Path) -> None:
    for file in files_of(path):
        pq.read_table(file, columns=["features"])


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--passes", type=int, default=7)
    chosen = parser.parse_args()
    rows, passes = chosen.rows, chosen.passes
    with tempfile.TemporaryDirectory() as folder:
        for name, path in write(Path(folder), rows).items():
            side = open_snapshot(path, SnapshotConfig()).items
            ways: dict[str, Callable[[], None]] = {
                "ours": lambda side=side: [None for _ in side.blocks()] and None,
                "batches": lambda path=path: stream_with_pyarrow(path),
                "table": lambda path=path: table_with_pyarrow(path),
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(passes + 1):
                for way, work in ways.items():
                    times[way].append(seconds(work))
            median = {way: statistics.median(taken[1:]) for way, taken in times.items()}
            print(
                f"{name}: ours {median['ours']:.3f} s, pyarrow batches {median['batches']:.3f} s, "
                f"read_table {median['table']:.3f} s; ratio to batches {median['ours'] / median['batches']:.2f}, "
                f"to read_table {median['ours'] / median['table']:.2f}"
            )


if __name__ == "__main__":
    main()
