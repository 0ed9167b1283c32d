"""Layout word2vec: text, each line an id and its numbers, as gensim, fastText and GloVe write it; one side.

The first line, ``count width``, may be missing, as in GloVe's files. Numbers become float32, in which these programs
compute; ids are strings without spaces.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from embsync.config import SnapshotConfig
from embsync.dtypes import Array
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.ids import LONGEST_ID
from embsync.invocation import quoted
from embsync.rows import block_rows
from embsync.snapshots.accounting import Claim
from embsync.snapshots.arrays import MOST_WIDTH, native, require_vectors
from embsync.snapshots.compression import PACKED, most_unpacked, unpacked
from embsync.snapshots.files import FileBytes, Place, file_size
from embsync.snapshots.named_arrays import reject_ids
from embsync.snapshots.names import side_of
from embsync.snapshots.sides import ITEMS, IdentifiedSide
from embsync.snapshots.words import WordIds

EXPECTS = "one .vec or .txt file (also .gz, .zst) of lines 'id number number …', perhaps after a line 'count width'"
_SUFFIXES = tuple(text + packed for text in (".vec", ".txt") for packed in ("", *PACKED))
#: 32 characters are enough for any number printed with full precision.
_LONGEST_LINE = LONGEST_ID + 32 * MOST_WIDTH


@dataclass(frozen=True)
class TextHead:
    """The content of the first lines: the width, and the number of rows, None without a header."""

    width: int
    count: int | None

    @property
    def lines(self) -> int:
        """Lines before the first row."""
        return 0 if self.count is None else 1


def recognise(place: Place) -> bool:
    """Return whether there is exactly one text file at ``place`` that begins like this layout."""
    if place.kind() == "file":
        return place.name.endswith(_SUFFIXES) and _begins_well(place)
    return bool(_text_files(place))


def claim(place: Place, _: SnapshotConfig) -> Claim:
    """Return which entries at ``place`` this layout reads."""
    if place.kind() == "file":
        return Claim(frozenset({ITEMS}), as_items=frozenset({place.name}))
    taken = frozenset(file.name for file in _text_files(place))
    return Claim(frozenset({ITEMS}), taken, taken)


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, None]:
    """Return the one side at ``place``; a file without a header is read once to count its lines."""
    if place.kind() != "file":
        files = _text_files(place)
        if len(files) != 1:
            raise SnapshotError(
                "not one text file of vectors",
                where=str(place),
                found=", ".join(file.name for file in files) or "none",
                expected="one",
            )
        place = files[0]
    if config.row_number_ids:
        reject_ids(["the first word of each line"], str(place))
    rows = TextRows(place, _read_head(place), _count(place))
    require_vectors(np.dtype(np.float32), (rows.count, rows.width), str(place))
    with place.open() as file:
        size = file_size(file)
    # a row takes at least one byte for the id, and a space and a digit for each number
    if rows.count * (1 + 2 * rows.width) > (most_unpacked(size) if place.name.endswith(PACKED) else size):
        raise SnapshotError(
            "the size does not match the header",
            where=str(place),
            found=f"{size} bytes",
            expected=f"room for {rows.count} rows of {rows.width} numbers",
        )
    bytes_ = max(size, rows.count * rows.width * 4)
    return IdentifiedSide(ITEMS, str(place), rows, WordIds(rows), None, stored_bytes=bytes_), None


@dataclass(frozen=True)
class TextRows:
    """The vectors of a text file, as :class:`~embsync.rows.Rows`."""

    place: Place
    head: TextHead
    count: int

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.head.width

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield blocks of float32 in file order."""
        step = block_rows(self.width)
        rows = self.split_rows()
        for start in range(0, self.count, step):
            numbers = [numbers for _, numbers in islice(rows, step)]
            yield start, native(self._parse(numbers, start))
        next(rows, None)  # reads to the end of the file, to check the count

    def split_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (id, numbers) of each row, as text.

        Raises
        ------
        SnapshotError
            A row has another width, or there are more or fewer rows than the header says.
        SnapshotChanged
            The first line has changed.
        """
        if (head := _read_head(self.place)) != self.head:
            raise SnapshotChanged("changed while it was read", where=str(self.place), found=head, expected=self.head)
        row = 0
        for row, line in enumerate(islice(_lines(self.place), head.lines, None), 1):
            word, _, numbers = line.partition(b" ")
            if not word or row > self.count or numbers.count(b" ") != self.width - 1:
                blanks = _blanks_in(line, self.width)
                if blanks is not None and self.head.count is not None and row <= self.count:
                    yield blanks, line[len(blanks) + 1 :]  # the width is known: the id is everything before the numbers
                    continue
                if blanks is not None and row <= self.count:
                    raise _with_blanks(blanks, self.place, row - 1)
                raise SnapshotError(
                    "ill-formed row",
                    where=str(self.place),
                    found=f"{line[:60]!r} with {len(line.split())} fields in row {row - 1}",
                    expected=f"{self.count} rows of an id and {self.width} numbers, separated by single spaces",
                )
            yield word, numbers
        if row != self.count:
            raise SnapshotError(
                "fewer rows than the header says", where=str(self.place), found=row, expected=self.count
            )

    def _parse(self, numbers: list[bytes], start: int) -> Array:
        try:
            block = np.loadtxt(io.BytesIO(b"\n".join(numbers)), np.float32, comments=None, delimiter=" ", ndmin=2)
        except (ValueError, OverflowError) as error:
            raise SnapshotError(
                "not a number",
                where=str(self.place),
                found=f"{error} (counted from row {start})",
                expected="numbers",
            ) from None
        if block.shape != (len(numbers), self.width):
            raise SnapshotError(
                "ill-formed rows",
                where=str(self.place),
                found=f"shape {block.shape} from row {start}",
                expected=f"{(len(numbers), self.width)}",
            )
        return block


def _text_files(place: Place) -> list[Place]:
    names = [name for name in place.entries() if name.endswith(_SUFFIXES) and not name.startswith((".", "_"))]
    # users beside items of another layout are not a second layout: they are reported as not read
    names = [name for name in names if not (name.endswith(PACKED) and side_of(name) == "users")]
    return [file for file in map(place.child, names) if _begins_well(file)]


def _begins_well(place: Place) -> bool:
    if ".txt" not in place.name[-8:]:
        return True
    try:
        _read_head(place)
    except SnapshotError:
        return False
    return True


def _read_head(place: Place) -> TextHead:
    first, second = (*islice(_lines(place), 2), b"", b"")[:2]
    if first.startswith(codecs.BOM_UTF8):
        raise SnapshotError(
            "a byte order mark",
            where=str(place),
            found=f"{first[:60]!r}",
            expected="UTF-8 without byte order mark",
            hint=f"sed -i '1s/^\\xEF\\xBB\\xBF//' {quoted(str(place))}",
        )
    fields, next_fields = first.split(b" "), second.split(b" ")
    if len(fields) == 2 and all(field.isdigit() and len(field) < 19 for field in fields):
        count, width = map(int, fields)
        if count > 0 and (len(next_fields) == width + 1 or _blanks_in(second, width) is not None):
            return TextHead(width, count)
        raise SnapshotError(
            "the first line does not fit the second",
            where=str(place),
            found=f"{first[:60]!r}",
            expected=f"'count width', with width {len(next_fields) - 1} as in the second line",
        )
    if len(fields) > 2 and all(map(_is_number, fields[1:])) and len(next_fields) in {len(fields), 1}:
        return TextHead(len(fields) - 1, None)
    raise SnapshotError(
        "not a text file of vectors",
        where=str(place),
        found=f"{first[:60]!r}",
        expected="'count width', or an id and at least two numbers",
    )


def _blanks_in(line: bytes, width: int) -> bytes | None:
    """Return the id of a row whose last ``width`` fields are numbers and whose id has spaces, else None."""
    fields = line.rsplit(b" ", width)
    if len(fields) != width + 1 or b" " not in fields[0] or not all(map(_is_number, fields[1:])):
        return None
    if not all(fields[0].split(b" ")):  # adjacent spaces, or one at an end, are an error of the writer
        return None
    # if all but the first word of an id are numbers, this may be a row of another width
    return None if all(map(_is_number, fields[0].split(b" ")[1:])) else fields[0]


def _with_blanks(word: bytes, place: Place, row: int) -> SnapshotError:
    found = f"{word[:60].decode(errors='replace')!r} in row {row}"
    return SnapshotError(
        "an id with spaces",
        where=str(place),
        found=found,
        expected="ids without spaces, since spaces separate the numbers, or a first line 'count width'",
        hint="replace spaces in ids, for example by id.replace(' ', '_')",
    )


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _count(place: Place) -> int:
    head = _read_head(place)
    return head.count if head.count is not None else sum(1 for _ in _lines(place))


def _lines(place: Place) -> Iterator[bytes]:
    """Yield the lines of a file without line ends and trailing spaces (fastText writes one)."""
    with place.open() as file:
        rest = b""
        for piece in unpacked(FileBytes(file, str(place)), place.name):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise SnapshotError(
                    "a line that is too long",
                    where=str(place),
                    found=f"{len(rest)} bytes or more",
                    expected=f"at most {_LONGEST_LINE}",
                )
            for line in lines:
                yield line.rstrip(b" \r")
        if rest:
            yield rest.rstrip(b" \r")
