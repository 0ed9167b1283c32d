"""Layout word2vec_binary: ``count width``, then each word, a space, and its numbers as little-endian float32; one side.

word2vec.c ends each row with a line feed, gensim does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from embsync.config import SnapshotConfig
from embsync.dtypes import Array
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.ids import LONGEST_ID
from embsync.invocation import quoted
from embsync.rows import block_rows
from embsync.snapshots.accounting import Claim
from embsync.snapshots.arrays import native, require_vectors
from embsync.snapshots.files import FileBytes, Place, file_size
from embsync.snapshots.named_arrays import reject_ids
from embsync.snapshots.names import side_of
from embsync.snapshots.sides import ITEMS, IdentifiedSide
from embsync.snapshots.words import WordIds

EXPECTS = "one .bin file that begins with 'count width', as word2vec and gensim (binary=True) write it"
_SUFFIX = ".bin"
_HEAD = re.compile(rb"([1-9]\d{0,17}) ([1-9]\d{0,4})\r?\n")
#: Characters of numbers in text. A float32 may consist of them by chance; if all of the first row does, it is text.
_TEXT = b"0123456789+-.eE \r\n"
_PIECE = 4 * 1024**2


def recognise(place: Place) -> bool:
    """Return whether there is exactly one such file at ``place``; other ``.bin`` files begin differently."""
    return bool(_files(place))


def claim(place: Place, _: SnapshotConfig) -> Claim:
    """Return which entries at ``place`` this layout reads."""
    taken = frozenset(file.name for file in _files(place))
    return Claim(frozenset({ITEMS}), taken if place.kind() == "directory" else frozenset(), taken)


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, None]:
    """Return the one side at ``place``."""
    files = _files(place)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise SnapshotError("not one binary file of vectors", where=str(place), found=found, expected=EXPECTS)
    rows = BinaryRows(files[0], *_head(files[0]))
    if config.row_number_ids:
        reject_ids(["the word of each row"], str(rows.place))
    require_vectors(np.dtype(np.float32), (rows.count, rows.width), str(rows.place))
    with rows.place.open() as file:
        size = file_size(file)
    if rows.count * (2 + 4 * rows.width) > size:
        raise SnapshotError(
            "the size does not match the header",
            where=str(rows.place),
            found=f"{size} bytes",
            expected=f"room for {rows.count} rows of {rows.width} numbers",
        )
    return IdentifiedSide(ITEMS, str(rows.place), rows, WordIds(rows), None, stored_bytes=size), None


@dataclass(frozen=True)
class BinaryRows:
    """The vectors of a file, as :class:`~embsync.rows.Rows`."""

    place: Place
    start: int
    count: int
    width: int

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield blocks of float32 in file order."""
        step, rows = block_rows(self.width), self.split_rows()
        for start in range(0, self.count, step):
            numbers = b"".join(next(rows)[1] for _ in range(min(step, self.count - start)))
            yield start, native(np.frombuffer(numbers, "<f4").reshape(-1, self.width))
        next(rows, None)  # reads to the end of the file, to check the count

    def split_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (word, bytes of the numbers) of each row.

        Raises
        ------
        SnapshotError
            A row has no word or no end, or there are bytes after the last one.
        SnapshotChanged
            The first line has changed.
        """
        if (head := _head(self.place)) != (self.start, self.count, self.width):
            raise SnapshotChanged("changed while it was read", where=str(self.place), found=f"{head[1]} rows")
        size = 4 * self.width
        with self.place.open() as file:
            content = FileBytes(file, str(self.place))
            data, at, position = b"", 0, self.start
            for row in range(self.count):
                if len(data) - at < LONGEST_ID + size + 2:
                    more = content.read(max(_PIECE, size), position)
                    position += len(more)
                    data, at = data[at:] + more, 0
                at += data[at : at + 1] == b"\n"
                end = data.find(b" ", at, at + LONGEST_ID + 1)
                if end <= at or len(data) < end + 1 + size:
                    raise SnapshotError(
                        "ill-formed row",
                        where=str(self.place),
                        found=f"{data[at : at + 40]!r} in row {row}",
                        expected=f"a word of at most {LONGEST_ID} bytes, a space and {size} bytes",
                    )
                numbers = data[end + 1 : end + 1 + size]
                if row == 0:
                    _reject_text(self.place, numbers)
                yield data[at:end], numbers
                at = end + 1 + size
            if (data[at:] + content.read(2, position)).strip(b"\n"):
                raise SnapshotError("more rows than the header says", where=str(self.place), expected=self.count)


def _reject_text(place: Place, numbers: bytes) -> None:
    if numbers.strip() and not numbers.strip(_TEXT):
        raise SnapshotError(
            "text in a file with the suffix of binary files",
            where=str(place),
            found=repr(numbers[:40]),
            expected="little-endian float32",
            hint=f"mv {quoted(str(place))} {quoted(str(place)[: -len(_SUFFIX)] + '.vec')}",
        )


def _files(place: Place) -> list[Place]:
    if place.kind() == "file":
        return [place] if place.name.endswith(_SUFFIX) and _begins_well(place) else []
    names = [
        name
        for name, kind in place.entries().items()
        if kind == "file" and name.endswith(_SUFFIX) and side_of(name) != "users"
    ]
    return [file for file in map(place.child, names) if not file.name.startswith((".", "_")) and _begins_well(file)]


def _begins_well(place: Place) -> bool:
    with place.open() as file:
        return _HEAD.match(FileBytes(file, str(place)).read(64, 0)) is not None


def _head(place: Place) -> tuple[int, int, int]:
    with place.open() as file:
        start = FileBytes(file, str(place)).read(64, 0)
    found = _HEAD.match(start)
    if found is None:
        raise SnapshotError("not a binary file of vectors", where=str(place), found=repr(start[:30]), expected=EXPECTS)
    return found.end(), int(found[1]), int(found[2])
