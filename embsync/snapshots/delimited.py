"""Layout csv: CSV and TSV, optionally compressed, with or without a header, as pandas, Spark and StarSpace write them.

Vectors are one column of lists (``"[0.1, 0.2]"``, ``0.1 0.2``) or one column per dimension, read as float32. Ids are
integers if all are written as integers, without leading zeros, plus signs or fractions; otherwise they are strings.
Only the first lines are inspected here; the rest is left to the decoder.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError, UsageError
from embsync.ids import LONGEST_ID
from embsync.snapshots import projector
from embsync.snapshots.arrays import MOST_WIDTH
from embsync.snapshots.compression import PACKED, unpacked
from embsync.snapshots.decoder_process import Message
from embsync.snapshots.dimensions import numbered
from embsync.snapshots.files import FileBytes, Place
from embsync.snapshots.side_files import ColumnFormat

EXPECTS = "items and users, each one .csv or .tsv file (also .gz, .zst) with ids and vectors, or a directory of them"
_SUFFIXES = tuple(text + packed for text in (".csv", ".tsv") for packed in ("", *PACKED))
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_LONGEST_LINE = LONGEST_ID + 32 * MOST_WIDTH
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_LIST = re.compile(
    r"\s*([\[({].*[\])}]|[+-]?[\d.]+([eE][+-]?\d+)?(\s+[+-]?[\d.]+([eE][+-]?\d+)?)+)\s*", re.ASCII | re.DOTALL
)


@dataclass(frozen=True)
class TableHead:
    """The first two lines of a file: its delimiter, its header if it has one, and its first row."""

    delimiter: str
    header: tuple[str, ...] | None
    row: tuple[str, ...]

    @property
    def holds_vectors(self) -> bool:
        """Whether the first row has a list, or enough numbers to be a vector."""
        if any(_LIST.fullmatch(field) for field in self.row):
            return True
        numbers = [field for field in self.row if _NUMBER.fullmatch(field)]
        if self.header is None:  # a single number, or mostly integers, need not be a vector
            return len(numbers) > 1 and sum("." in field for field in numbers) * 2 > len(numbers)
        kinds = {
            name: "number" if _NUMBER.fullmatch(field) else "string"
            for name, field in zip(self.header, self.row, strict=False)
        }
        return bool(numbered(kinds, {}))

    @property
    def begins_with_ids(self) -> bool:
        """Whether the first column of a file without header can be ids: text or integers."""
        return not _NUMBER.fullmatch(self.row[0]) or _INTEGER.fullmatch(self.row[0]) is not None


def recognise(place: Place) -> bool:
    """Return whether the names and first lines at ``place`` match this layout."""
    return not projector.recognise(place) and FORMAT.recognise(place)


def _is_part(place: Place) -> bool:
    if not place.name.endswith(_SUFFIXES):
        return False
    try:
        return read_head(place).holds_vectors
    except UsageError:  # without zstd, the first line cannot be inspected
        return True
    except SnapshotError:
        return place.name.endswith(PACKED)  # reading it reports the error


def _form(place: Place, _: SnapshotConfig) -> Message:
    try:
        head = read_head(place)
    except UsageError:
        head = TableHead(",", (), ())
    return {
        "kind": "text",
        "delimiter": head.delimiter,
        "header": head.header is not None,
        # pandas quotes, StarSpace does not
        "quoted": ".csv" in place.name[-9:] or head.header is not None,
        "packed": _CODECS.get(f".{place.name.rpartition('.')[2]}"),
        "ids": head.header is not None or not head.row or head.begins_with_ids,
    }


FORMAT = ColumnFormat(_SUFFIXES, _is_part, _form)


def read_head(place: Place) -> TableHead:
    """Return the interpretation of the first lines of a file.

    Raises
    ------
    SnapshotError
        The file cannot be opened or decompressed.
    UsageError
        The file is compressed by zstd, which is not installed.
    """
    lines = [line.decode("utf-8", "replace") for line in islice(_lines(place), 2)]
    csv.field_size_limit(_LONGEST_LINE)
    allowed = "\t" if ".tsv" in place.name[-9:] else ";\t|,"
    for delimiter in allowed:
        first, second = (*(tuple(next(_fields(line, delimiter), ())) for line in lines), (), ())[:2]
        if delimiter == allowed[-1] or (len(first) > 1 and len(second) in {0, len(first)}):
            break
    if _is_header(first, second):
        return TableHead(delimiter, first, second)
    return TableHead(delimiter, None, first)


def _is_header(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Return whether ``first`` is a header: text, or counted from 0 or 1, above the numbers and lists of ``second``."""
    if not second:
        return not any(_NUMBER.fullmatch(field) or _LIST.fullmatch(field) for field in first)
    over = [
        above for above, below in zip(first, second, strict=False) if _NUMBER.fullmatch(below) or _LIST.fullmatch(below)
    ]
    numbers = [above for above in over if _NUMBER.fullmatch(above) or _LIST.fullmatch(above)]
    if not numbers:
        return bool(over)
    counted = [str(number) for number in range(len(numbers) + 1)]
    return len(numbers) > 1 and numbers in (counted[:-1], counted[1:]) and tuple(first) != tuple(second)


def _fields(line: str, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader([line], delimiter=delimiter)
    except csv.Error:
        return


def _lines(place: Place) -> Iterator[bytes]:
    with place.open() as file:
        rest = b""
        for piece in unpacked(FileBytes(file, str(place)), place.name):
            *lines, rest = (rest + piece).split(b"\n", 3)
            for line in lines:
                yield line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")
            if len(rest) > _LONGEST_LINE:
                break
        yield rest.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")
