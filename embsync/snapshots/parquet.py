"""Layout parquet: a file or a directory of part files for each side, as Spark, pandas, Polars or autofaiss write it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embsync.config import SnapshotConfig
from embsync.dtypes import Array
from embsync.errors import SnapshotError
from embsync.ids import LONGEST_ID, joined
from embsync.rows import block_rows
from embsync.snapshots.accounting import Claim
from embsync.snapshots.arrays import require_vectors
from embsync.snapshots.columns import VECTORS, Columns, choose
from embsync.snapshots.conversions import PARQUET_MAGIC, PARTITION, begins_with
from embsync.snapshots.files import DEEPEST, FileBytes, Place
from embsync.snapshots.names import side_of
from embsync.snapshots.natural_order import natural_key
from embsync.snapshots.parquet_memory import BlockMemory, read_column, shared_memory, stream_blocks
from embsync.snapshots.parquet_process import Decoders, Message
from embsync.snapshots.sides import ITEMS, USERS, IdentifiedSide
from embsync.snapshots.tables import SIDE_NAMES, delta_sides

EXPECTS = "items and users (or Spark's itemFactors and userFactors), each one .parquet file or a directory of them"
_SUFFIX = ".parquet"

_ID_TYPES = {"integer": np.dtype(np.int64), "string": np.dtype("S1")}

#: Rows of a batch of ids or weights: at most 8 MiB of the longest strings.
_COLUMN_BATCH = 8192


def recognise(place: Place) -> bool:
    """Tell whether the names at ``place`` are this layout's."""
    if place.kind() == "file":
        return is_part(place)
    return bool(_find_sides(place)) and not delta_sides(place)


def claim(place: Place, _: SnapshotConfig) -> Claim:
    """Return what this layout takes of what lies at ``place``."""
    if place.kind() == "file":
        return Claim(frozenset({ITEMS}), as_items=frozenset({place.name}))
    found = _find_sides(place)
    if found.get(ITEMS) == place:
        parts = frozenset(file.name for file in _part_files(place))
        return Claim(frozenset({ITEMS}), parts, parts)
    inside = frozenset(
        "/".join(part.parts[len(place.parts) :])
        for child in found.values()
        if child.kind() == "directory"
        for part in _part_files(child)
    )
    return Claim(frozenset(found), frozenset(child.name for child in found.values()), inside=inside)


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, IdentifiedSide | None]:
    """Return the sides at ``place``, judged by the footers of all their files."""
    decoders = Decoders()
    found = {ITEMS: place} if place.kind() == "file" else _find_sides(place)
    if ITEMS not in found:
        raise SnapshotError(
            "half of a snapshot",
            where=str(place),
            found=", ".join(p.name for p in found.values()),
            expected="items or itemFactors",
        )
    items = _open_side(ITEMS, found[ITEMS], decoders, config)
    return items, _open_side(USERS, found[USERS], decoders, config) if USERS in found else None


@dataclass(frozen=True)
class Part:
    """One file of a side, as its footer describes it."""

    place: Place
    rows: int
    columns: Mapping[str, str]
    types: Mapping[str, str]


@dataclass(frozen=True)
class ParquetColumn:
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
        return sum(part.rows for part in self.parts)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values, for strings without their length."""
        return np.dtype(np.float64) if self.kind == "weights" else _ID_TYPES[self.kind]

    def read(self) -> Array:
        """Return the values in the order of the files."""
        numbers = "weights" if self.kind == "weights" else f"{self.kind}s"
        wanted = {
            "column": self.name,
            "as": numbers,
            "batch": _COLUMN_BATCH,
            "longest": LONGEST_ID,
            "slot_bytes": _COLUMN_BATCH * (LONGEST_ID + 4),
        }
        values = []
        with self.decoders.one() as decoder, shared_memory(str(self)) as memory:
            for part in self.parts:
                expected = {"rows": part.rows, "type": part.columns[self.name]}
                for offset, rows in read_column(decoder, part.place, memory, wanted, expected):
                    values.append(self._decoded(memory, offset, rows))
        return np.concatenate(values)

    def _decoded(self, memory: FileBytes, offset: int, rows: int) -> Array:
        if self.kind != "string":
            numbers = np.empty(rows, self.dtype)
            memory.fill(numbers, offset)
            return numbers
        lengths = np.empty(rows, "<i4")
        memory.fill(lengths, offset)
        text = np.empty(min(int(lengths.sum()), rows * LONGEST_ID), np.uint8)
        memory.fill(text, offset + lengths.nbytes)
        return joined(lengths, text.data, str(self))


@dataclass(frozen=True)
class ParquetRows:
    """The vectors of all files of a side, as :class:`~embsync.rows.Rows`."""

    source: str
    parts: tuple[Part, ...]
    column: str
    dtype: np.dtype[Any]
    width: int
    decoders: Decoders = field(repr=False)

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(part.rows for part in self.parts)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield blocks of the agreed size, whatever the files' own row groups and pages are."""
        step, start = block_rows(self.width), 0
        wanted = {"column": self.column, "width": self.width, "batch": step}
        parts = ((part.place, {"rows": part.rows, "type": part.columns[self.column]}) for part in self.parts)
        with self.decoders.one() as decoder, BlockMemory.make((step, self.width), self.dtype) as memory:
            for block in stream_blocks(decoder, parts, memory, wanted):
                start += len(block)
                yield start - len(block), block
                del block


def _find_sides(place: Place) -> dict[str, Place]:
    entries = {name: kind for name, kind in place.entries().items() if not name.startswith((".", "_"))}
    sides: dict[str, Place] = {}
    for side, names in SIDE_NAMES.items():
        found = [place.child(name) for stem in names for name in (stem, stem + _SUFFIX) if name in entries]
        found = [child for child in found if child.name.endswith(_SUFFIX) or _holds_parts(child, entries[child.name])]
        if len(found) > 1:
            raise SnapshotError(
                f"more than one place for {side}",
                where=str(place),
                found=", ".join(child.name for child in found),
                expected="one",
            )
        sides.update((side, child) for child in found)
    others = [name for name in entries if not name.endswith(_SUFFIX) and side_of(name) is not None]
    if not sides and not others and any(name.endswith(_SUFFIX) for name in entries):
        return {ITEMS: place}  # a directory of part files and nothing else, as autofaiss reads it
    return sides


def _holds_parts(child: Place, kind: str) -> bool:
    _require_shallow(child)
    return kind == "directory" and any(
        _holds_parts(child.child(name), below) if PARTITION.match(name) else is_part(child.child(name), below)
        for name, below in child.entries().items()
    )


def _require_shallow(place: Place) -> None:
    if len(place.parts) > DEEPEST:
        raise SnapshotError("too many directories in one another", where=str(place), expected=f"at most {DEEPEST}")


def is_part(place: Place, kind: str = "file") -> bool:
    """Tell whether a file is parquet: by its ending, or without one (Athena, Trino) by its start."""
    if kind != "file" or place.name.startswith((".", "_")):
        return False
    return place.name.endswith(_SUFFIX) or ("." not in place.name and begins_with(place, PARQUET_MAGIC))


def _part_files(place: Place) -> list[Place]:
    if place.kind() == "file":
        return [place]
    _require_shallow(place)
    entries = {name: kind for name, kind in place.entries().items() if not name.startswith((".", "_"))}
    folders = [name for name, kind in entries.items() if kind == "directory" and not PARTITION.match(name)]
    if folders:
        raise SnapshotError(
            "a directory among part files",
            where=str(place),
            found=", ".join(folders[:5]),
            expected="part files, or partitions such as bucket=1",
        )
    links = [name for name, kind in entries.items() if kind == "link" and ("." not in name or PARTITION.match(name))]
    if links:  # a part or a partition that leads elsewhere; without it the rest is half of a side
        raise SnapshotError(
            "will not be opened",
            where=str(place.child(links[0])),
            found="a link",
            expected="a regular file or directory inside the snapshot",
            hint="copy the snapshot without links: cp -rL",
        )
    files: list[Place] = []
    for name in sorted(entries, key=natural_key):
        child = place.child(name)
        files += _part_files(child) if entries[name] == "directory" else [child] if is_part(child) else []
    return files


def _open_side(side: str, place: Place, decoders: Decoders, config: SnapshotConfig) -> IdentifiedSide:
    return open_files(side, place, _part_files(place), decoders, config)


def open_files(
    side: str, place: Place, files: list[Place], decoders: Decoders, config: SnapshotConfig, *, ordered: bool = True
) -> IdentifiedSide:
    """Return a side made of part files in this order, which means nothing where ``ordered`` is False."""
    parts = tuple(_describe(file, decoders) for file in files)
    filled = [part for part in parts if part.rows]
    if not filled:
        raise SnapshotError(
            "no rows", where=str(place), found=f"{len(parts)} files without rows", expected="at least one row"
        )
    chosen = choose(side, Columns(str(filled[0].place), filled[0].columns, filled[0].types), config)
    for part in filled[1:]:
        for name in filter(None, chosen):
            if part.columns.get(name) != filled[0].columns[name]:
                raise SnapshotError(
                    f"column {name} differs among part files",
                    where=str(part.place),
                    found=part.columns.get(name, "no such column"),
                    expected=f"{filled[0].columns[name]}, as in {filled[0].place.name}",
                )
    vectors = _rows(place, tuple(filled), chosen[0], decoders)
    columns = [
        None if name is None else ParquetColumn(str(place), tuple(filled), name, kind, decoders)
        for name, kind in ((chosen[1], filled[0].columns.get(chosen[1] or "", "")), (chosen[2], "weights"))
    ]
    return IdentifiedSide(
        side,
        str(place),
        vectors,
        columns[0],
        columns[1],
        stored_bytes=vectors.count * (vectors.width * vectors.dtype.itemsize + 8),
        ordered=ordered,
    )


def _rows(place: Place, parts: tuple[Part, ...], column: str, decoders: Decoders) -> ParquetRows:
    dtype = np.dtype(VECTORS[parts[0].columns[column]])
    with decoders.one() as decoder, parts[0].place.open() as file:
        width = int(decoder.ask(str(parts[0].place), "width", {"column": column}, file.fileno())["width"])
    require_vectors(dtype, (parts[0].rows, width), f"{parts[0].place}({column})")
    return ParquetRows(str(place), parts, column, dtype, width, decoders)


def _describe(place: Place, decoders: Decoders) -> Part:
    with decoders.one() as decoder, place.open() as file:
        answer: Message = decoder.ask(str(place), "describe", {}, file.fileno())
    names = [name for name, _, _ in answer["columns"]]
    if len(set(names)) != len(names) or not 0 <= answer["rows"] < 2**62:
        raise SnapshotError(
            "column names repeat or the number of rows is absurd",
            where=str(place),
            found=f"{answer['rows']} rows, columns {', '.join(names)[:200]}",
            expected="each name once",
        )
    return Part(
        place,
        answer["rows"],
        {name: kind for name, kind, _ in answer["columns"]},
        {name: full for name, _, full in answer["columns"]},
    )
