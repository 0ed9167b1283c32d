"""Tables of the formats that a decoder reads, each as columns with kinds and as batches of rows.

A request states the format: ``{"kind": "parquet"}``, ``{"kind": "arrow"}``, or ``{"kind": "text"}`` with the options of
:class:`~embsync.decoder.text.TextTable`. Files arrive as handles and are never opened by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from embsync.decoder.limits import Message, Unusable, addresses_of, limit_step
from embsync.decoder.text import Column, TextTable

#: Bytes read ahead, for all columns together.
_BUFFER = 64 * 1024**2
_MOST_BUFFER = 1024**2
_LEAST_BUFFER = 16 * 1024
#: Fields of pyspark.ml.linalg.VectorUDT.
_ML_VECTOR = {"type", "size", "indices", "values"}
_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}
_FEATHER_1 = b"FEA1"
_ARROW_FILE = b"ARROW1"


class Table(Protocol):
    """A table in an open file."""

    @property
    def rows(self) -> int | None:
        """Number of rows; None if it is only known after reading the file."""

    def columns(self) -> list[Column]:
        """Return the name, kind and full type of each column."""

    def some(self, positions: Sequence[int]) -> list[Column]:
        """Return the columns at these positions."""

    def count(self, columns: Sequence[int]) -> Message:
        """Return the number of rows, and the kind of a column of ids: ``integer`` or ``string``."""

    def batches(self, columns: Sequence[int], rows: int, kind: str) -> Iterator[list[Any]]:
        """Yield the arrays of some columns, at most ``rows`` values of each at a time.

        ``kind`` is ``ids``, ``weights`` or ``vectors``; text is parsed accordingly.
        """


@contextmanager
def opened(form: Message, handle: int, columns: int) -> Iterator[Table]:
    """Yield the table in an open file; ``columns`` is how many of its columns will be read."""
    # a path under /proc/self/fd lets pyarrow read the handle without calls into Python
    path = f"/proc/self/fd/{handle}"
    if form["kind"] == "parquet":
        buffer = min(max(_BUFFER // max(columns, 1), _LEAST_BUFFER), _MOST_BUFFER)
        with (
            pa.OSFile(path) as source,
            pq.ParquetFile(source, pre_buffer=False, buffer_size=buffer, page_checksum_verification=True) as file,
        ):
            yield ParquetTable(file)
    elif form["kind"] == "text":
        yield TextTable(path, form)
    else:
        with addresses_of(handle), pa.memory_map(path) as source:
            yield ArrowTable(source)


def type_kind(kind: Any) -> str:
    """Return the kind of an Arrow type: of ids, vectors, numbers or other values."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return f"list {_FLOATS.get(str(kind.value_type), 'other')}"
    if types.is_struct(kind) and {field.name for field in kind} == _ML_VECTOR:
        return "list vector" if _holds_floats(kind.field("values").type) else "other"
    if types.is_integer(kind):
        return "integer"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    return _FLOATS.get(str(kind), "other")


def _holds_floats(kind: Any) -> bool:
    return pa.types.is_list(kind) and str(kind.value_type) in _FLOATS


class TypedTable:
    """A file that states its number of rows and its types."""

    rows: int | None

    def columns(self) -> list[Column]:
        """Return the name, kind and full type of each column."""
        raise NotImplementedError

    def some(self, positions: Sequence[int]) -> list[Column]:
        """Return the columns at these positions."""
        columns = self.columns()
        return [columns[position] for position in positions]

    def count(self, columns: Sequence[int]) -> Message:
        """Return the number of rows and the kind of a column, as stated in the file."""
        return {"rows": self.rows, "kind": self.columns()[columns[0]][1]}


class ParquetTable(TypedTable):
    """A parquet file."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.rows = int(file.metadata.num_rows)

    def columns(self) -> list[Column]:
        """Return the columns of the footer."""
        return [(field.name, type_kind(field.type), str(field.type)) for field in self._file.schema_arrow]

    def batches(self, columns: Sequence[int], rows: int, kind: str) -> Iterator[list[Any]]:
        """Yield the batches of decoded pages."""
        if not self.rows:
            return
        schema = self._file.schema_arrow  # converted again on every access
        names = [schema.field(column).name for column in columns]
        for batch in self._file.iter_batches(rows, columns=names, use_threads=False):
            if sorted(batch.schema.names) != sorted(names):
                raise Unusable("not one column of that name", batch.num_columns, ", ".join(names)[:100])
            yield [_plain(batch.column(name)) for name in names]
            limit_step()


class ArrowTable(TypedTable):
    """An Arrow IPC file or stream (Feather)."""

    def __init__(self, source: Any) -> None:
        start = source.read(len(_ARROW_FILE))
        source.seek(0)
        if start.startswith(_FEATHER_1):
            raise Unusable("Feather of version 1", expected="version 2, as pyarrow.feather.write_feather writes it")
        self._source = source
        self._is_file = start == _ARROW_FILE
        self._schema = self._reader(None).schema
        self.rows = sum(len(batch[0]) for batch in self._all(self._cheapest()))

    def columns(self) -> list[Column]:
        """Return the columns of the schema."""
        return [(field.name, type_kind(field.type), str(field.type)) for field in self._schema]

    def batches(self, columns: Sequence[int], rows: int, kind: str) -> Iterator[list[Any]]:
        """Yield slices of the record batches; uncompressed ones are views of the mapped file."""
        for batch in self._all(columns):
            for values in batch:
                values.validate(full=True)
            for start in range(0, len(batch[0]), rows):
                yield [_plain(values.slice(start, rows)) for values in batch]
                limit_step()

    def _reader(self, columns: Sequence[int] | None) -> Any:
        self._source.seek(0)
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=columns and sorted(columns))
        return (pa.ipc.open_file if self._is_file else pa.ipc.open_stream)(self._source, options=options)

    def _all(self, columns: Sequence[int]) -> Iterator[list[Any]]:
        """Yield some columns of each record batch."""
        reader, unprojected = self._reader(columns), None
        places = [sorted(columns).index(column) for column in columns]
        if not self._is_file:
            for batch in reader:
                yield [batch.column(place) for place in places]
                limit_step()
            return
        for number in range(reader.num_record_batches):
            try:
                batch = reader.get_batch(number)
                yield [batch.column(place) for place in places]
            except MemoryError:  # pyarrow allocates memory for excluded columns, too: read all of them, in place
                unprojected = unprojected or self._reader(None)
                batch = unprojected.get_batch(number)
                yield [batch.column(column) for column in columns]
            limit_step()

    def _cheapest(self) -> list[int]:
        """Return the position of the cheapest column for counting rows."""
        kinds = [type_kind(field.type) for field in self._schema]
        order = ("integer", *_FLOATS.values(), "string")
        return sorted(range(len(kinds)), key=lambda i: order.index(kinds[i]) if kinds[i] in order else 9)[:1]


def _plain(values: Any) -> Any:
    return values.storage if isinstance(values, pa.ExtensionArray) else values
