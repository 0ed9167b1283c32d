"""The first pass over one partition of a side; these functions also run on machines without embsync.

Each takes Arrow batches of ``id`` and ``vector`` and yields one batch, or none, so that it can be given to an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from embsync.dtypes import Array, Float64
from embsync.engines.batches import ids_of, ids_to, pieces, problem_of, rows_in, vectors_of
from embsync.ids import hash_ids
from embsync.snapshots.row_digest import row_sums

Batches = Iterator[Any]
PartitionWork = Callable[[Batches], Batches]

#: Schema of the sums of one partition or of several: rows, zero rows, matrix and digest.
TOTALS = "problem string, rows long, zero_rows long, matrix binary, digest binary"
#: Rows whose products are formed at once.
_STEP = 4096


def totals_of(width: int) -> PartitionWork:
    """Return a function that sums a partition."""

    def work(batches: Batches) -> Batches:
        gram, digest = np.zeros((width, width)), np.zeros(2, np.uint64)
        rows = zero_rows = 0
        problem: str | None = None
        for batch in batches:
            if problem is not None or len(batch) == 0:
                continue  # still read to the end, since the sender waits for that
            problem = problem_of(batch, width)
            if problem is not None:
                continue
            block, ids = vectors_of(batch.column("vector"), width), ids_of(batch.column("id"))
            for part in pieces(len(block), _STEP):
                exact = block[part].astype(np.float64)
                with np.errstate(over="ignore", invalid="ignore"):
                    gram += exact.T @ exact
                zero_rows += len(exact) - int(np.count_nonzero(exact.any(axis=1)))
            rows += len(block)
            digest += row_sums(ids, block)
        yield _totals(problem, rows, zero_rows, gram, digest)

    return work


def sum_totals(width: int) -> PartitionWork:
    """Return a function that sums the results of several partitions."""

    def work(batches: Batches) -> Batches:
        gram, digest = np.zeros((width, width)), np.zeros(2, np.uint64)
        rows = zero_rows = 0
        problem: str | None = None
        for batch in batches:
            for row in batch.to_pylist():
                problem = problem or row["problem"]
                rows, zero_rows = rows + row["rows"], zero_rows + row["zero_rows"]
                with np.errstate(over="ignore", invalid="ignore"):
                    gram += np.frombuffer(row["matrix"]).reshape(width, width)
                digest += np.frombuffer(row["digest"], np.uint64)
        yield _totals(problem, rows, zero_rows, gram, digest)

    return work


def _totals(problem: str | None, rows: int, zero_rows: int, matrix: Float64, digest: Array) -> Any:
    if problem is None and not np.isfinite(np.trace(matrix)):
        problem = "values whose squares overflow"
    return pa.record_batch(
        {
            "problem": pa.array([problem], pa.string()),
            "rows": pa.array([rows], pa.int64()),
            "zero_rows": pa.array([zero_rows], pa.int64()),
            "matrix": pa.array([matrix.tobytes()], pa.binary()),
            "digest": pa.array([digest.tobytes()], pa.binary()),
        }
    )


def triangle_of(width: int, *, again: bool = False) -> PartitionWork:
    """Return a function that computes the triangular factor of a partition, or with ``again`` of several factors."""

    def work(batches: Batches) -> Batches:
        factor: Float64 = np.zeros((0, width))
        for batch in batches:
            if again:
                blocks = [np.frombuffer(value.as_py()).reshape(-1, width) for value in batch.column("matrix")]
            else:
                block = vectors_of(batch.column("vector"), width)
                blocks = [block[part] for part in pieces(len(block), _STEP)]
            for block in blocks:
                stacked = np.vstack([factor, block.astype(np.float64)])  # by NumPy: there may be no SciPy
                factor = np.asarray(np.linalg.qr(stacked, mode="r"), np.float64)[:width]
        yield pa.record_batch({"matrix": pa.array([np.ascontiguousarray(factor).tobytes()], pa.binary())})

    return work


def taking(wanted: Array) -> PartitionWork:
    """Return a function that keeps the rows of these ascending ids, each batch as one value, an Arrow stream."""

    def work(batches: Batches) -> Batches:
        for batch in batches:
            rows = rows_in(ids_of(batch.column("id")), wanted)
            if len(rows):
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, batch.schema) as stream:
                    stream.write_batch(batch.take(pa.array(rows)))
                yield pa.record_batch({"packed": pa.array([sink.getvalue().to_pybytes()], pa.binary())})

    return work


def sampling(bound: int) -> PartitionWork:
    """Return a function that keeps the ids whose hash is at most ``bound``."""

    def work(batches: Batches) -> Batches:
        for batch in batches:
            ids = ids_of(batch.column("id"))
            kept = ids[hash_ids(ids) <= np.uint64(bound)]
            if len(kept):
                yield pa.record_batch({"id": ids_to(kept)})

    return work
