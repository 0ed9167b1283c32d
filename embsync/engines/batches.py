"""Arrow batches of rows as NumPy arrays, and back; these functions also run on machines without embsync."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from embsync.dtypes import Array, Float32, Int64

#: Bytes of the longest id; the same as :data:`embsync.ids.LONGEST_ID`.
_LONGEST_ID = 1024


def ids_of(column: Any) -> Array:
    """Return a column of ids without nulls as (b,) int64 or ``S<n>``."""
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)
    return np.array(column.cast(pa.binary()).to_pylist(), "S") if len(column) else np.empty(0, "S1")


def vectors_of(column: Any, width: int) -> Array:
    """Return a column of lists of length ``width``, without nulls, as (b, width)."""
    values: Array = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), width)


def lists_of(rows: Float32) -> Any:
    """Return float32 rows as an Arrow array of lists."""
    ends = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.ascontiguousarray(rows).reshape(-1)))


def ids_to(ids: Array) -> Any:
    """Return ids as an Arrow array of int64 or string."""
    return pa.array(ids) if ids.dtype.kind == "i" else pa.array(ids.tolist(), pa.binary()).cast(pa.string())


def problem_of(batch: Any, width: int) -> str | None:
    """Return what is wrong with a batch of ``id`` and ``vector``, with an example id if possible."""
    ids = batch.column("id")
    return _problem_of_ids(ids) or _problem_of_vectors(ids, batch.column("vector"), width)


def _problem_of_ids(ids: Any) -> str | None:
    if ids.null_count:
        return f"a null id among {len(ids)} rows"
    if not pa.types.is_integer(ids.type):
        for text in ids.cast(pa.binary()).to_pylist():
            if not 0 < len(text) <= _LONGEST_ID or b"\0" in text:
                return f"id {text[:60]!r} of {len(text)} bytes (expected text of 1 to {_LONGEST_ID} bytes without NUL)"
    return None


def _problem_of_vectors(ids: Any, vectors: Any, width: int) -> str | None:
    if vectors.null_count:
        return f"a null vector: id {shown_ids(ids, vectors.is_null().to_numpy(zero_copy_only=False))}"
    lengths = np.asarray(vectors.value_lengths())
    wrong = lengths != width
    if wrong.any():
        return f"a vector of {lengths[wrong][0]} values instead of {width}: id {shown_ids(ids, wrong)}"
    if (values := vectors.flatten()).null_count:
        nulls = values.is_null().to_numpy(zero_copy_only=False).reshape(-1, width)
        return f"a null value: id {shown_ids(ids, nulls.any(axis=1))}"
    finite = np.isfinite(vectors_of(vectors, width)).all(axis=1)
    return None if finite.all() else f"NaN or infinity: id {shown_ids(ids, np.asarray(~finite))}"


def shown_ids(ids: Any, where: Array) -> str:
    """Return the first of the ids for which ``where`` is true, as text."""
    found = [str(ids[int(row)].as_py())[:80] for row in np.flatnonzero(where)[:5]]
    more = " and more" if np.count_nonzero(where) > 5 else ""
    return ", ".join(found) + more


def rows_in(ids: Array, wanted: Array) -> Int64:
    """Return the positions in ``ids`` of those that are in ``wanted``, which is ascending."""
    if len(wanted) == 0 or len(ids) == 0:
        return np.empty(0, np.int64)
    places = np.minimum(np.searchsorted(wanted, ids), len(wanted) - 1)
    return np.flatnonzero(wanted[places] == ids)


def pieces(count: int, step: int) -> Iterator[slice]:
    """Yield slices of at most ``step`` rows."""
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
