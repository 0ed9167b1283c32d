"""What the Spark engine takes beside the local one on the same rows, and how it grows with the number of partitions.

One session of `local[*]`, started before; items with a flat index. Each number of partitions is that of the input
files, of which Spark reads one a task, of the shuffles and of the part files. Best of a few rounds in turn.

    python benchmarks/engines.py [--users 500000] [--partitions 2 8 32 128] [--rounds 2]
"""

from __future__ import annotations

import argparse
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
    """Write a night again, each side as that many files of parquet with one row group."""
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
    """Return the configuration of the local engine, or of Spark's with that many partitions."""
    conf: dict[str, str | int | float | bool] = {"spark.driver.memory": "4g", "spark.ui.enabled": "false"}
    conf["spark.sql.files.openCostInBytes"] = 2**27  # one file a task
    engine = EngineConfig() if partitions is None else EngineConfig(kind="spark", conf=conf, partitions=partitions)
    space = SpaceConfig(anchors=AnchorsConfig(rows=20_000))
    return Config(engine=engine, index=IndexConfig(factory="Flat"), space=space, checks={})


def seconds(nights: list[Path], config: Config) -> list[float]:
    """Publish two nights into a fresh store and return the seconds of each."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for night in nights:
            began = time.perf_counter()
            publish_snapshot(Store(Path(directory) / "store"), Request(night), config)
            found.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--partitions", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
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
