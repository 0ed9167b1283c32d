"""A strict parser of the header of a ``.npy`` file: no evaluation, no pickle, no allocation before sizes are checked.

NumPy's own reader accepts objects, records and trailing bytes, which a training job never writes, and raises various
exceptions for a forged header. Here the grammar is the dictionary of three keys that every writer emits, and the shape
must account for every byte of the file.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from embsync.errors import SnapshotError

_MAGIC = b"\x93NUMPY"
#: Numeric headers take 64 to 128 bytes; records, which take more, are not accepted anyway.
LONGEST_HEADER = 4096
#: Limit of each extent: if one is 0, the size of the file does not limit the others.
_LARGEST_EXTENT = 2**40
_TOKEN = re.compile(r"""\s*(?:'([^'\\]*)'|"([^"\\]*)"|(True|False)|(\d{1,19})L?|([{}():,]))""")
_TYPE = re.compile(r"([<>|])([fiuSU])([1-9]\d{0,5})")
_SIZES = {"f": {2, 4, 8}, "i": {1, 2, 4, 8}, "u": {1, 2, 4, 8}}

#: How to save arrays of an unusable kind as a usable one.
_CASTS = {
    "O": "save ids as text, ids.astype(str) or numpy.array(ids.tolist()), and vectors as numpy.stack(v).astype('f4')",
    "T": "save ids as text of one width: ids.astype(str)",
    "M": "save ids as ids.astype('int64') or ids.astype(str)",
    "m": "save ids as ids.astype('int64')",
    "V": "save ids as text, such as numpy.array([str(uuid.UUID(bytes=bytes(i))) for i in ids])",
    "b": "save ids as integers or text, and vectors as floats",
    "c": "save vectors as floats, such as vectors.real",
}

Token = tuple[str, str]


@dataclass(frozen=True)
class ArrayHeader:
    """The contents of a header.

    ``offset`` counts from the start of the ``.npy`` stream to the first number.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    offset: int

    @property
    def data_bytes(self) -> int:
        """Size of the numbers in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_header(data: bytes, size: int, where: str) -> ArrayHeader:
    """Parse the header of a ``.npy`` stream.

    Parameters
    ----------
    data : bytes
        Its first :data:`LONGEST_HEADER` bytes, or all of a shorter one.
    size : int
        Size of the stream in bytes.

    Raises
    ------
    SnapshotError
        It is not a header, is of an unsupported version or type, or does not account for ``size`` bytes.
    """
    if not data.startswith(_MAGIC) or len(data) < 12:
        raise SnapshotError("not a .npy file", where=where, found=repr(data[:8]), expected=repr(_MAGIC))
    if (data[6], data[7]) not in {(1, 0), (2, 0), (3, 0)}:
        raise SnapshotError(
            "unknown .npy version", where=where, found=f"{data[6]}.{data[7]}", expected="1.0, 2.0 or 3.0"
        )
    start = 10 if data[6] == 1 else 12
    end = start + int.from_bytes(data[8:start], "little")
    if end > min(len(data), size):
        raise SnapshotError(
            "ill-formed .npy header",
            where=where,
            found=f"a header of {end - start} bytes",
            expected=f"at most {min(len(data), size) - start}",
        )
    header = _interpret(_parse(data[start:end].decode("latin-1"), where), end, where)
    if header.offset + header.data_bytes != size:
        raise SnapshotError(
            "the size does not match the header",
            where=where,
            found=f"{size} bytes",
            expected=f"{header.offset + header.data_bytes} for {header.shape} of {header.dtype.str}",
        )
    return header


def _interpret(fields: dict[str, object], offset: int, where: str) -> ArrayHeader:
    if set(fields) != {"descr", "fortran_order", "shape"}:
        raise SnapshotError(
            "ill-formed .npy header",
            where=where,
            found=f"keys {sorted(fields)}",
            expected="descr, fortran_order, shape",
        )
    descr, order, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(descr, str) or not isinstance(order, bool) or not isinstance(shape, tuple):
        raise SnapshotError(
            "ill-formed .npy header",
            where=where,
            found=f"{fields}"[:120],
            expected="a type, True or False, and a shape",
        )
    if any(extent >= _LARGEST_EXTENT for extent in shape):
        raise SnapshotError(
            "ill-formed .npy header",
            where=where,
            found=f"shape {shape}",
            expected=f"each extent less than {_LARGEST_EXTENT}",
        )
    return ArrayHeader(_dtype(descr, where), shape, order, offset)


def _dtype(descr: str, where: str) -> np.dtype[Any]:
    match = _TYPE.fullmatch(descr)
    if match is None:
        found = "an array of Python objects, which only pickle reads" if "O" in descr else repr(descr[:40])
        raise SnapshotError(
            "not numbers or strings",
            where=where,
            found=found,
            expected="floats of 2, 4 or 8 bytes, integers, S<n> or U<n>",
            hint=_CASTS.get(descr.lstrip("<>|=")[:1], "save ids as ids.astype(str)"),
        )
    order, kind, size = match[1], match[2], int(match[3])
    known = size in _SIZES[kind] if kind in _SIZES else True
    if not known or (order == "|") != (kind == "S" or (kind in "iu" and size == 1)):
        raise SnapshotError(
            "unknown number type",
            where=where,
            found=repr(descr),
            expected="floats of 2, 4 or 8 bytes, integers, S<n> or U<n>",
        )
    return np.dtype(descr)


def _parse(text: str, where: str) -> dict[str, object]:
    tokens = _tokens(text, where)
    fields: dict[str, object] = {}
    try:
        _expect(tokens, "{")
        while tokens[0] != ("mark", "}"):
            key = tokens.pop(0)
            _expect(tokens, ":")
            if key[0] != "text" or key[1] in fields:
                raise SnapshotError("ill-formed .npy header", where=where, found=f"key {key[1]!r}")
            fields[key[1]] = _value(tokens)
            if tokens[0] != ("mark", "}"):
                _expect(tokens, ",")
        tokens.pop(0)
    except (IndexError, ValueError):
        tokens = [("mark", "?")]
    if tokens:
        raise SnapshotError(
            "ill-formed .npy header",
            where=where,
            found=repr(text[:80]),
            expected="{'descr': …, 'fortran_order': …, 'shape': …}",
        )
    return fields


def _tokens(text: str, where: str) -> list[Token]:
    text = text.rstrip(" \n")
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise SnapshotError(
                "ill-formed .npy header",
                where=where,
                found=repr(text[position : position + 40]),
                expected="strings, numbers, True, False and punctuation",
            )
        single, double, truth, number, mark = match.groups()
        kinds = (("text", single), ("text", double), ("truth", truth), ("number", number), ("mark", mark))
        tokens.extend((kind, value) for kind, value in kinds if value is not None)
        position = match.end()
    return tokens


def _value(tokens: list[Token]) -> object:
    kind, value = tokens.pop(0)
    if kind == "text":
        return value
    if kind == "truth":
        return value == "True"
    if (kind, value) != ("mark", "("):
        raise ValueError(value)
    shape: list[int] = []
    while tokens[0] != ("mark", ")"):
        kind, value = tokens.pop(0)
        if kind != "number":
            raise ValueError(value)
        shape.append(int(value))
        if tokens[0] != ("mark", ")"):
            _expect(tokens, ",")
    tokens.pop(0)
    return tuple(shape)


def _expect(tokens: list[Token], mark: str) -> None:
    if tokens.pop(0) != ("mark", mark):
        raise ValueError(mark)
