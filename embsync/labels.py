"""Labels: columns of strings, numbers, booleans or lists of strings for the items, in the types of their files.

``docs/store-format.md`` describes the files of a column. A row without a value is null.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from embsync.dtypes import Array, Bool, Int64
from embsync.errors import UsageError

#: A value of a label as plain Python; None is null.
Value: TypeAlias = str | int | float | bool | list[str] | None
LabelKind = Literal["string", "integer", "float", "boolean", "strings"]
KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
#: Valid names: they are used as file names, fields of queries and arguments in a shell.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
#: Bytes of the longest string.
LONGEST = 4096
#: Up to this many values are compared one by one: 2 of 500,000 codes took 0.1 ms, NumPy's ``isin`` 2.7.
_FEW = 16
#: The value that represents null, by kind.
_NULL: dict[LabelKind, Any] = {
    "integer": np.iinfo(np.int64).min,
    "float": np.nan,
    "boolean": -1,
    "string": -1,
    "strings": -1,
}
_TYPE: dict[LabelKind, Any] = {
    "integer": np.int64,
    "float": np.float64,
    "boolean": np.int8,
    "string": np.int32,
    "strings": np.int32,
}
#: Types of ``values`` in files, as NumPy writes them.
VALUE_TYPES = {kind: (np.dtype(type_).newbyteorder("<").str,) for kind, type_ in _TYPE.items()}
_WORDS: dict[LabelKind, str] = {
    "string": "a string",
    "integer": "an integer",
    "float": "a number",
    "boolean": "true or false",
    "strings": "a string",
}
_PARTS = ("values", "starts", "offsets", "text")


def files_of(name: str, kind: str) -> dict[str, str]:
    """Return the paths of a column's files in a version, by their contents."""
    parts = {"string": ("values", "offsets", "text"), "strings": _PARTS}.get(kind, ("values",))
    return {part: f"labels/{name}{'' if part == 'values' else f'.{part}'}.npy" for part in parts}


@dataclass(frozen=True)
class LabelColumn:
    """One label of n rows.

    Attributes
    ----------
    name : str
    kind : str
        "string", "integer", "float", "boolean", or "strings" for lists of them.
    values : ndarray
        (n,) int64, float64 or int8 (1, 0); int32 codes for strings. For lists, the concatenated codes.
    starts : (n + 1,) int64 ndarray, optional
        Where the codes of each list begin.
    offsets : (m + 1,) int64 ndarray, optional
        Where each of the m different strings, ascending by bytes, begins in the text.
    text : (b,) uint8 ndarray, optional
        Their bytes in UTF-8.
    """

    name: str
    kind: LabelKind
    values: Array
    starts: Int64 | None = None
    offsets: Int64 | None = None
    text: Array | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.values) if self.starts is None else len(self.starts) - 1

    def files(self) -> list[tuple[str, Array]]:
        """Return the paths of its files in a version, with their arrays."""
        return [(path, getattr(self, part)) for part, path in files_of(self.name, self.kind).items()]

    @property
    def nulls(self) -> int:
        """Number of rows without a value."""
        return int(np.count_nonzero(self._is_null()))

    def at(self, rows: Int64) -> list[Any]:
        """Return the values of rows as plain Python, None for null and for negative rows."""
        if self.starts is not None:
            lists = (self.values[self.starts[row] : self.starts[row + 1]] if row >= 0 else [-1] for row in rows)
            return [None if len(one) == 1 and one[0] < 0 else [self._word(code) for code in one] for one in lists]
        values = np.where(rows >= 0, np.asarray(self.values).take(rows, mode="clip"), _NULL[self.kind])
        if self.kind == "string":
            return [None if code < 0 else self._word(code) for code in values]
        if self.kind == "boolean":
            return [None if value < 0 else bool(value) for value in values.tolist()]
        null = np.isnan(values) if self.kind == "float" else values == _NULL[self.kind]
        return [None if is_null else value for value, is_null in zip(values.tolist(), null.tolist(), strict=True)]

    def matching(self, condition: object) -> Bool:
        """Return which rows meet a condition, (n,) bool.

        Parameters
        ----------
        condition : value, list of values, or mapping
            The value, any of the values (for lists of strings: at least one of them is present), or an inclusive range
            of numbers ``{"min": a, "max": b}`` with either bound optional. None is null.

        Raises
        ------
        UsageError
            A value of a different type from the label's.
        """
        if isinstance(condition, Mapping):
            return self._between(condition)
        wanted = list(condition) if isinstance(condition, list | tuple | set | frozenset | np.ndarray) else [condition]
        wanted = [one.item() if isinstance(one, np.generic) else one for one in wanted]
        given = [self._checked(one) for one in wanted if one is not None]
        found = self._is_null() if len(given) < len(wanted) else np.zeros(len(self), np.bool_)
        if given:
            found |= self._equal(given)
        return found

    def _equal(self, given: list[Any]) -> Bool:
        if self.offsets is None:
            return _among(self.values, np.array(given, self.values.dtype))
        codes = np.array([code for one in given if (code := self._code(one)) >= 0], np.int32)
        hit = _among(self.values, codes)
        if self.starts is None:
            return hit
        hits_before = np.zeros(len(hit) + 1, np.int64)
        np.cumsum(hit, out=hits_before[1:])
        before = hits_before[self.starts]
        return np.asarray(before[1:] > before[:-1])

    def _between(self, condition: Mapping[Any, Any]) -> Bool:
        where = f"label {self.name}"
        if self.kind not in ("integer", "float"):
            raise UsageError(
                "a range for values that are not numbers", where=where, found=self.kind, expected="a value or a list"
            )
        unknown = set(condition) - {"min", "max"}
        if unknown or not condition:
            found = ", ".join(map(str, sorted(unknown))) or "neither"
            raise UsageError("not a range", where=where, found=found, expected="min, max or both")
        mask = ~self._is_null()
        for name, bound in condition.items():
            if isinstance(bound, bool) or not isinstance(bound, int | float | np.number) or math.isnan(bound):
                raise UsageError(f"{name} is not a number", where=where, found=repr(bound)[:80], expected="a number")
            mask &= self.values >= bound if name == "min" else self.values <= bound
        return mask

    def _checked(self, value: object) -> object:
        types: dict[str, Any] = {"integer": int, "float": int | float, "boolean": bool}
        fits = isinstance(value, types.get(self.kind, str)) and isinstance(value, bool) == (self.kind == "boolean")
        if fits and self.kind == "integer":
            fits = -(2**63) < value < 2**63  # type: ignore[operator]
        if not fits or (isinstance(value, float) and math.isnan(value)):
            raise UsageError(
                "a value of a different type from the label's",
                where=f"label {self.name}",
                found=repr(value)[:80],
                expected=_WORDS[self.kind],
            )
        return value

    def _is_null(self) -> Bool:
        null = self._null_among(self.values)
        if self.starts is None:
            return null
        found = np.zeros(len(self), np.bool_)
        found[np.searchsorted(self.starts, np.flatnonzero(null), "right") - 1] = True
        return found

    def null_at(self, rows: Int64) -> Bool:
        """Return which of the rows have no value."""
        if self.starts is None:
            return self._null_among(np.asarray(self.values)[rows])
        codes = np.asarray(self.values).take(self.starts[rows], mode="clip")  # the last list may be empty
        return np.asarray(self._null_among(codes) & (self.starts[rows + 1] - self.starts[rows] == 1))

    def _null_among(self, values: Array) -> Bool:
        return np.asarray(np.isnan(values) if self.kind == "float" else values == _NULL[self.kind])

    def _word(self, code: int) -> str:
        return self.word_bytes(int(code)).decode("utf-8", "replace")

    def word_bytes(self, code: int) -> bytes:
        """Return the UTF-8 bytes of a string by its code."""
        assert self.offsets is not None
        assert self.text is not None
        return self.text[self.offsets[code] : self.offsets[code + 1]].tobytes()

    def _code(self, word: str) -> int:
        """Return the code of a string, -1 if no row has it."""
        assert self.offsets is not None
        wanted, count = word.encode("utf-8", "surrogatepass"), len(self.offsets) - 1
        code = bisect.bisect_left(range(count), wanted, key=self.word_bytes)
        return code if code < count and self.word_bytes(code) == wanted else -1

    def words(self) -> list[bytes]:
        """Return the different strings, ascending."""
        return [] if self.offsets is None else [self.word_bytes(code) for code in range(len(self.offsets) - 1)]


def _among(values: Array, wanted: Array) -> Bool:
    """Return which values are wanted; a few are compared one by one."""
    if len(wanted) > _FEW:
        return np.asarray(np.isin(values, wanted))
    hit = np.zeros(len(values), np.bool_)
    for one in wanted:
        hit |= values == one
    return hit


class LabelEncoder:
    """Builds a column from values that arrive in parts."""

    def __init__(self, name: str, kind: LabelKind) -> None:
        self._name = name
        self.kind = kind
        self._codes: dict[bytes, int] = {}
        self._values: list[Array] = []
        self._lengths: list[Array] = []

    def add(self, values: Sequence[Any]) -> None:
        """Add values of the kind, or None."""
        null = _NULL[self.kind]
        if self.kind == "strings":
            lists = [[None] if one is None else list(one) for one in values]
            self._lengths.append(np.fromiter(map(len, lists), np.int64, len(lists)))
            values = [word for one in lists for word in one]
        if self.kind in ("string", "strings"):
            coded = (-1 if one is None else self._code(one) for one in values)
        else:
            coded = (null if one is None else one for one in values)
        self._values.append(np.fromiter(coded, _TYPE[self.kind], len(values)))

    def _code(self, word: str) -> int:
        return self._codes.setdefault(word.encode("utf-8", "surrogatepass"), len(self._codes))

    def column(self) -> LabelColumn:
        """Return the column."""
        values = np.concatenate([*self._values, np.empty(0, _TYPE[self.kind])])
        if self.kind not in ("string", "strings"):
            return LabelColumn(self._name, self.kind, values)
        starts = None
        if self.kind == "strings":
            starts = np.concatenate([[0], np.cumsum(np.concatenate([*self._lengths, np.empty(0, np.int64)]))])
        words = sorted(self._codes)
        places = np.full(len(words) + 1, -1, np.int32)
        places[[self._codes[word] for word in words]] = np.arange(len(words))
        return LabelColumn(self._name, self.kind, places[values], starts, *_dictionary(words))


def _dictionary(words: Sequence[bytes]) -> tuple[Int64, Array]:
    offsets = np.concatenate([[0], np.cumsum([len(word) for word in words], dtype=np.int64)]).astype(np.int64)
    return offsets, np.frombuffer(b"".join(words), np.uint8)


#: A column, rows of the result, and the rows of the column to be put there.
Piece = tuple[LabelColumn, Int64, Int64]


def combined(name: str, kind: LabelKind, count: int, pieces: Sequence[Piece]) -> LabelColumn:
    """Return a column of ``count`` rows combined from rows of others of its kind; the rest is null."""
    words = sorted(set().union(*(_used(column, rows) for column, _, rows in pieces)))
    if kind not in ("string", "strings"):
        values = np.full(count, _NULL[kind], _TYPE[kind])
        for column, to, rows in pieces:
            values[to] = column.values[rows]
        return LabelColumn(name, kind, values)
    places = {word: place for place, word in enumerate(words)}
    tables = [np.array([places.get(word, -1) for word in column.words()] + [-1], np.int32) for column, _, _ in pieces]
    if kind == "string":
        values = np.full(count, -1, np.int32)
        for (column, to, rows), table in zip(pieces, tables, strict=True):
            values[to] = table[column.values[rows]]
        return LabelColumn(name, kind, values, None, *_dictionary(words))
    lengths = np.ones(count, np.int64)  # a null takes one code
    for column, to, rows in pieces:
        lengths[to] = np.diff(_starts(column))[rows]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    values = np.full(starts[-1], -1, np.int32)
    for (column, to, rows), table in zip(pieces, tables, strict=True):
        values[_spans(starts[to], lengths[to])] = table[column.values[_spans(_starts(column)[rows], lengths[to])]]
    return LabelColumn(name, kind, values, starts, *_dictionary(words))


def _starts(column: LabelColumn) -> Int64:
    assert column.starts is not None
    return np.asarray(column.starts)


def _used(column: LabelColumn, rows: Int64) -> Iterable[bytes]:
    if column.offsets is None:
        return ()
    places = rows
    if column.starts is not None:
        starts = _starts(column)
        places = _spans(starts[rows], np.diff(starts)[rows])
    codes = column.values[places]
    return (column.word_bytes(int(code)) for code in np.unique(codes) if code >= 0)


def _spans(starts: Int64, lengths: Int64) -> Int64:
    """Return the concatenated positions of spans."""
    first = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(first - starts, lengths)


def unchanged(before: LabelColumn, old: Int64, after: LabelColumn, new: Int64) -> Bool:
    """Return which rows of two columns have equal values: row ``old[i]`` and row ``new[i]``.

    Null equals only null, values of different kinds are never equal, and lists are equal if their strings are.
    """
    if before.kind != after.kind:
        return before.null_at(old) & after.null_at(new)
    first, second = np.asarray(before.values), np.asarray(after.values)
    if before.starts is None:
        first, second = first[old], second[new]
        if before.kind == "string":
            return _equal_words(before, first, after, second)
        return np.asarray((first == second) | (np.isnan(first) & np.isnan(second)))
    starts, others = _starts(before)[old], _starts(after)[new]
    lengths = _starts(before)[old + 1] - starts
    same = np.asarray(lengths == _starts(after)[new + 1] - others)
    rows = np.flatnonzero(same & (lengths > 0))
    words = first[_spans(starts[rows], lengths[rows])], second[_spans(others[rows], lengths[rows])]
    same[rows] = _all_of_spans(_equal_words(before, words[0], after, words[1]), lengths[rows])
    return same


def _equal_words(before: LabelColumn, old: Array, after: LabelColumn, new: Array) -> Bool:
    """Return which codes of two dictionaries stand for equal strings, comparing lengths first, then bytes."""
    lengths = _word_lengths(before, old)
    same = lengths == _word_lengths(after, new)
    places = np.flatnonzero(same & (lengths > 0))
    sizes = lengths[places]
    assert before.offsets is not None
    assert before.text is not None
    assert after.offsets is not None
    assert after.text is not None
    first = before.text[_spans(np.asarray(before.offsets)[old[places]], sizes)]
    second = after.text[_spans(np.asarray(after.offsets)[new[places]], sizes)]
    same[places] = _all_of_spans(first == second, sizes)
    return np.asarray(same)


def _word_lengths(column: LabelColumn, codes: Array) -> Int64:
    """Return the length of each string in bytes, -1 for null."""
    return np.append(np.diff(np.asarray(column.offsets)), -1)[codes]


def _all_of_spans(true: Bool, lengths: Int64) -> Bool:
    """Return for concatenated, non-empty spans whether all values in each are true."""
    return np.logical_and.reduceat(true, np.cumsum(lengths) - lengths) if len(lengths) else np.empty(0, np.bool_)


def damage(column: LabelColumn, rows: int) -> Iterator[str]:
    """Yield faults in a column of ``rows`` rows: values that no publisher writes."""
    if len(column) != rows:
        yield f"{len(column)} rows, not {rows}"
    characters = 0 if column.text is None else len(column.text)
    for starts, end in ((column.starts, len(column.values)), (column.offsets, characters)):
        if starts is None:
            continue
        if len(starts) == 0 or starts[0] != 0 or starts[-1] != end or (np.diff(starts) < 0).any():
            yield "offsets do not ascend from 0 to the end"
    if column.offsets is not None and len(column.values):
        largest = len(column.offsets) - 2
        if column.values.min() < -1 or column.values.max() > largest:
            yield f"codes {column.values.min()} to {column.values.max()}, not -1 to {largest}"
