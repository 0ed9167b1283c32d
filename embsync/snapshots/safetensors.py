"""Layout safetensors: ``items.safetensors``, perhaps ``users.safetensors``, each with ``vectors`` and ``ids``.

The format is simple enough to read it without its library: the length of the header (8 bytes, little-endian), a JSON
header with each tensor's type, shape and position, and the tensors, which fill the rest of the file without gaps.
String ids are a (rows, bytes) tensor of U8: UTF-8, padded with zeros.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.ids import LONGEST_ID
from embsync.numpy_header import ArrayHeader
from embsync.snapshots import names
from embsync.snapshots.accounting import Claim
from embsync.snapshots.arrays import BFLOAT16, StoredColumn, StoredMatrix
from embsync.snapshots.files import FileBytes, Place, file_size
from embsync.snapshots.named_arrays import reject_ids
from embsync.snapshots.sides import ITEMS, USERS, IdentifiedSide

EXPECTS = "items.safetensors with tensors vectors and ids, perhaps users.safetensors"
SUFFIX = ".safetensors"
_VECTORS, _IDS, _WEIGHTS = "vectors", "ids", "weights"

#: The header takes a few hundred bytes for a few tensors, and a megabyte for a large model.
_LONGEST_HEADER = 4 * 1024**2
_TYPES = {
    "BF16": BFLOAT16.str,
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}


def recognise(place: Place) -> bool:
    """Return whether the names at ``place`` match this layout."""
    if place.kind() == "file":
        return place.name.endswith(SUFFIX) and is_of_sides(place)
    return not {ITEMS + SUFFIX, USERS + SUFFIX}.isdisjoint(place.entries())


def is_of_sides(place: Place) -> bool:
    """Return whether a file is one side rather than a model with tensors of other names; True for ill-formed files."""
    try:
        with place.open() as file:
            found = read_headers(FileBytes(file, str(place)), file_size(file))
    except SnapshotError:
        return True
    return not {_VECTORS, _IDS, _WEIGHTS}.isdisjoint(found) or not found


def claim(place: Place, _: SnapshotConfig) -> Claim:
    """Return which entries at ``place`` this layout reads."""
    if place.kind() == "file":
        return Claim(frozenset({ITEMS}), as_items=frozenset({place.name}))
    found = [side for side in (ITEMS, USERS) if side + SUFFIX in place.entries()]
    return Claim(frozenset(found), frozenset(side + SUFFIX for side in found))


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, IdentifiedSide | None]:
    """Return the sides at ``place``, checked by their headers."""
    if place.kind() == "file":
        return _open_side(ITEMS, place, config), None
    entries = place.entries()
    if ITEMS + SUFFIX not in entries:
        raise SnapshotError("incomplete snapshot", where=str(place), found=", ".join(entries), expected=ITEMS + SUFFIX)
    items = _open_side(ITEMS, place.child(ITEMS + SUFFIX), config)
    users = place.child(USERS + SUFFIX)
    return items, _open_side(USERS, users, config) if users.name in entries else None


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file."""

    place: Place
    name: str
    is_ids: bool = False

    def __str__(self) -> str:
        return f"{self.place}({self.name})"

    @contextmanager
    def open(self) -> Iterator[tuple[ArrayHeader, FileBytes]]:
        """Open the file; yield the tensor's header and the bytes."""
        with self.place.open() as file:
            content = FileBytes(file, str(self.place))
            headers = read_headers(content, file_size(file))
            if self.name not in headers:
                raise SnapshotError(
                    "no such tensor", where=str(self.place), found=", ".join(headers)[:200], expected=self.name
                )
            yield as_ids(headers[self.name], str(self)) if self.is_ids else headers[self.name], content


def read_headers(content: FileBytes, size: int) -> dict[str, ArrayHeader]:
    """Return the header of every tensor in a safetensors file of ``size`` bytes.

    Raises
    ------
    SnapshotError
        The header is ill-formed, or the tensors do not fill the file exactly, without gap or overlap.
    """
    start = content.read(8, 0)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(_LONGEST_HEADER, size - 8):
        raise SnapshotError(
            "not a safetensors file",
            where=content.where,
            found=f"a header of {length} bytes",
            expected=f"2 to {min(_LONGEST_HEADER, max(size - 8, 2))}",
        )
    fields = _parse(content.read(length, 8), content.where)
    fields.pop("__metadata__", None)
    tensors = {name: _header(name, value, 8 + length, content.where) for name, value in fields.items()}
    position = 8 + length
    for tensor in sorted(tensors.values(), key=lambda header: (header.offset, header.data_bytes)):
        if tensor.offset != position:
            raise SnapshotError(
                "ill-formed safetensors header",
                where=content.where,
                found=f"a tensor at byte {tensor.offset}",
                expected=f"byte {position}, without gaps",
            )
        position += tensor.data_bytes
    if position != size:
        raise SnapshotError(
            "the size does not match the header", where=content.where, found=f"{size} bytes", expected=f"{position}"
        )
    return tensors


def _parse(data: bytes, where: str) -> dict[str, object]:
    try:
        fields = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SnapshotError(
            "ill-formed safetensors header", where=where, found=str(error)[:200], expected="JSON"
        ) from error
    if not isinstance(fields, dict):
        raise SnapshotError(
            "ill-formed safetensors header", where=where, found=type(fields).__name__, expected="names and tensors"
        )
    return fields


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a repeated name")
    return dict(pairs)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _header(name: str, value: object, base: int, where: str) -> ArrayHeader:
    match value:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [first, last], **others} if not others and all(
            type(number) is int and 0 <= number < 2**62 for number in (*shape, first, last)
        ):
            pass
        case _:
            raise SnapshotError(
                "ill-formed safetensors header",
                where=where,
                found=f"{name!r}: {value!r}"[:200],
                expected="dtype, shape and data_offsets",
            )
    dtype: np.dtype[Any] | None = np.dtype(_TYPES[kind]) if kind in _TYPES else None
    if dtype is None and name not in {_VECTORS, _IDS, _WEIGHTS}:
        # a tensor that is not used: only its size matters
        return ArrayHeader(np.dtype("u1"), (last - first,), False, base + first)
    if dtype is None or last - first != math.prod(shape) * dtype.itemsize:
        raise SnapshotError(
            "a tensor of unusable type or size",
            where=where,
            found=f"{name!r}: {kind} {shape} in {last - first} bytes",
            expected=f"one of {', '.join(_TYPES)}, in the bytes of its shape",
        )
    return ArrayHeader(dtype, tuple(shape), False, base + first)


def as_ids(header: ArrayHeader, where: str) -> ArrayHeader:
    """Return the header of a tensor of ids: a (rows, n) tensor of U8 is strings of n bytes."""
    if len(header.shape) != 2:
        return header
    rows, longest = header.shape
    if header.dtype != np.uint8 or not 1 <= longest <= LONGEST_ID:
        raise SnapshotError(
            "ids of an unusable type",
            where=where,
            found=f"{header.dtype.name} {header.shape}",
            expected=f"one integer per row, or U8 of shape (rows, 1 to {LONGEST_ID})",
        )
    return ArrayHeader(np.dtype(f"S{longest}"), (rows,), False, header.offset)


def _open_side(side: str, place: Place, config: SnapshotConfig) -> IdentifiedSide:
    with place.open() as file:
        headers = read_headers(FileBytes(file, str(place)), file_size(file))
    if _VECTORS not in headers:
        raise SnapshotError("no vectors", where=str(place), found=", ".join(headers)[:200], expected=_VECTORS)
    if _IDS not in headers and not config.row_number_ids:
        raise SnapshotError(
            "vectors without ids",
            where=str(place),
            found=", ".join(headers)[:200],
            expected=_IDS,
            hint="set snapshot.row_number_ids: true if row numbers are the ids",
        )
    if config.row_number_ids:
        reject_ids([name for name in headers if name == _IDS or names.parse(name).role == "ids"], str(place))
    columns = {}
    for name in (_IDS, _WEIGHTS):
        if name in headers:
            tensor = Tensor(place, name, is_ids=name == _IDS)
            header = as_ids(headers[name], str(tensor)) if name == _IDS else headers[name]
            columns[name] = StoredColumn(tensor, header)
    vectors = Tensor(place, _VECTORS)
    return IdentifiedSide(
        side,
        str(place),
        StoredMatrix(vectors, headers[_VECTORS]),
        columns.get(_IDS),
        columns.get(_WEIGHTS),
        stored_bytes=_used_bytes(headers),
    )


def _used_bytes(headers: dict[str, ArrayHeader]) -> int:
    """Return the size in bytes of a side's tensors."""
    return sum(header.data_bytes for name, header in headers.items() if name in {_VECTORS, _IDS, _WEIGHTS})
