"""A column of a side in part files, which is indexed by row like an array."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from embsync.dtypes import Array, Int64
from embsync.errors import UsageError
from embsync.ids import LONGEST_ID
from embsync.manifest import Manifest
from embsync.store.durable import storage_errors
from embsync.store.part_files import PartTable
from embsync.store.row_groups import Column

#: Maximum number of rows of a slice whose row groups are cached for the next slice.
_FEW = 2**14


class PartColumn:
    """Ids, vectors or ``last_seen`` of n rows, read when they are indexed.

    ``column[rows]`` with a number, a slice, an array of numbers or a mask returns a new array of these rows.
    ``numpy.asarray(column)`` is refused, since a side in part files may be larger than memory.

    Attributes
    ----------
    shape, dtype, ndim
        As those of an array. Text has the itemsize of the longest id that a store accepts; returned arrays have less.
    filename : Path
        The first part file; like that of a memory-mapped array.
    """

    def __init__(self, table: PartTable, column: Column, *, equals: int | None = None) -> None:
        self._table = table
        self._column: Column = column
        self._equals = equals
        kind: Any = {"id": f"S{LONGEST_ID}" if table.has_text else np.int64, "vector": np.float32}.get(column, np.int64)
        self.dtype = np.dtype(np.bool_ if equals is not None else kind)
        self.shape = (len(table), table.width) if column == "vector" else (len(table),)
        self.ndim = len(self.shape)
        self.filename: Path = table.first_path

    def __repr__(self) -> str:
        """Return name, shape and type, without reading a row."""
        shape = " x ".join(f"{size:,}" for size in self.shape)
        return f"<{self._column} in part files, {shape} {self.dtype.name}>"

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows one by one."""
        for block in self.blocks():
            yield from block

    def __getitem__(self, wanted: Any) -> Any:
        """Return the indexed rows."""
        if isinstance(wanted, slice):
            start, stop, step = wanted.indices(len(self))
            if step != 1 or stop - start <= _FEW:
                return self._taken(np.arange(start, stop, step))
            found = [block for (block,) in self._table.blocks((self._column,), start, stop)] if stop > start else []
            return self._converted(np.concatenate(found or [self._table.empty(self._column)]))
        if not isinstance(wanted, np.ndarray | list):
            return self[np.array([operator.index(wanted)])][0]
        rows = np.asarray(wanted)
        if rows.dtype == np.bool_:
            if rows.shape != self.shape[:1]:
                raise IndexError(f"a mask of shape {rows.shape} for {len(self)} rows")
            rows = np.flatnonzero(rows)
        return self._taken(np.where(rows < 0, rows + len(self), rows))

    def take(self, rows: Int64, axis: int = 0, mode: str = "clip") -> Array:
        """Return rows; negative row numbers give zeros, for which nothing is read."""
        there = rows >= 0
        if there.all():
            return self._taken(rows)
        known = self._taken(rows[there])
        found = np.zeros((len(rows), *self.shape[1:]), known.dtype)
        found[there] = known
        return found

    def positions(self, wanted: Array) -> Int64:
        """Return the row of each id, -1 if absent; only for the column of ids."""
        return self._table.positions(wanted)

    def equal_to(self, number: int) -> PartColumn:
        """Return a bool column: for each row, whether its value is ``number``."""
        return PartColumn(self._table, self._column, equals=number)

    def blocks(self) -> Iterator[Array]:
        """Yield the rows of each row group."""
        for (block,) in self._table.blocks((self._column,)):
            yield self._converted(block)

    def side_blocks(self, rows: int | None) -> Iterator[list[Array]]:
        """Yield ids, vectors and ``last_seen`` of ``rows`` rows at a time; by default a row group at a time."""
        yield from self._table.blocks(("id", "vector", "last_seen"), rows=rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        """Refuse to read all rows.

        Raises
        ------
        UsageError
            Always.
        """
        raise UsageError(
            "a side in part files is not one array",
            where=self.filename.parent,
            found=f"{len(self):,} rows",
            expected="some of them, such as vectors[:1000]",
            hint="read all rows by side.blocks(), ids by side.lookup(ids)",
        )

    def _taken(self, rows: Int64) -> Array:
        found = self._converted(self._table.take(self._column, rows.reshape(-1)))
        return found.reshape(*rows.shape, *self.shape[1:])

    def _converted(self, values: Array) -> Array:
        return values if self._equals is None else np.asarray(values == self._equals)


def columns_of(version: Path, manifest: Manifest) -> tuple[PartColumn, PartColumn, PartColumn]:
    """Return ids, vectors and ``last_seen`` of the users of a version of format 2.

    Raises
    ------
    StoreError
        Its directory cannot be opened.
    """
    with storage_errors(version):
        table = PartTable(version, manifest)
    return PartColumn(table, "id"), PartColumn(table, "vector"), PartColumn(table, "last_seen")
