"""Writing part files from rows on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embsync.dtypes import Array, Float32, Int64
from embsync.manifest import PartFile, Parts
from embsync.store import layout
from embsync.store.staging import Staging

#: Bytes of vectors in a row group, all of which a lookup reads to find one row.
GROUP_BYTES = 2 * 2**20


def write_parts(staging: Staging, rows: Iterable[tuple[Array, Float32, Int64]], group_rows: int | None = None) -> Parts:
    """Write the users of a version as part files.

    Parameters
    ----------
    staging : Staging
    rows : iterable of ids, vectors and last_seen
        One element for each file: (n,) int64 or ``S<m>``, ascending within a file and from file to file; (n, k)
        float32; (n,) int64. A file without rows is left out.
    group_rows : int, optional
        Rows of a row group; by default as many as have 2 MiB of vectors.

    Returns
    -------
    Parts
        For the manifest; the files are among the entries of ``staging``.
    """
    parts: list[PartFile] = []
    for ids, vectors, last_seen in rows:
        if len(ids):
            name = layout.part_file("users", len(parts))
            size = group_rows or max(1, GROUP_BYTES // (4 * vectors.shape[1]))
            with staging.stream(name) as write:
                _write(_table(ids, vectors, last_seen), write, size)
            first, last = (_bound(ids[0]), _bound(ids[-1]))
            parts.append(PartFile(file=name, rows=len(ids), first=first, last=last))
    return Parts(users=parts)


def _bound(stored: Any) -> int | str:
    return stored.decode() if isinstance(stored, bytes) else int(stored)


def _table(ids: Array, vectors: Float32, last_seen: Int64) -> Any:
    names = pa.array(ids) if ids.dtype.kind == "i" else pa.array(ids.tolist(), pa.binary()).cast(pa.string())
    ends = np.arange(len(ids) + 1, dtype=np.int32) * vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    columns = {"id": names, "vector": pa.ListArray.from_arrays(pa.array(ends), flat), "last_seen": pa.array(last_seen)}
    return pa.table(columns)


class _Output:
    """A stream of a staged file, as pyarrow writes to it."""

    closed = False

    def __init__(self, write: Callable[[bytes | memoryview], None]) -> None:
        self._write = write
        self._bytes = 0

    def write(self, data: Any) -> int:
        piece = memoryview(data)
        self._write(piece)
        self._bytes += piece.nbytes
        return piece.nbytes

    def tell(self) -> int:
        return self._bytes

    def flush(self) -> None:
        """Do nothing: the stream is flushed when it ends."""

    def close(self) -> None:
        self.closed = True


def _write(table: Any, write: Callable[[bytes | memoryview], None], group_rows: int) -> None:
    with pq.ParquetWriter(
        pa.PythonFile(_Output(write), "w"),
        table.schema,
        compression="snappy",
        use_dictionary=False,
        write_statistics=["id"],
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table, row_group_size=group_rows)
