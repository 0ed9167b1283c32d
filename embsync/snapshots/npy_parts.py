"""Layout npy_parts: numbered ``.npy`` files, pieces of one array, as sharded jobs and clip-retrieval write them.

The names of an array's pieces differ only in a number (``items-00000.npy``, ``items_1.npy``, ``part-2-of-8.npy``). They
are at the snapshot's root or in a directory with the name of the array. Ids are pieces as well, or one
``item_ids.npy``; without users, they may also be a column of numbered parquet files in a directory beside the pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from embsync.config import SnapshotConfig
from embsync.dtypes import Array
from embsync.errors import SnapshotChanged, SnapshotError, SnapshotIncomplete
from embsync.numpy_header import ArrayHeader
from embsync.snapshots import names, parquet
from embsync.snapshots.accounting import Claim
from embsync.snapshots.arrays import Stored, StoredMatrix
from embsync.snapshots.column_files import FileColumn, Part
from embsync.snapshots.columns import choose_ids
from embsync.snapshots.decoder_process import Decoders
from embsync.snapshots.files import Place
from embsync.snapshots.named_arrays import ITEM_NAMES, USER_NAMES, found_sides, open_named_sides
from embsync.snapshots.natural_order import natural_key
from embsync.snapshots.npy import NpyFile
from embsync.snapshots.sides import ITEMS, USERS, IdentifiedSide

EXPECTS = (
    "items-0.npy, items-1.npy and so on, with item_ids.npy or item_ids-0.npy and so on, perhaps the same for users"
)
_PIECE = re.compile(r"(?P<stem>.*?)[-_.]?(?P<number>[0-9]{1,9})(?:-of-(?P<of>[0-9]{1,9}))?\.npy", re.DOTALL)
_NUMBER = re.compile(r"([0-9]{1,9})\.parquet$")
_SIDES = {ITEMS: ITEM_NAMES, USERS: USER_NAMES}
_ROLES = ("vectors", "ids", "weights")


@dataclass(frozen=True)
class Pieces:
    """The files of one array, in the order of their numbers, as one stored array."""

    files: tuple[NpyFile, ...]

    def __str__(self) -> str:
        return str(self.files[0])

    @contextmanager
    def open(self) -> Iterator[tuple[ArrayHeader, PieceBytes]]:
        """Yield the header of the whole array, and its bytes; each file is opened when its rows are requested."""
        headers = [header_of(file) for file in self.files]
        yield _joined_header(self.files, headers), PieceBytes(self.files, headers)


class PieceBytes:
    """The rows of all pieces, as the bytes of one array."""

    def __init__(self, files: Sequence[NpyFile], headers: Sequence[ArrayHeader]) -> None:
        self._files = files
        self._headers = headers

    def fill(self, target: Array, offset: int) -> None:
        """Fill an array with the complete rows that begin at ``offset``."""
        first, start = offset * len(target) // max(target.nbytes, 1), 0
        for file, header in zip(self._files, self._headers, strict=True):
            begin, end = max(first, start), min(first + len(target), start + header.shape[0])
            if begin < end:
                self._fill(target[begin - first : end - first], file, header, begin - start)
            start += header.shape[0]

    def _fill(self, target: Array, file: NpyFile, header: ArrayHeader, row: int) -> None:
        with file.open() as (now, content):
            if now != header:
                raise SnapshotChanged("changed while it was read", where=str(file), found=f"{now.shape[0]} rows")
            at = header.offset + row * (header.data_bytes // max(header.shape[0], 1))
            if target.dtype == header.dtype:
                content.fill(target, at)
            else:  # strings; other pieces have longer ones
                piece = np.empty(target.shape, header.dtype)
                content.fill(piece, at)
                target[...] = piece


@dataclass(frozen=True)
class Group:
    """Files whose names differ only in a number; ``label`` is the rest of the name."""

    label: str
    pieces: tuple[tuple[int, int | None, NpyFile], ...]

    @property
    def parsed(self) -> names.ParsedName:
        """The interpretation of the label."""
        return names.parse(self.label)

    def in_order(self) -> tuple[NpyFile, ...]:
        """Return the files in numerical order.

        Raises
        ------
        SnapshotError
            A number is missing or repeated.
        SnapshotIncomplete
            There are fewer files than their names say.
        """
        ordered = sorted(self.pieces, key=lambda piece: (piece[0], str(piece[2])))
        numbers, totals = [number for number, _, _ in ordered], {of for _, of, _ in ordered}
        where, first = str(ordered[0][2]), numbers[0]
        stated = ", ".join(sorted(str(total) for total in totals if total is not None))
        total = totals.pop()
        if totals or (total is not None and len(ordered) > total):
            raise SnapshotError(
                "pieces of more than one array",
                where=where,
                found=f"{len(ordered)} pieces, whose names say {stated}",
                expected="one array, of as many pieces as all names say",
            )
        if total is not None and len(ordered) < total:
            raise SnapshotIncomplete(
                "pieces are missing",
                where=where,
                found=f"{len(ordered)} pieces",
                expected=f"{total}, according to their names",
            )
        missing = next((right for right, number in enumerate(numbers, min(first, 1)) if right != number), None)
        if missing is not None:
            raise SnapshotError(
                "pieces are not numbered consecutively",
                where=where,
                found=f"{len(ordered)} pieces, {first} to {numbers[-1]}",
                expected=f"number {missing} once",
            )
        return tuple(file for _, _, file in ordered)


def recognise(place: Place) -> bool:
    """Return whether the names at ``place`` match this layout."""
    if place.kind() != "directory" or not {f"{ITEMS}.npy", f"{USERS}.npy"}.isdisjoint(place.entries()):
        return False
    return ITEMS in {side for side, role in _arrays(place) if role == "vectors"}


def is_foreign(place: Place) -> bool:
    """Return whether none of the pieces at ``place`` is a matrix, so that none can be vectors."""
    try:
        vectors = [group for (_, role), group in _arrays(place).items() if role == "vectors"]
        return all(len(header_of(group.pieces[0][2]).shape) != 2 for group in vectors)
    except SnapshotError:
        return False


def claim(place: Place, config: SnapshotConfig) -> Claim:
    """Return which entries at ``place`` this layout reads."""
    arrays, table = _arrays(place), _table(place)
    taken = {_SIDES[side][_ROLES.index(role)] for side, role in arrays} | ({ITEM_NAMES[1]} if table else set())
    taken |= {name for name in _unsplit_arrays(place) if name not in taken}
    paths = {"/".join(file.place.parts[len(place.parts) :]) for group in arrays.values() for _, _, file in group.pieces}
    paths |= {f"{file.parts[-2]}/{file.name}" for file in table}
    entries = {path.partition("/")[0] for path in paths} | {f"{name}.npy" for name in _unsplit_arrays(place)}
    return Claim(found_sides(taken, config), frozenset(entries), inside=frozenset(paths))


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, IdentifiedSide | None]:
    """Return the sides at ``place``, checked by the headers of all pieces."""
    stored: dict[str, Stored] = {
        _SIDES[side][_ROLES.index(role)]: Pieces(group.in_order()) for (side, role), group in _arrays(place).items()
    }
    for name, file in _unsplit_arrays(place).items():
        if name in stored:
            raise SnapshotError(
                f"more than one {name}", where=str(place), found=f"{stored[name]}, {file}", expected="one"
            )
        stored[name] = file
    table = _table(place)
    if table and ITEM_NAMES[1] not in stored and USERS not in stored and not config.row_number_ids:
        return _open_with_table(stored[ITEMS], table, config), None
    return open_named_sides(stored, str(place), config)


def header_of(file: NpyFile) -> ArrayHeader:
    """Return the header of one file."""
    with file.open() as (header, _):
        return header


def _open_with_table(vectors: Stored, table: list[Place], config: SnapshotConfig) -> IdentifiedSide:
    decoders = Decoders()
    parts = tuple(Part.at(file, parquet.FORM, decoders) for file in table)
    chosen = choose_ids(ITEMS, parts[0].columns, config)
    assert chosen is not None
    assert isinstance(vectors, Pieces)
    if len(parts) != len(vectors.files):
        raise SnapshotError(
            "different numbers of files of ids and of vectors",
            where=str(table[0]),
            found=f"{len(parts)} files",
            expected=f"{len(vectors.files)}",
        )
    for part, file in zip(parts, vectors.files, strict=True):
        rows = header_of(file).shape[:1]
        if rows != (part.rows,) or part.kinds.get(chosen) != parts[0].kinds[chosen]:
            raise SnapshotError(
                "ids and vectors differ in number",
                where=str(part.place),
                found=f"{part.rows} rows of {part.kinds.get(chosen, 'no ids')}",
                expected=f"{rows[0] if rows else 0} of {parts[0].kinds[chosen]}, as in {file}",
            )
    with vectors.open() as (header, _):
        matrix = StoredMatrix(vectors, header)
    ids = FileColumn(str(table[0]), parts, chosen, parts[0].kinds[chosen], decoders)
    return IdentifiedSide(ITEMS, str(vectors), matrix, ids, None, stored_bytes=header.data_bytes)


def _arrays(place: Place) -> dict[tuple[str, str], Group]:
    """Return the groups of pieces by side and role; a group whose name has no side is of the items if no other is."""
    found: dict[tuple[str, str], Group] = {}
    nameless: dict[str, list[Group]] = {}
    for group in _groups(place):
        parsed = group.parsed
        role = parsed.role or "vectors"
        if parsed.side is None:
            nameless.setdefault(role, []).append(group)
        elif (parsed.side, role) in found:
            raise _more_than_one(place, [found[parsed.side, role], group])
        else:
            found[parsed.side, role] = group
    for what, groups in nameless.items():
        several = [group for group in groups if len(group.pieces) > 1 or group.pieces[0][1] is not None]
        if (ITEMS, what) in found or not several or (what != "vectors" and USERS in {side for side, _ in found}):
            continue
        if len(several) > 1:
            raise _more_than_one(place, several)
        found[ITEMS, what] = several[0]
    return found


def _groups(place: Place) -> list[Group]:
    entries = {name: kind for name, kind in place.entries().items() if not name.startswith((".", "_"))}
    groups = _groups_in(place, [name for name, kind in entries.items() if kind == "file"], None)
    for name in (name for name, kind in entries.items() if kind == "directory"):
        folder = place.child(name)
        inside = [file for file, kind in folder.entries().items() if kind == "file" and not file.startswith((".", "_"))]
        groups += _groups_in(folder, inside, name)
    return groups


def _groups_in(folder: Place, files: list[str], called: str | None) -> list[Group]:
    stems: dict[str, list[tuple[int, int | None, NpyFile]]] = {}
    for name in files:
        match = _PIECE.fullmatch(name)
        if match is not None:
            total = None if match["of"] is None else int(match["of"])
            stems.setdefault(match["stem"], []).append((int(match["number"]), total, NpyFile(folder.child(name))))
    if called is not None and len(stems) == 1:
        return [Group(called, tuple(pieces)) for pieces in stems.values()]
    prefix = "" if called is None else f"{called}_"
    return [Group(prefix + stem, tuple(pieces)) for stem, pieces in stems.items()]


def _unsplit_arrays(place: Place) -> dict[str, NpyFile]:
    entries = place.entries()
    wanted = (*ITEM_NAMES[1:], *USER_NAMES[1:])
    return {name: NpyFile(place.child(f"{name}.npy")) for name in wanted if f"{name}.npy" in entries}


def _table(place: Place) -> list[Place]:
    """Return the numbered parquet files of the only directory with such files."""
    folders = []
    for name, kind in place.entries().items():
        if kind == "directory" and not name.startswith((".", "_")) and names.side_of(name) is None:
            files = [file for file in place.child(name).entries() if _NUMBER.search(file)]
            if files:
                folders.append([place.child(name).child(file) for file in sorted(files, key=natural_key)])
    return folders[0] if len(folders) == 1 else []


def _joined_header(files: Sequence[NpyFile], headers: Sequence[ArrayHeader]) -> ArrayHeader:
    first = headers[0]
    for file, header in zip(files, headers, strict=True):
        text = {header.dtype.kind, first.dtype.kind} <= set("SU") and header.dtype.kind == first.dtype.kind
        if header.shape[1:] != first.shape[1:] or not header.shape or not (header.dtype == first.dtype or text):
            raise SnapshotError(
                "pieces of one array differ",
                where=str(file),
                found=f"{header.shape} of {header.dtype.str}",
                expected=f"rows as in {files[0].place.name}, {first.shape} of {first.dtype.str}",
            )
        if header.fortran_order and len(header.shape) > 1:
            raise SnapshotError(
                "pieces in Fortran order",
                where=str(file),
                expected="rows in C order",
                hint="save numpy.ascontiguousarray(piece)",
            )
    dtype = max((header.dtype for header in headers), key=lambda dtype: dtype.itemsize)
    return ArrayHeader(dtype, (sum(header.shape[0] for header in headers), *first.shape[1:]), False, 0)


def _more_than_one(place: Place, groups: Sequence[Group]) -> SnapshotError:
    return SnapshotError(
        "more than one array in pieces",
        where=str(place),
        found=", ".join(f"{group.label} ({group.pieces[0][2].place.name})" for group in groups),
        expected="one",
        hint="name them items, item_ids, users and user_ids, or keep only one of them in the snapshot",
    )
