"""The rows of a side in part files, found by id or by number, read by row group in bounded memory."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from embsync.dtypes import Array, Int64
from embsync.ids import positions_in
from embsync.manifest import Manifest, Parts
from embsync.store.durable import close
from embsync.store.row_groups import Column, Footer, RowGroups, key_of, keys

_Value = TypeVar("_Value")

#: Footers in the cache: one of 60 row groups takes about 50 kB.
_FOOTERS = 64
#: Bytes of each column in the cache: the vectors of four row groups, the ids of a hundred.
_KEPT_BYTES = 8 * 2**20


class _LruCache(Generic[_Value]):
    """A thread-safe LRU cache with a limit on the total size of its values."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._values: OrderedDict[Hashable, tuple[_Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], tuple[_Value, int]]) -> _Value:
        """Return the cached value of a key, or the value that ``load`` returns together with its size."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value, size = load()
        with self._lock:
            if key not in self._values and size <= self._most:
                self._values[key] = value, size
                self._total += size
                while self._total > self._most:
                    self._total -= self._values.popitem(last=False)[1][1]
        return value


class PartTable:
    """The part files of one side of a version; safe to use from several threads.

    Rows are numbered across all files. Only the version's directory stays open, without a lock: the reader keeps the
    version pinned.

    Parameters
    ----------
    version : path
        The version's directory.
    manifest : Manifest
        A manifest of format 2.
    """

    def __init__(self, version: Path, manifest: Manifest) -> None:
        assert isinstance(manifest.parts, Parts)
        parts, sizes = manifest.parts.users, {entry.path: entry.bytes for entry in manifest.files}
        own = os.open(version, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, close, own)
        self.width = manifest.dimension
        self._files = [RowGroups(version, own, part, sizes[part.file], self.width) for part in parts]
        self._starts = np.cumsum([0, *(part.rows for part in parts)])
        self._firsts = keys([key_of(part.first) for part in parts])
        self._lasts = keys([key_of(part.last) for part in parts])
        self._footers: _LruCache[Footer] = _LruCache(_FOOTERS)
        self._columns: dict[Column, _LruCache[Array]] = {
            "id": _LruCache(_KEPT_BYTES), "vector": _LruCache(_KEPT_BYTES), "last_seen": _LruCache(_KEPT_BYTES)
        }  # fmt: skip

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._starts[-1])

    @property
    def first_path(self) -> Path:
        """The path of the first file."""
        return self._files[0].version / self._files[0].part.file

    @property
    def has_text(self) -> bool:
        """Whether ids are strings."""
        return bool(self._firsts.dtype.kind == "S")

    def positions(self, wanted: Array) -> Int64:
        """Return the row of each of ``wanted``, (n,) int64, -1 if absent; only row groups that may have one are read.

        Parameters
        ----------
        wanted : (n,) int64 or ``S<m>``, in any order
        """
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        found = np.full(len(wanted), -1, np.int64)
        file_of = np.searchsorted(self._firsts, ordered, "right") - 1
        file_of[ordered > self._lasts[np.maximum(file_of, 0)]] = -1
        for file, mine in _runs(file_of):
            group_of = np.searchsorted(self._footer(file).firsts, ordered[mine], "right") - 1
            for group, part in _runs(group_of):
                places = slice(mine.start + part.start, mine.start + part.stop)
                rows = positions_in(ordered[places], self._column(file, group, "id"))
                found[places] = np.where(rows < 0, -1, rows + self._start(file, group))
        result = np.empty_like(found)
        result[order] = found
        return result

    def take(self, column: Column, rows: Int64) -> Array:
        """Return a column of the given rows, which may be in any order; only their row groups are read.

        Raises
        ------
        IndexError
            A row is negative, or beyond the last.
        """
        if len(rows) == 0:
            return self.empty(column)
        if int(rows.min()) < 0 or int(rows.max()) >= len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        found: list[Array] = []
        for file, group, mine in self._groups_of(ordered):
            found.append(self._column(file, group, column)[ordered[mine] - self._start(file, group)])
        joined = found[0] if len(found) == 1 else np.concatenate(found)
        if (order[1:] > order[:-1]).all():
            return joined
        result = np.empty_like(joined)
        result[order] = joined
        return result

    def blocks(
        self, columns: Sequence[Column], start: int = 0, stop: int | None = None, rows: int | None = None
    ) -> Iterator[list[Array]]:
        """Yield columns of consecutive rows, ``rows`` or a row group at a time; nothing is cached."""
        groups = self._row_groups(columns, start, len(self) if stop is None else stop)
        return groups if rows is None else _rechunked(groups, rows)

    def _row_groups(self, columns: Sequence[Column], start: int, stop: int) -> Iterator[list[Array]]:
        for file, source in enumerate(self._files):
            first, end = int(self._starts[file]), int(self._starts[file + 1])
            if end <= start or first >= stop:
                continue
            footer = self._footer(file)
            for group, (low, high) in enumerate(pairwise((footer.starts + first).tolist())):
                if high > start and low < stop:
                    part = slice(max(start - low, 0), min(stop, high) - low)
                    yield [values[part] for values in source.read(footer, group, columns)]

    def empty(self, column: Column) -> Array:
        """Return a column of no rows."""
        if column == "vector":
            return np.empty((0, self.width), np.float32)
        return np.empty(0, "S1" if column == "id" and self.has_text else np.int64)

    def _groups_of(self, ordered: Int64) -> Iterator[tuple[int, int, slice]]:
        """Yield file, row group, and the slice of ``ordered``, which ascends, that is in the group."""
        for file, mine in _runs(np.searchsorted(self._starts, ordered, "right") - 1):
            inside = ordered[mine] - self._starts[file]
            for group, part in _runs(np.searchsorted(self._footer(file).starts, inside, "right") - 1):
                yield file, group, slice(mine.start + part.start, mine.start + part.stop)

    def _start(self, file: int, group: int) -> int:
        return int(self._starts[file] + self._footer(file).starts[group])

    def _footer(self, file: int) -> Footer:
        return self._footers.get(file, lambda: (self._files[file].footer(), 1))

    def _column(self, file: int, group: int, column: Column) -> Array:
        def load() -> tuple[Array, int]:
            (values,) = self._files[file].read(self._footer(file), group, (column,))
            return values, values.nbytes

        return self._columns[column].get((file, group), load)


def _runs(values: Array) -> Iterator[tuple[int, slice]]:
    """Yield each run of equal values, except negative ones, with its slice."""
    edges: Any = np.flatnonzero(np.diff(values)) + 1
    bounds = [0, *edges.tolist(), len(values)]
    for start, stop in pairwise(bounds):
        if stop > start and values[start] >= 0:
            yield int(values[start]), slice(start, stop)


def _rechunked(blocks: Iterable[list[Array]], rows: int) -> Iterator[list[Array]]:
    """Yield the same rows, ``rows`` at a time."""
    held: list[list[Array]] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block[0])
        if count < rows:
            continue
        joined = [np.concatenate(values) for values in zip(*held, strict=True)]
        complete = count // rows * rows
        for start in range(0, complete, rows):
            yield [values[start : start + rows] for values in joined]
        held, count = [[values[complete:] for values in joined]], count - complete
    if count:
        yield [np.concatenate(values) for values in zip(*held, strict=True)]
