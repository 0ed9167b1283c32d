"""The alignment of one night as a job for pyspark's local mode, as a team with a cluster would write it.

Gram matrices and the cross-Gram matrix are summed by ``mapInArrow`` over parquet, the driver computes the maps, and
a second job maps the rows and writes parquet. Sides and reference are joined by id. No certificate, no index.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import cloudpickle
from pyspark.sql import SparkSession
from recipes import Matrix, Reference, Table, _maps

PARTS = 4


def job(work: Path, items: Table, users: Table, before: Reference) -> Callable[[], None]:
    """Return a function that aligns the night to the reference; the session is started and the tables are written."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find this module
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = SparkSession.builder.master(f"local[{len(os.sched_getaffinity(0))}]").config(
        map={"spark.driver.memory": "4g", "spark.ui.enabled": "false"}
    )
    spark = session.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    for name, now, then in (("items", items, before.items), ("users", users, before.users)):
        _write(work / name, now)
        _write(work / f"{name}_before", then)

    def run() -> None:
        read = {name: spark.read.parquet(str(work / name)) for name in ("items", "users")}
        factors = [np.linalg.cholesky(_summed(read[name], "v", "v")).T for name in ("items", "users")]
        maps = _maps(*factors)
        cross = 0
        for A, name in zip(maps, ("items", "users"), strict=True):
            then = spark.read.parquet(str(work / f"{name}_before")).withColumnRenamed("v", "b")
            cross = cross + A.T @ _summed(read[name].join(then, "id"), "v", "b")
        U, _, Vt = np.linalg.svd(cross)
        for A, name in zip(maps, ("items", "users"), strict=True):
            mapped = read[name].mapInArrow(_mapper((A @ (U @ Vt)).astype(np.float32)), "id long, v array<float>")
            mapped.write.mode("overwrite").parquet(str(work / f"{name}_out"))

    return run


def _write(folder: Path, side: Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(len(side.ids)), PARTS)):
        vectors = _lists(side.vectors[part])
        pq.write_table(pa.table({"id": side.ids[part], "v": vectors}), folder / f"part-{number}.parquet")


def _lists(rows: Any) -> pa.ListArray:
    ends = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(ends, np.ascontiguousarray(rows).reshape(-1))


def _summed(frame: Any, left: str, right: str) -> Matrix:
    """Return the sum of left^T right over the rows of a frame."""

    def sums(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        total: Any = 0
        for batch in batches:
            a, b = (_rows(batch, name) for name in (left, right))
            total = total + a.T @ b
        if not np.isscalar(total):
            yield pa.record_batch({"sum": pa.array([total.astype(np.float64).reshape(-1)])})

    rows = frame.mapInArrow(sums, "sum array<double>").collect()
    total = np.sum([np.array(row["sum"]) for row in rows], axis=0)
    width = int(np.sqrt(len(total)))
    return total.reshape(width, width)


def _mapper(matrix: Any) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def mapped(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = _rows(batch, "v") @ matrix
            ends = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
            yield pa.record_batch({"id": batch["id"], "v": pa.ListArray.from_arrays(ends, rows.reshape(-1))})

    return mapped


def _rows(batch: pa.RecordBatch, name: str) -> Any:
    values = batch[name].flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(batch), -1)
