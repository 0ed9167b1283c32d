"""A strict parser of the footer of a parquet file: number of rows, first id and last id of each row group.

pyarrow aborts the process when it is asked for the statistics of a damaged footer, since its accessors do not catch C++
exceptions; reading row groups raises an error. The footer is encoded in Thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md); its fields are those of
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, (9, 10), 12
#: Largest nesting depth of structures; that of a footer is eight.
_DEEPEST = 16
#: Fields of FileMetaData, RowGroup, ColumnChunk, ColumnMetaData and Statistics.
_ROW_GROUPS, _COLUMNS, _NUM_ROWS, _META_DATA, _PATH, _UNCOMPRESSED, _STATISTICS = 4, 1, 3, 3, 3, 6, 12
_MAX_VALUE, _MIN_VALUE = 5, 6


@dataclass(frozen=True)
class RowGroup:
    """What a footer states about a row group.

    Attributes
    ----------
    rows : int
    size : int
        Bytes of the largest of its columns, uncompressed.
    first, last : bytes or None
        Minimum and maximum in the statistics of the column ``id``, as stored.
    """

    rows: int
    size: int
    first: bytes | None
    last: bytes | None


def row_groups(footer: bytes) -> list[RowGroup]:
    """Return the row groups of a footer, in the order of the file.

    Raises
    ------
    ValueError
        It is not a footer.
    """
    try:
        groups = _Reader(footer).struct(0)[_ROW_GROUPS]
        return [_row_group(group) for group in groups]
    except (IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a footer: {type(error).__name__}") from None


def _row_group(group: dict[int, Any]) -> RowGroup:
    columns = [column[_META_DATA] for column in group[_COLUMNS]]
    ids, *more = [column for column in columns if column[_PATH] == [b"id"]] or [{}]
    if more or not ids:
        raise ValueError(f"not a footer: {len(more) + bool(ids)} columns id in a row group, expected one")
    statistics = ids.get(_STATISTICS, {})
    first, last = statistics.get(_MIN_VALUE), statistics.get(_MAX_VALUE)
    if not all(bound is None or isinstance(bound, bytes) for bound in (first, last)):
        raise ValueError("statistics that are not bytes")
    return RowGroup(int(group[_NUM_ROWS]), max(int(column[_UNCOMPRESSED]) for column in columns), first, last)


class _Reader:
    """Reads Thrift values sequentially."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Return the fields of a struct by their numbers."""
        if depth > _DEEPEST:
            raise ValueError("not a footer: too deep")
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            found[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        value: Any
        if kind in _INTEGERS:
            value = self._integer()
        elif kind == _BINARY:
            value = self._bytes(self._unsigned())
        elif kind == _STRUCT:
            value = self.struct(depth + 1)
        elif kind in _LISTS:
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._unsigned()
            value = [self._value(head & 15, depth + 1) for _ in self._few(size)]
        elif kind in (_TRUE, _FALSE, _BYTE):
            value = self._byte()
        elif kind == _DOUBLE:
            value = self._bytes(8)
        else:
            raise ValueError(f"not a footer: type {kind}")
        return value

    def _few(self, size: int) -> range:
        """Return ``range(size)`` if that many values, of at least one byte each, fit in the rest of the footer."""
        if size > len(self._data) - self._place:
            raise ValueError("not a footer: a list beyond its end")
        return range(size)

    def _byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1]

    def _bytes(self, size: int) -> bytes:
        self._few(size)
        self._place += size
        return self._data[self._place - size : self._place]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("not a footer: a number beyond 64 bits")

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
