"""Arrays stored in files as plain numbers: matrices read block by block, columns read at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from embsync.dtypes import Array
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.numpy_header import ArrayHeader
from embsync.rows import block_rows

#: Far wider than any embedding; bounds the memory of a block, which has at least 64 rows.
MOST_WIDTH = 65_536
#: NumPy has no bfloat16, which is the upper two bytes of a float32.
BFLOAT16 = np.dtype("V2")


class Content(Protocol):
    """Bytes that can be read by position, at least in ascending order."""

    def fill(self, target: Array, offset: int) -> None:
        """Fill a C-contiguous array with the bytes at ``offset``."""


class Stored(Protocol):
    """Where an array is stored. It is reopened for every pass, so that a change between two passes is noticed."""

    def __str__(self) -> str:
        """Return the file, for messages."""

    def open(self) -> AbstractContextManager[tuple[ArrayHeader, Content]]:
        """Open the file; yield the array's header and the bytes, in which its numbers start at ``header.offset``."""


@dataclass(frozen=True)
class StoredMatrix:
    """A (count, width) matrix of floats in a file, as :class:`~embsync.rows.Rows`."""

    stored: Stored
    header: ArrayHeader

    def __post_init__(self) -> None:
        dtype = self.header.dtype
        require_vectors(np.dtype(np.float32) if dtype == BFLOAT16 else dtype, self.header.shape, str(self.stored))

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.header.shape[0]

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.header.shape[1]

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield read-only, C-contiguous, native blocks in file order."""
        with self.stored.open() as (header, content):
            _require_same(self.header, header, str(self.stored))
            step = block_rows(self.width)
            for start in range(0, self.count, step):
                yield start, self._block(content, header, start, min(step, self.count - start))

    def _block(self, content: Content, header: ArrayHeader, start: int, rows: int) -> Array:
        size = header.dtype.itemsize
        if header.fortran_order:
            columns = np.empty((self.width, rows), header.dtype)
            for column in range(self.width):
                content.fill(columns[column], header.offset + (column * self.count + start) * size)
            return native(np.ascontiguousarray(columns.T))
        block = np.empty((rows, self.width), header.dtype)
        content.fill(block, header.offset + start * self.width * size)
        return native(block)


@dataclass(frozen=True)
class StoredColumn:
    """A 1-D array in a file, read at once: ids or weights."""

    stored: Stored
    header: ArrayHeader

    def __post_init__(self) -> None:
        if len(self.header.shape) != 1:
            raise SnapshotError(
                "not one value per row",
                where=str(self.stored),
                found=f"shape {self.header.shape}",
                expected="one dimension",
            )

    @property
    def count(self) -> int:
        """Number of values."""
        return self.header.shape[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type in the file."""
        return self.header.dtype

    def read(self) -> Array:
        """Return the (count,) values, native-endian."""
        with self.stored.open() as (header, content):
            _require_same(self.header, header, str(self.stored))
            values = self._room(header)
            content.fill(values, header.offset)
        return native(values)

    def _room(self, header: ArrayHeader) -> Array:
        try:
            return np.empty(self.count, header.dtype)
        except MemoryError:
            raise SnapshotError(
                "ids or weights do not fit into memory", where=str(self.stored), found=f"{header.data_bytes} bytes"
            ) from None

    def __str__(self) -> str:
        return str(self.stored)


def require_vectors(dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> None:
    """Require a matrix of float16, float32 or float64 with at least one row and column."""
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise SnapshotError(
            "vectors are not floats", where=where, found=dtype.name, expected="float16, float32 or float64"
        )
    if len(shape) != 2:
        raise SnapshotError("vectors are not a matrix", where=where, found=f"shape {shape}", expected="(rows, width)")
    if min(shape) < 1 or shape[1] > MOST_WIDTH:
        raise SnapshotError(
            "no rows or an unusable width",
            where=where,
            found=f"shape {shape}",
            expected=f"at least one row and 1 to {MOST_WIDTH} columns",
        )


def native(array: Array) -> Array:
    """Return the array in native byte order and read-only; the caller must own it."""
    if array.dtype == BFLOAT16:
        array = (array.view("<u2").astype("<u4") << 16).view("<f4")
    if not array.dtype.isnative:
        array = array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
    array.setflags(write=False)
    return array


def _require_same(before: ArrayHeader, now: ArrayHeader, where: str) -> None:
    if now != before:
        raise SnapshotChanged(
            "changed while it was read",
            where=where,
            found=f"{now.shape} of {now.dtype.str}",
            expected=f"{before.shape} of {before.dtype.str}, as when it was opened",
        )
