"""Ids in a file beside the vectors: JSON, or text with one id per line.

JSON is a list in row order, a mapping of ids to row numbers, or a mapping of row numbers to ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from embsync.dtypes import Array
from embsync.errors import SnapshotError
from embsync.ids import LONGEST_ID
from embsync.snapshots.files import FileBytes, Place, file_size

SUFFIXES = (".json", ".txt")
#: A parsed id takes up to fourteen times the size of its JSON; larger vocabularies must be text, read line by line.
_MOST_JSON = 64 * 1024**2
_PIECE = 1024**2
_AT_ONCE = 65_536
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class Vocabulary:
    """The ids of a file, as a column.

    Attributes
    ----------
    place : Place
    count : int
        Number of ids.
    dtype : numpy dtype
        Integers, or strings whose length is known only after reading.
    """

    place: Place
    count: int
    dtype: np.dtype[Any]

    @classmethod
    def at(cls, place: Place) -> Vocabulary:
        """Read a file once to count its ids and see whether they are integers."""
        ids = _read(place)
        return cls(place, len(ids), np.dtype(np.int64) if ids.dtype.kind == "i" else np.dtype("S1"))

    def __str__(self) -> str:
        return str(self.place)

    def read(self) -> Array:
        """Return the ids in row order."""
        return _read(self.place)


def _read(place: Place) -> Array:
    ids = _from_json(place) if place.name.endswith(".json") else _from_text(place)
    if not len(ids):
        raise SnapshotError("no ids", where=str(place), expected="one for each row")
    return ids


def _from_text(place: Place) -> Array:
    parts: list[Array] = []
    integers = True
    batch: list[bytes] = []
    for line in _lines(place):
        if not 0 < len(line) <= LONGEST_ID or b"\0" in line:
            raise SnapshotError(
                "an id of an unusable length or with a NUL",
                where=str(place),
                found=f"{len(line)} bytes in line {_AT_ONCE * len(parts) + len(batch) + 1}",
                expected=f"1 to {LONGEST_ID} bytes of text",
            )
        integers = integers and _INTEGER.fullmatch(line) is not None
        batch.append(line)
        if len(batch) == _AT_ONCE:
            parts.append(np.array(batch))
            batch = []
    ids: Array = np.concatenate([*parts, np.array(batch)]) if batch or parts else np.array([], "S1")
    return _integers(ids) if integers else ids


def _lines(place: Place) -> Iterator[bytes]:
    with place.open() as file:
        content, position, rest = FileBytes(file, str(place)), 0, b""
        while piece := content.read(_PIECE, position):
            position += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.removesuffix(b"\r") for line in lines)
            if len(rest) > LONGEST_ID + 1:
                break
        if rest:
            yield rest.removesuffix(b"\r")


def _from_json(place: Place) -> Array:
    with place.open() as file:
        size = file_size(file)
        if size > _MOST_JSON:
            raise SnapshotError(
                "too large JSON",
                where=str(place),
                found=f"{size} bytes",
                expected=f"at most {_MOST_JSON}",
                hint="write text with one id per line, item_ids.txt",
            )
        data = FileBytes(file, str(place)).read(size, 0)
    try:
        found = msgspec.json.decode(data, type=list[str | int] | dict[str, str | int])
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise SnapshotError(
            "ill-formed vocabulary",
            where=str(place),
            found=str(error)[:200],
            expected="a list of ids, or a mapping of ids to row numbers",
        ) from None
    return _as_ids(found if isinstance(found, list) else _in_order(found, place), place)


def _in_order(found: dict[str, str | int], place: Place) -> list[str | int]:
    """Return the ids of a mapping in row order."""
    rows = list(range(len(found)))
    by_key = sorted(
        (int(key), value) for key, value in found.items() if key.isascii() and key.isdigit() and len(key) < 19
    )
    keys_are_rows = [key for key, _ in by_key] == rows
    numbers = [value for value in found.values() if isinstance(value, int)]
    values_are_rows = len(numbers) == len(found) and sorted(numbers) == rows
    if keys_are_rows and values_are_rows and any(key != value for key, value in by_key):
        raise SnapshotError(
            "an ambiguous mapping: ids to rows, or rows to ids",
            where=str(place),
            found="keys and values are both all row numbers",
            expected="a list of ids in row order",
        )
    if values_are_rows:
        ordered: list[str | int] = [""] * len(found)
        for key, value in found.items():
            ordered[int(value)] = key
        texts = [str(key).encode() for key in ordered]
        return [int(text) for text in texts] if all(map(_INTEGER.fullmatch, texts)) else ordered
    if keys_are_rows:
        return [value for _, value in by_key]
    raise SnapshotError(
        "a mapping without a row for each id",
        where=str(place),
        found=f"{len(found)} entries, rows {min(numbers, default='none')} to {max(numbers, default='none')}",
        expected=f"each of the rows 0 to {len(found) - 1} once",
    )


def _as_ids(values: list[str | int], place: Place) -> Array:
    texts = [value for value in values if isinstance(value, str)]
    if texts and len(texts) != len(values):
        raise SnapshotError("ids of two types", where=str(place), found="numbers and text", expected="one of them")
    try:
        if not texts:
            return np.array(values, np.int64)
        encoded = [text.encode() for text in texts]
    except (OverflowError, UnicodeEncodeError) as error:
        raise SnapshotError("an unusable id", where=str(place), found=str(error)[:100]) from None
    if not all(0 < len(text) <= LONGEST_ID and b"\0" not in text for text in encoded):
        raise SnapshotError(
            "an id of an unusable length or with a NUL", where=str(place), expected=f"1 to {LONGEST_ID} bytes of text"
        )
    return np.array(encoded)


def _integers(ids: Array) -> Array:
    try:
        return np.array([int(text) for text in ids.tolist()], np.int64)
    except OverflowError:  # beyond 64 bits: kept as strings
        return ids
