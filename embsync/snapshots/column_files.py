"""Sides whose ids, vectors and weights are columns of files that a decoder reads: parquet, Arrow, CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from embsync.config import SnapshotConfig
from embsync.dtypes import Array
from embsync.errors import SnapshotError
from embsync.ids import LONGEST_ID, joined
from embsync.rows import block_rows
from embsync.snapshots.arrays import require_vectors
from embsync.snapshots.columns import Chosen, Columns, choose
from embsync.snapshots.decoded_rows import read_blocks, read_column
from embsync.snapshots.decoder_process import Decoders, Message
from embsync.snapshots.files import Place
from embsync.snapshots.sides import IdentifiedSide

_ID_TYPES = {"integer": np.dtype(np.int64), "string": np.dtype("S1")}

#: Rows of a batch of ids or weights: at most 8 MiB of the longest strings.
_COLUMN_BATCH = 8192


@dataclass(frozen=True)
class Part:
    """One file of a side, as the decoder described it.

    Attributes
    ----------
    place : Place
    form : dict
        How to read the file, for the decoder.
    rows : int or None
        None if they can only be counted by reading the file.
    kinds, types : mapping of column names to kinds and full types of their values
    """

    place: Place
    form: Message = field(compare=False)
    rows: int | None
    kinds: Mapping[str, str]
    types: Mapping[str, str]

    @classmethod
    def at(cls, place: Place, form: Message, decoders: Decoders) -> Part:
        """Have the decoder describe a file."""
        where = str(place)
        columns: list[tuple[str, str, str]] = []
        with decoders.one() as decoder, place.open() as file:
            answer = decoder.ask(where, "describe", {"form": form}, file.fileno())
            while "columns" in answer:
                columns += answer["columns"]
                answer = decoder.answer(where)
        rows, names = answer["rows"], [name for name, _, _ in columns]
        if len(set(names)) != len(names) or not (rows is None or 0 <= rows < 2**62):
            raise SnapshotError(
                "column names repeat, or the number of rows is implausible",
                where=where,
                found=f"{rows} rows, columns {', '.join(names)[:200]}",
                expected="each name once",
            )
        kinds, types = ({column[0]: column[which] for column in columns} for which in (1, 2))
        return cls(place, form, rows, kinds, types)

    @property
    def columns(self) -> Columns:
        """The columns, to choose from."""
        return Columns(str(self.place), self.kinds, self.types)

    def wanted(self, names: Sequence[str]) -> Message:
        """Return the part of a request that names these columns."""
        positions = {name: number for number, name in enumerate(self.kinds)}
        return {"form": self.form, "columns": [positions[name] for name in names]}

    def head(self, names: Sequence[str]) -> Message:
        """Return the expected head of the reply; any other means that the file has changed."""
        rows = None if self.form["kind"] == "text" else self.rows
        return {"rows": rows, "name": names[0], "kind": self.kinds[names[0]]}


@dataclass(frozen=True)
class FileColumn:
    """A column of ids or weights over all files of a side."""

    source: str
    parts: tuple[Part, ...]
    name: str
    kind: str
    decoders: Decoders = field(repr=False)

    def __str__(self) -> str:
        return f"{self.source}({self.name})"

    @property
    def count(self) -> int:
        """Number of values."""
        return _rows_of(self.parts)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values; for strings, a placeholder without their length."""
        return np.dtype(np.float64) if self.kind == "weights" else _ID_TYPES[self.kind]

    def read(self) -> Array:
        """Return the values in the order of the files."""
        wanted = {
            "as": "weights" if self.kind == "weights" else f"{self.kind}s",
            "batch": _COLUMN_BATCH,
            "longest": LONGEST_ID,
            "most_bytes": _COLUMN_BATCH * (LONGEST_ID + 4),
        }
        values = []
        with self.decoders.one() as decoder:
            for part in self.parts:
                asked, head = wanted | part.wanted([self.name]), part.head([self.name])
                for rows, data in read_column(decoder, part.place, asked, head, _rows_of((part,))):
                    values.append(self._decoded(rows, data))
        return np.concatenate(values)

    def _decoded(self, rows: int, data: Array) -> Array:
        strings = self.kind == "string"
        fixed = rows * (4 if strings else self.dtype.itemsize)
        lengths = data[:fixed].view("<i4") if strings and len(data) >= fixed else np.empty(0, "<i4")
        if len(data) != fixed + int(lengths.sum()):
            raise SnapshotError(
                "malformed table", where=str(self), found=f"{len(data)} bytes", expected=f"{rows} values"
            )
        return joined(lengths, data[fixed:].data, str(self)) if strings else data.view(self.dtype)


@dataclass(frozen=True)
class FileRows:
    """The vectors of all files of a side, as :class:`~embsync.rows.Rows`: one column of lists, or one per dimension."""

    source: str
    parts: tuple[Part, ...]
    columns: tuple[str, ...]
    dtype: np.dtype[Any]
    width: int
    decoders: Decoders = field(repr=False)

    @property
    def count(self) -> int:
        """Number of rows."""
        return _rows_of(self.parts)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield blocks of the common size, independently of the files' row groups and pages."""
        shape, start = (block_rows(self.width), self.width), 0
        parts = (
            (part.place, part.wanted(self.columns), part.head(self.columns), _rows_of((part,))) for part in self.parts
        )
        with self.decoders.one() as decoder:
            for block in read_blocks(decoder, parts, shape, self.dtype):
                start += len(block)
                yield start - len(block), block
                del block


@dataclass(frozen=True)
class StoredColumns:
    """Where a side is stored, for engines that read the files themselves.

    Attributes
    ----------
    kind : str
        Kind of the files, as in a form, such as ``parquet``.
    files : tuple of str
    vectors : tuple of str
        A column of lists, or one column for each dimension.
    vector_kind : str
        Kind of the values of the first of these columns, such as ``list float32``.
    dtype : dtype
        Type of the numbers.
    ids : str
    id_kind : str
        ``integer`` or ``string``.
    """

    kind: str
    files: tuple[str, ...]
    vectors: tuple[str, ...]
    vector_kind: str
    dtype: np.dtype[Any]
    ids: str
    id_kind: str

    @classmethod
    def of(cls, side: IdentifiedSide) -> StoredColumns | None:
        """Return where a side is stored; None unless its vectors and ids are columns of files."""
        rows, ids = side.vectors, side.id_column
        if not isinstance(rows, FileRows) or not isinstance(ids, FileColumn):
            return None
        parts = rows.parts
        return cls(
            str(parts[0].form["kind"]),
            tuple(str(part.place) for part in parts),
            rows.columns,
            parts[0].kinds[rows.columns[0]],
            rows.dtype,
            ids.name,
            side.id_kind,
        )


def open_files(
    side: str,
    place: Place,
    files: Sequence[tuple[Place, Message]],
    decoders: Decoders,
    config: SnapshotConfig,
    *,
    ordered: bool = True,
) -> IdentifiedSide:
    """Return a side made of files in this order, which is arbitrary if ``ordered`` is False.

    Parameters
    ----------
    files : sequence of (file, form)
        The form is how to read the file, for the decoder.
    """
    parts = [Part.at(file, form, decoders) for file, form in files]
    filled = [part for part in parts if part.rows != 0]
    if not filled:
        raise _no_rows(place, len(parts))
    chosen = choose(side, filled[0].columns, config)
    _require_alike(filled, chosen)
    kind = "" if chosen.ids is None else filled[0].kinds[chosen.ids]
    counted, kind = count_rows(filled, chosen.ids, kind, decoders)
    if not counted:
        raise _no_rows(place, len(parts))
    vectors = rows_of(place, counted, chosen, decoders)
    ids, weights = (
        None if name is None else FileColumn(str(place), counted, name, kind, decoders)
        for name, kind in ((chosen.ids, kind), (chosen.weights, "weights"))
    )
    stored_bytes = vectors.count * (vectors.width * vectors.dtype.itemsize + 8)
    return IdentifiedSide(
        side, str(place), vectors, ids, weights, stored_bytes=stored_bytes, ordered=ordered, parts=counted
    )


def count_rows(parts: Sequence[Part], ids: str | None, kind: str, decoders: Decoders) -> tuple[tuple[Part, ...], str]:
    """Return the non-empty parts, with their numbers of rows and the common kind of their ids.

    Text has to be read for that: ids are integers only if every id in all parts is written as an integer.
    """
    counted, kinds = [], set()
    for part in parts:
        if part.rows is None:
            wanted = part.wanted([ids or next(iter(part.kinds))])
            with decoders.one() as decoder, part.place.open() as file:
                answer = decoder.ask(str(part.place), "count", wanted, file.fileno())
            counted.append(replace(part, rows=int(answer["rows"])))
            kinds.add(answer["kind"])
    if not counted:
        return tuple(parts), kind
    return tuple(part for part in counted if part.rows), kinds.pop() if len(kinds) == 1 else "string"


def rows_of(place: Place, parts: tuple[Part, ...], chosen: Chosen, decoders: Decoders) -> FileRows:
    """Return the vectors of these files, with the width of the first row."""
    first = parts[0]
    with decoders.one() as decoder, first.place.open() as file:
        width = int(decoder.ask(str(first.place), "width", first.wanted(chosen.vectors), file.fileno())["width"])
    shown = chosen.vectors[0] if len(chosen.vectors) == 1 else f"{chosen.vectors[0]} to {chosen.vectors[-1]}"
    require_vectors(chosen.dtype, (_rows_of((first,)), width), f"{first.place}({shown})")
    return FileRows(str(place), parts, chosen.vectors, chosen.dtype, width, decoders)


def _require_alike(parts: Sequence[Part], chosen: Chosen) -> None:
    first = parts[0]
    for part in parts[1:]:
        for name in filter(None, (*chosen.vectors, chosen.ids, chosen.weights)):
            if part.kinds.get(name) != first.kinds[name] and not (first.rows is None and name in part.kinds):
                raise SnapshotError(
                    f"column {name} differs among part files",
                    where=str(part.place),
                    found=part.kinds.get(name, "no such column"),
                    expected=f"{first.kinds[name]}, as in {first.place.name}",
                )


def _rows_of(parts: Sequence[Part]) -> int:
    return sum(part.rows or 0 for part in parts)


def _no_rows(place: Place, files: int) -> SnapshotError:
    found = f"{files} file{'' if files == 1 else 's'} without rows"
    return SnapshotError("no rows", where=str(place), found=found, expected="at least one row")
