"""Arrays in ``application/x-npy`` and JSON: headers are not trusted, and responses are written in pieces."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from embsync.dtypes import Array
from embsync.errors import SnapshotError
from embsync.numpy_header import LONGEST_HEADER, parse_header
from embsync.server.errors import Invalid, Malformed

NPY = "application/x-npy"
#: Bytes sent at once.
Piece = bytes | memoryview
#: Bytes of a piece of a response, large enough that sending it costs little in comparison.
_PIECE = 1 << 18
#: Numbers converted to Python objects at once, about 2 MB.
_NUMBERS = 1 << 16


def npy_pieces(array: Array) -> deque[Piece]:
    """Return an array as a ``.npy`` file, in pieces."""
    contiguous = np.ascontiguousarray(array)
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(contiguous))
    numbers = memoryview(contiguous.reshape(-1).view(np.uint8).data) if contiguous.size else memoryview(b"")
    pieces = [numbers[start : start + _PIECE] for start in range(0, len(numbers), _PIECE)]
    return deque([buffer.getvalue(), *pieces])


def json_rows(array: Array, null: Array | None = None) -> bytes:
    """Return the rows of a matrix in JSON without the outer brackets, converted a few at a time.

    Parameters
    ----------
    array : (r, c) ndarray
    null : (r, c) bool ndarray, optional
        Elements that become ``null``.
    """
    step = max(1, _NUMBERS // max(1, array.shape[1]))
    parts = []
    for start in range(0, len(array), step):
        rows = array[start : start + step].tolist()
        for row, column in () if null is None else np.argwhere(null[start : start + step]).tolist():
            rows[row][column] = None
        parts.append(msgspec.json.encode(rows)[1:-1])
    return b",".join(parts)


def json_pieces(head: Mapping[str, object], columns: Mapping[str, Iterable[bytes]]) -> deque[Piece]:
    """Return an object in JSON, in pieces: ``head``, and lists whose elements are given as JSON."""
    pieces, pending = deque[Piece](), [msgspec.json.encode(head)[:-1]]
    for name, parts in columns.items():
        pending.append(b',"%s":[' % name.encode())
        for place, part in enumerate(parts):
            pending += [b","] * (place > 0) + [part]
            if sum(map(len, pending)) > _PIECE:
                pieces.append(b"".join(pending))
                pending.clear()
        pending.append(b"]")
    pieces.append(b"".join([*pending, b"}"]))
    return pieces


def from_npy(body: bytes) -> Array:
    """Return the numbers of a ``.npy`` file.

    Raises
    ------
    Malformed
        It has another format, is not of numbers, or has more or fewer bytes than the header says.
    """
    try:
        header = parse_header(body[:LONGEST_HEADER], len(body), "body")
    except SnapshotError as error:
        raise Malformed(error.what, where="body", found=error.found, expected=error.expected) from None
    if header.dtype.kind not in "fiu" or len(header.shape) not in (1, 2):
        raise Malformed(
            "not vectors",
            where="body",
            found=f"{header.dtype}, shape {header.shape}",
            expected="numbers, one vector or a matrix of them",
        )
    flat: Array = np.frombuffer(body, header.dtype, offset=header.offset)
    return flat.reshape(header.shape, order="F" if header.fortran_order else "C")


def matrix(rows: list[list[float]] | Array, where: str) -> Array:
    """Return vectors of a request as rows.

    Raises
    ------
    Invalid
        Rows of different lengths, or none.
    """
    if isinstance(rows, np.ndarray):
        return rows if rows.ndim == 2 else rows[None, :]
    for place, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise Invalid(
                "rows of different lengths",
                where=f"{where}[{place}]",
                found=f"{len(row)} numbers",
                expected=f"{len(rows[0])} numbers",
            )
    if not rows:
        raise Invalid("no vectors", where=where, found="none", expected="at least one")
    return np.array(rows, np.float64)
