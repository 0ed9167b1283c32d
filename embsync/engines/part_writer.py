"""A part file with its sums beside it, made durable and read back; this also runs on machines without embsync."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embsync.dtypes import Array, Float32, Int64
from embsync.engines.batches import ids_to, lists_of
from embsync.engines.partition_error import PartitionError

#: Bytes of vectors in a row group, which a lookup reads to find one row.
_GROUP_BYTES = 2 * 2**20
_READ_BYTES = 4 * 2**20


class HashedFile:
    """A new file whose bytes are hashed as they are written."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "xb")  # noqa: PTH123, SIM115  (runs without embsync, closed by close)
        self._path = path
        self._digest = hashlib.sha256()
        self._bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Append bytes."""
        data = bytes(data)
        self._digest.update(data)
        self._bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Return the number of bytes."""
        return self._bytes

    def flush(self) -> None:
        """Pass buffered bytes to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Do nothing: :meth:`seal` closes the file."""
        self.closed = True

    def seal(self) -> tuple[int, str]:
        """Make the file durable, read it back, and return its size and hash."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._file.close()
        found = hashlib.sha256()
        with open(self._path, "rb") as file:  # noqa: PTH123
            while data := file.read(_READ_BYTES):
                found.update(data)
        if found.hexdigest() != self._digest.hexdigest():
            what = "a part file does not read back as it was written"
            sha256 = f"SHA-256 {found.hexdigest()} of {self._path}"
            raise PartitionError("not_as_written", what, sha256, self._digest.hexdigest())
        return self._bytes, found.hexdigest()


class PartWriter:
    """Writes rows, ascending by id, in row groups of bounded size.

    Parameters
    ----------
    directory : str
    name : str
        File name, unique to this attempt.
    dimension : int
    strings : bool
        Whether ids are strings.
    group_rows : int, optional
        Rows of a row group; by default as many as have 2 MiB of vectors.
    """

    def __init__(
        self, directory: str, name: str, dimension: int, *, strings: bool, group_rows: int | None = None
    ) -> None:
        self._path = f"{directory}/{name}"
        self._dimension = dimension
        self._limit = group_rows or max(1, _GROUP_BYTES // (4 * dimension))
        kinds = {
            "id": pa.string() if strings else pa.int64(),
            "vector": pa.list_(pa.float32()),
            "last_seen": pa.int64(),
        }
        self._schema = pa.schema(list(kinds.items()))
        self._file: HashedFile | None = None
        self._writer: Any = None
        self._held: list[Any] = []
        self._count = 0
        self.rows = 0
        self._first: Any = None
        self._last: Any = None

    def add(self, ids: Array, vectors: Float32, last_seen: Int64) -> None:
        """Add rows."""
        if len(ids) == 0:
            return
        self._held.append(pa.record_batch([ids_to(ids), lists_of(vectors), pa.array(last_seen)], schema=self._schema))
        self._count += len(ids)
        self.rows += len(ids)
        self._first = ids[0] if self._first is None else self._first
        self._last = ids[-1]
        if self._count >= self._limit:
            self._write(final=False)

    def _write(self, *, final: bool) -> None:
        table = pa.Table.from_batches(self._held, self._schema)
        rows = len(table) if final else len(table) // self._limit * self._limit
        if self._writer is None:
            self._file = HashedFile(self._path)
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._file, "w"),
                self._schema,
                compression="snappy",
                use_dictionary=False,
                write_statistics=["id"],
                write_page_checksum=True,
            )
        self._writer.write_table(table.slice(0, rows), row_group_size=self._limit)
        self._held = table.slice(rows).to_batches()
        self._count = len(table) - rows

    def finish(self) -> dict[str, Any] | None:
        """Make the file durable and return its description; None if there were no rows."""
        if self.rows == 0:
            return None
        if self._count:  # an empty row group would be read as damage
            self._write(final=True)
        self._writer.close()
        assert self._file is not None
        size, sha256 = self._file.seal()
        first, last = (
            value.decode("utf-8") if isinstance(value, bytes) else str(int(value))
            for value in (self._first, self._last)
        )
        return {"rows": self.rows, "first": first, "last": last, "bytes": size, "sha256": sha256}


def write_sums(directory: str, name: str, sums: Mapping[str, Array]) -> None:
    """Write the sums of a partition beside its part file."""
    buffer = io.BytesIO()
    np.savez(buffer, **sums)  # type: ignore[arg-type]
    with open(f"{directory}/{name}", "xb") as file:  # noqa: PTH123
        file.write(buffer.getbuffer())
