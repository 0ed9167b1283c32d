"""One part file: its footer, and columns of its row groups, which are checked when they are read.

Only what is checked here is used of a footer: rows, size and first id of a row group, and types of columns. Whether its
bytes are those that were written is checked as for other files: sizes when a version is opened, hashes by ``verify``.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embsync.dtypes import Array, Int64
from embsync.errors import SnapshotError, StoreDamaged, StoreError
from embsync.ids import joined
from embsync.manifest import PartFile
from embsync.store.durable import close, storage_errors
from embsync.store.locks import identity
from embsync.store.parquet_footer import RowGroup, row_groups
from embsync.store.records import damage_hint

Column = Literal["id", "vector", "last_seen"]

#: Bytes of vectors in the largest row group that is read; writers use 2 MiB.
LARGEST_GROUP = 16 * 2**20
#: Bytes of the largest footer that is read; a footer takes about 300 per row group.
_LARGEST_FOOTER = 16 * 2**20
_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Footer:
    """What a part file states about its g row groups.

    Attributes
    ----------
    starts : (g + 1,) int64
        The first row of each group in the file, then the number of rows.
    firsts : (g,) int64 or ``S<m>``, ascending
        The first id of each group.
    metadata : pyarrow.parquet.FileMetaData
    """

    starts: Int64
    firsts: Array
    metadata: Any


def key_of(bound: int | str) -> int | bytes:
    """Return an id of the manifest as ids are stored and ordered."""
    return bound.encode() if isinstance(bound, str) else bound


def keys(values: Sequence[int | bytes]) -> Array:
    """Return ids as an array of int64 or ``S<m>``."""
    return np.array(values, np.int64 if isinstance(values[0], int) else "S")


def _bounds(groups: Sequence[RowGroup]) -> Iterator[bytes | None]:
    for group in groups:
        yield group.first
        yield group.last


@dataclass(frozen=True)
class RowGroups:
    """The row groups of one part file; each call opens the file and closes it.

    Attributes
    ----------
    version : path
        The version's directory, for error messages.
    pin : int
        A descriptor of that directory, relative to which the file is opened.
    part : PartFile
    size : int
        Size of the file in bytes.
    width : int
        Values in a vector.
    """

    version: Path
    pin: int
    part: PartFile
    size: int
    width: int

    def footer(self) -> Footer:
        """Read and check the footer.

        Raises
        ------
        StoreDamaged
            The file is missing or has another size, or its footer is ill-formed or does not match the manifest.
        """
        with self._opened() as (file, data):
            groups = row_groups(data)
            rows = [group.rows for group in groups]
            if not rows or min(rows) < 1 or sum(rows) != self.part.rows:
                raise self._damaged(f"{sum(rows)} rows", f"{self.part.rows}, as the manifest says")
            self._check_types(file.schema_arrow)
            return Footer(np.cumsum([0, *rows]), self._first_ids(groups), file.metadata)

    def read(self, footer: Footer, group: int, columns: Sequence[Column]) -> list[Array]:
        """Return columns of a row group: (n,) ascending ids, (n, width) float32 vectors, (n,) int64 ``last_seen``.

        Raises
        ------
        StoreDamaged
            The file is missing or has another size, or the row group is unreadable or does not match the footer.
        """
        with self._opened(footer.metadata) as (file, _):
            table = file.read_row_group(group, columns=list(columns), use_threads=False)
        found: list[Array] = []
        for column in columns:
            values = table.column(column).combine_chunks()
            rows = int(footer.starts[group + 1] - footer.starts[group])
            if len(values) != rows or values.null_count:
                what = f"{len(values)} values of {column}, {values.null_count} of them null, in row group {group}"
                raise self._damaged(what, f"{rows}, none null")
            if column == "vector":
                found.append(self._vectors(values, group))
            else:
                found.append(self._ids(values, footer, group) if column == "id" else values.to_numpy())
        return found

    @contextlib.contextmanager
    def _opened(self, metadata: Any = None) -> Iterator[tuple[Any, bytes]]:
        """Yield the file as opened by pyarrow, and its footer, which is empty if ``metadata`` is given."""
        with (
            storage_errors(self.version / self.part.file),
            self._descriptor(footer=metadata is None) as (descriptor, data),
            # the path of the open file lets pyarrow read it without calls into Python
            pa.OSFile(f"/proc/self/fd/{descriptor}") as source,
            self._parsing(),
            pq.ParquetFile(
                source, metadata=metadata, page_checksum_verification=True, thrift_string_size_limit=_LARGEST_FOOTER
            ) as file,
        ):
            yield file, data

    @contextlib.contextmanager
    def _parsing(self) -> Iterator[None]:
        """Convert pyarrow's errors about the file's contents; an OSError with an errno is not one of them."""
        try:
            yield
        except (pa.ArrowException, ValueError, KeyError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise self._damaged(str(error).partition("\n")[0]) from error

    def _missing(self) -> StoreError:
        if identity(self.version) == identity(self.version, self.pin):
            return self._damaged("no such file")
        return StoreError(
            "the version was deleted while it was in use",
            where=self.version,
            hint="open the store again, and keep the version open while its users are read",
        )

    @contextlib.contextmanager
    def _descriptor(self, *, footer: bool) -> Iterator[tuple[int, bytes]]:
        """Open the file, check its size and its end, and read its footer if ``footer`` is true."""
        try:
            descriptor = os.open(self.part.file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.pin)
        except FileNotFoundError:
            raise self._missing() from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != self.size:
                raise self._damaged(f"{status.st_size} bytes", f"a file of {self.size}, as the manifest says")
            end = os.pread(descriptor, 8, max(0, self.size - 8))
            length = int.from_bytes(end[:4], "little")
            if len(end) < 8 or end[4:] != _MAGIC or length > min(_LARGEST_FOOTER, self.size - 8):
                raise self._damaged("no footer", f"one of at most {_LARGEST_FOOTER:,} bytes")
            yield descriptor, os.pread(descriptor, length, self.size - 8 - length) if footer else b""
        finally:
            close(descriptor)

    def _check_types(self, schema: Any) -> None:
        types = pa.types
        text = isinstance(self.part.first, str)
        wanted = {
            "id": (types.is_string, types.is_large_string) if text else (types.is_int64,),
            "vector": (types.is_list, types.is_large_list, types.is_fixed_size_list),
            "last_seen": (types.is_int64,),
        }
        for name, kinds in wanted.items():
            if schema.names.count(name) != 1:
                raise self._damaged(f"{schema.names.count(name)} columns {name}", "one")
            kind = schema.field(name).type
            if not any(fits(kind) for fits in kinds) or (name == "vector" and not types.is_float32(kind.value_type)):
                expected = {"id": "string" if text else "int64", "vector": "list<float>", "last_seen": "int64"}[name]
                raise self._damaged(f"{name} of type {kind}", expected)

    def _first_ids(self, groups: Sequence[RowGroup]) -> Array:
        """Return the first id of each group, from statistics checked against each other and the manifest."""
        most = max(1, LARGEST_GROUP // (4 * self.width))
        for number, group in enumerate(groups):
            if group.rows > most or not 0 <= group.size <= 2 * LARGEST_GROUP:
                what = f"row group {number} of {group.rows} rows, {group.size:,} bytes in a column"
                raise self._damaged(what, f"at most {most} rows and {2 * LARGEST_GROUP:,} bytes")
        bounds = [self._bound(value, place // 2) for place, value in enumerate(_bounds(groups))]
        if bounds[0] != key_of(self.part.first) or bounds[-1] != key_of(self.part.last):
            ids = f"{self.part.first!r} to {self.part.last!r}, as the manifest says"
            raise self._damaged(f"ids from {bounds[0]!r} to {bounds[-1]!r}", ids)
        found = keys(bounds)
        firsts, lasts = found[::2], found[1::2]
        if (lasts < firsts).any() or (firsts[1:] <= lasts[:-1]).any():
            raise self._damaged("row groups that are not in the order of ids")
        return firsts

    def _bound(self, value: bytes | None, group: int) -> int | bytes:
        """Return an id in the statistics of a row group."""
        if value is None:
            raise self._damaged(f"no statistics of id in row group {group}")
        if isinstance(self.part.first, str):
            return value
        if len(value) != 8:
            raise self._damaged(f"an id of {len(value)} bytes in the statistics of row group {group}", 8)
        return int.from_bytes(value, "little", signed=True)

    def _ids(self, values: Any, footer: Footer, group: int) -> Array:
        ids = values.to_numpy() if pa.types.is_int64(values.type) else self._texts(values)
        last = key_of(self.part.last)
        is_last = group == len(footer.firsts) - 1
        ends = ids[-1] == last if is_last else ids[-1] < footer.firsts[group + 1]
        if not (ends and ids[0] == footer.firsts[group] and (ids[1:] > ids[:-1]).all()):
            raise self._damaged(f"ids of row group {group} that do not ascend within its bounds")
        return ids

    def _texts(self, values: Any) -> Array:
        binary = values.cast(pa.large_binary())
        _, offsets, text = binary.buffers()
        ends = np.frombuffer(offsets, np.int64)[binary.offset : binary.offset + len(binary) + 1]
        data = memoryview(b"" if text is None else text)[ends[0] : ends[-1]]
        try:
            return joined(np.diff(ends), data, str(self.version / self.part.file))
        except SnapshotError as error:
            raise self._damaged(f"{error.what}: {error.found}", error.expected) from None

    def _vectors(self, values: Any, group: int) -> Array:
        flat = values.flatten()
        lengths = np.asarray(values.value_lengths())
        if (lengths != self.width).any():
            found = f"a vector of {lengths[lengths != self.width][0]} values in row group {group}"
            raise self._damaged(found, f"{self.width}")
        if flat.null_count:
            raise self._damaged(f"a vector with a null in row group {group}", f"{self.width} numbers")
        vectors: Array = flat.to_numpy().reshape(len(values), self.width)
        return vectors

    def _damaged(self, found: str, expected: object = None) -> StoreDamaged:
        where, hint = self.version / self.part.file, damage_hint(self.version)
        return StoreDamaged("damaged part file", where=where, found=found[:200], expected=expected, hint=hint)
