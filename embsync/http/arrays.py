"""Arrays in ``application/x-npy``: read without trusting the header, written without a copy of the numbers' text."""

from __future__ import annotations

import io

import numpy as np

from embsync.dtypes import Array
from embsync.errors import SnapshotError
from embsync.http.messages import Malformed
from embsync.snapshots.numpy_header import LONGEST_HEADER, parse_header

NPY = "application/x-npy"


def to_npy(array: Array) -> bytes:
    """Return an array as the bytes of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def from_npy(body: bytes) -> Array:
    """Return the numbers of a ``.npy`` file.

    Raises
    ------
    Malformed
        Another format, another type than numbers, or more or fewer bytes than the header says.
    """
    try:
        header = parse_header(body[:LONGEST_HEADER], len(body), "body")
    except SnapshotError as error:
        raise Malformed(error.what, where="body", found=error.found, expected=error.expected) from None
    if header.dtype.kind not in "fiu" or len(header.shape) not in (1, 2):
        raise Malformed("not vectors", where="body", found=f"{header.dtype}, shape {header.shape}",
                        expected="numbers, one vector or a matrix of them")
    flat: Array = np.frombuffer(body, header.dtype, offset=header.offset)
    return flat.reshape(header.shape, order="F" if header.fortran_order else "C")
