"""Tables of delimited text: CSV and TSV, perhaps compressed.

The parent has determined the options from the first lines::

    {"kind": "text", "delimiter": ",", "header": true, "quoted": true, "packed": null, "ids": true}

``packed`` is ``gzip``, ``zstd`` or null. Without a header, the columns are ``id`` and ``embedding``, or ``id``, ``0``,
``1`` and so on if there are more than two; without ``ids``, all are numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from embsync.decoder.limits import Message, Unusable, limit_step

#: Size of a block, which must hold the longest row: 65,536 numbers of 32 characters and an id.
_BLOCK = 4 * 1024**2
#: Numbers in text compress to a third of their size, rows of zeros to a thirtieth.
_MOST_INFLATION = 100
_ALLOWANCE_BYTES = 16 * 1024**2
#: Rows from which the kinds of columns are inferred, and the block that holds them; every request infers them again.
_SAMPLE = 1000
_SAMPLE_BLOCK = 256 * 1024
_INTEGER = r"^(0|-?[1-9][0-9]{0,18})$"
_NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
_FRACTION = r"[.eE]"
_LIST = r"^\s*([\[({]|[+-]?[0-9.]+([eE][+-]?[0-9]+)?\s+[+-]?[0-9.])"

_IN_TEXT = {"number": "float in text", "integer": "integer in text"}

Column = tuple[str, str, str]


class TextTable:
    """A file of delimited text."""

    rows: int | None = None

    def __init__(self, path: str, form: Message) -> None:
        self._path = path
        self._form = form
        self._columns: dict[int, Column] = {}
        self._read: tuple[list[str], Any] | None = None

    def columns(self) -> list[Column]:
        """Return the columns, with kinds inferred from their first values."""
        names, rows = self._start()
        return [] if rows is None else self.some(range(len(names)))

    def some(self, positions: Sequence[int]) -> list[Column]:
        """Return the columns at these positions; only their kinds are inferred, since each takes time."""
        names, rows = self._start()
        if rows is None:
            raise Unusable("no rows", 0)
        for position in positions:
            if position not in self._columns:
                values = rows.column(position)
                kind = _kind_of(values)
                self._columns[position] = names[position], kind, _IN_TEXT.get(kind) or _shown(values)
        return [self._columns[position] for position in positions]

    def count(self, columns: Sequence[int]) -> Message:
        """Return the number of rows, and whether all values of a column are written as integers."""
        rows, integers = 0, True
        for (batch,) in self.batches(columns, _BLOCK, "ids"):
            rows += len(batch)
            integers = integers and _are_integers(batch)
        return {"rows": rows, "kind": "integer" if integers else "string"}

    def batches(self, columns: Sequence[int], rows: int, kind: str) -> Iterator[list[Any]]:
        """Yield slices of the blocks, which are parsed one after the other."""
        if self._start()[1] is None:
            return
        judged = zip(columns, self.some(columns), strict=True)
        kinds = {column: self._type(written, kind) for column, (_, written, _) in judged}
        for batch in self._parsed(kinds):
            if batch.num_columns != len(columns):
                raise Unusable("a different number of columns from before", batch.num_columns, len(columns))
            for start in range(0, batch.num_rows, rows):
                some = batch.slice(start, rows)
                yield [some.column(place) for place in range(len(columns))]

    def _type(self, kind: str, use: str) -> Any:
        if use == "weights":
            return pa.float64()
        return pa.float32() if use == "vectors" and kind in {"number", "integer"} else pa.string()

    def _start(self) -> tuple[list[str], Any]:
        """Return the names of the columns, and the first rows as text, None if there are none."""
        if self._read is None:
            names = self._names()
            rows = self._sample(len(names)) if names else None
            if rows is not None and rows.num_columns != len(names):
                raise Unusable("rows with a different number of fields from the header", rows.num_columns, len(names))
            self._read = names, rows
        return self._read

    def _sample(self, columns: int) -> Any:
        """Return the first rows as text, None if there are none."""
        for block in (_SAMPLE_BLOCK, _BLOCK):
            batches: list[Any] = []
            try:
                for batch in self._parsed(None, columns, block):
                    batches.append(batch)
                    if sum(one.num_rows for one in batches) >= _SAMPLE:
                        break
            except pa.ArrowInvalid:  # a row that is longer than the block, or an ill-formed one
                if block == _BLOCK:
                    raise
                continue
            rows = pa.Table.from_batches(batches).slice(0, _SAMPLE) if batches else None
            return rows if rows is not None and rows.num_rows else None
        return None

    def _names(self) -> list[str]:
        with self._opened() as source:
            line = source.read(_BLOCK).partition(b"\n")[0].removeprefix(b"\xef\xbb\xbf")
        csv.field_size_limit(_BLOCK)
        delimiter, text = self._form["delimiter"], line.decode().rstrip("\r")
        if not text:
            return []
        quoted = self._form["quoted"]
        names = next(csv.reader([text], delimiter=delimiter, strict=True)) if quoted else text.split(delimiter)
        if self._form["header"]:
            return [name.strip(" ") for name in names]
        if not self._form["ids"]:
            return [str(number) for number in range(len(names))]
        return ["id", "embedding"] if len(names) == 2 else ["id", *(str(number) for number in range(len(names) - 1))]

    def _parsed(self, kinds: dict[int, Any] | None, columns: int = 0, block: int = _BLOCK) -> Iterator[Any]:
        """Yield record batches of some columns, or of all as text."""
        kinds = kinds if kinds is not None else dict.fromkeys(range(columns), pa.string())
        options = self._options(kinds, columns, block)
        with self._opened() as source:
            try:
                reader = pyarrow.csv.open_csv(source, *options)
            except pa.ArrowInvalid as error:
                if "Empty CSV" in str(error) and not source.read(1):
                    return  # a header without rows, or an empty file
                raise
            while True:
                try:
                    yield reader.read_next_batch()
                except StopIteration:
                    return
                limit_step()

    def _options(self, kinds: dict[int, Any], columns: int, block: int) -> tuple[Any, Any, Any]:
        """Return the options of reading, parsing and converting."""
        types = {f"f{column}": kind for column, kind in kinds.items()}
        return (
            pyarrow.csv.ReadOptions(
                use_threads=False,
                block_size=block,
                skip_rows=int(self._form["header"]),
                autogenerate_column_names=True,
            ),
            pyarrow.csv.ParseOptions(
                delimiter=self._form["delimiter"],
                quote_char='"' if self._form["quoted"] else False,
                # in a table with one column, an empty line is an empty value
                ignore_empty_lines=(columns or len(self._start()[0])) > 1,
            ),
            pyarrow.csv.ConvertOptions(
                column_types=types, include_columns=None if columns else list(types), null_values=["", "NULL"]
            ),
        )

    def _opened(self) -> Any:
        source = pa.OSFile(self._path)
        return source if self._form["packed"] is None else _Bounded(source, self._form["packed"])


class _Bounded:
    """A compressed file that is read up to the largest plausible size of its text."""

    closed = False

    def __init__(self, source: Any, codec: str) -> None:
        self._most = source.size() * _MOST_INFLATION + _ALLOWANCE_BYTES
        self._source = source
        self._unpacked = pa.CompressedInputStream(source, codec)
        self._given = 0

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int = _BLOCK) -> bytes:
        data: bytes = self._unpacked.read(min(size, _BLOCK) if size >= 0 else _BLOCK)
        self._given += len(data)
        if self._given > self._most:
            raise Unusable("more than text can expand to", "a larger size", f"at most {self._most} bytes")
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self._unpacked.close()
        self._source.close()


def _kind_of(values: Any) -> str:
    if _all(values, _INTEGER):
        return "integer"
    if _all(values, _NUMBER) and pc.any(pc.match_substring_regex(values, _FRACTION)).as_py():
        return "number"
    return "list text" if _all(values, _LIST) else "string"


def _shown(values: Any) -> str:
    """Return the kind of text that is not numbers, with the first such value of a column that begins with numbers."""
    numbers = pc.match_substring_regex(values, _NUMBER).fill_null(True).to_pylist()
    row = numbers.index(False) if False in numbers else 0
    return f"text, {values[row].as_py()[:16]!r} in row {row}" if row else "text"


def _are_integers(values: Any) -> bool:
    if not _all(values, _INTEGER):
        return False
    try:
        values.cast(pa.int64())
    except pa.ArrowInvalid:  # beyond 64 bits
        return False
    return True


def _all(values: Any, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())
