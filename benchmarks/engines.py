"""What the Spark engine takes beside the local one on the same rows, and how it grows with the number of partitions.

One session of `local[*]`, started before; items with a flat index. Each number of partitions is that of the input
files, of which Spark reads one a task, of the shuffles and of the part files. Best of a few rounds in turn. With
``--driver``: what the driver's Python takes of `embsync sync --engine spark`, a process a night, from 8 files.

    python benchmarks/engines.py [--users 500000] [--partitions 2 8 32 128] [--rounds 2]
    python benchmarks/engines.py --driver [--users 500000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from workload import Size, write_nights

from embsync.config import AnchorsConfig, Config, EngineConfig, IndexConfig, SpaceConfig
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store


def as_parquet(night: Path, place: Path, files: int) -> Path:
    """Rewrite a night as ``files`` parquet files per side, with one row group each."""
    for side in ("items", "users"):
        (place / side).mkdir(parents=True)
        vectors, ids = np.load(night / f"{side}.npy", mmap_mode="r"), np.load(night / f"{side[:-1]}_ids.npy")
        for number, rows in enumerate(np.array_split(np.arange(len(ids)), files)):
            flat = pa.array(np.ascontiguousarray(vectors[rows]).reshape(-1))
            offsets = pa.array(np.arange(0, len(flat) + 1, vectors.shape[1], dtype=np.int32))
            table = pa.table({"id": ids[rows], "vector": pa.ListArray.from_arrays(offsets, flat)})
            pq.write_table(table, place / side / f"part-{number:05}.parquet", row_group_size=len(rows))
    return place


def configured(partitions: int | None) -> Config:
    """Return the configuration of the local engine, or of Spark with this number of partitions."""
    conf: dict[str, str | int | float | bool] = {"spark.driver.memory": "4g", "spark.ui.enabled": "false"}
    conf["spark.sql.files.openCostInBytes"] = 2**27  # one file per task
    engine = EngineConfig() if partitions is None else EngineConfig(kind="spark", conf=conf, partitions=partitions)
    space = SpaceConfig(anchors=AnchorsConfig(rows=20_000))
    return Config(engine=engine, index=IndexConfig(factory="Flat"), space=space, checks={})


def seconds(nights: list[Path], config: Config) -> list[float]:
    """Publish two nights to a new store and return the seconds of each."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for night in nights:
            began = time.perf_counter()
            publish_snapshot(Store(Path(directory) / "store"), Request(night), config)
            found.append(time.perf_counter() - began)
    return found


def driver(users: int) -> None:
    """Publish two nights in a process each, and print what each took without Java."""
    print("| users | night | seconds | processor seconds of the driver's Python | its peak, resident / anonymous |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name, night in zip(("first", "second"), write_nights(root / "plain", Size(users, 20_000, 64)), strict=True):
            path = as_parquet(night, root / name, 8)
            began = time.perf_counter()
            processor, resident, anonymous = of_driver(path, root / "store")
            rows = len(np.load(night / "user_ids.npy", mmap_mode="r"))
            took = f"{time.perf_counter() - began:.1f} | {processor:.1f}"
            print(f"| {rows:,} | {name} | {took} | {resident / 1024:.0f} / {anonymous / 1024:.0f} MB |")


def of_driver(night: Path, store: Path) -> tuple[float, int, int]:
    """Publish a night; return processor seconds, and the peaks of resident and anonymous memory in KiB."""
    (store.parent / "config.yaml").write_text("index: {factory: Flat}\nengine: {conf: {spark.driver.memory: 4g}}\n")
    command = [sys.executable, "-m", "embsync", "sync", str(night), "--store", str(store), "--engine", "spark"]
    command += ["--config", str(store.parent / "config.yaml")]
    processor, resident, anonymous = 0.0, 0, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.02)
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            found = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "RssAnon"))}
            if found:  # still running
                resident, anonymous = int(found["VmHWM"]), max(anonymous, int(found["RssAnon"]))
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                processor = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    if process.returncode:
        raise SystemExit(f"sync ended with {process.returncode}")
    return processor, resident, anonymous


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--partitions", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--driver", action="store_true", help="measure the driver's Python instead")
    asked = parser.parse_args()
    if asked.driver:
        driver(asked.users)
        return
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        plain = write_nights(root / "plain", Size(asked.users, 20_000, 64))
        nights = {
            count: [as_parquet(night, root / f"{count}" / night.name, count) for night in plain]
            for count in asked.partitions
        }
        ways = [(asked.partitions[0], None), *((count, count) for count in asked.partitions)]
        seconds(nights[asked.partitions[0]], configured(asked.partitions[0]))  # starts Java
        runs = [[seconds(nights[count], configured(way)) for count, way in ways] for _ in range(asked.rounds)]
    print("| engine | partitions | first night, s | second, s |\n| --- | --- | --- | --- |")
    for place, (count, way) in enumerate(ways):
        first, second = (min(run[place][night] for run in runs) for night in (0, 1))
        print(f"| {'local' if way is None else 'Spark'} | {count} | {first:.1f} | {second:.1f} |")


if __name__ == "__main__":
    main()
