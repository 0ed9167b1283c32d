"""Arrays in ``application/x-npy``: read without trusting the header, written without a copy of the numbers' text."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from embsync.dtypes import Array
from embsync.http.messages import Malformed

NPY = "application/x-npy"
_LONGEST_HEADER = 10_000


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
    buffer = io.BytesIO(body)
    shape, fortran, dtype = _header(buffer)
    if dtype.kind not in "fiu" or dtype.hasobject:
        raise Malformed("not an array of numbers", where="body", found=str(dtype), expected="float32")
    expected = math.prod(shape) * dtype.itemsize
    rest = len(body) - buffer.tell()
    if rest != expected or len(shape) not in (1, 2):
        raise Malformed("not one array of one or two dimensions", where="body", found=f"{rest} bytes, shape {shape}",
                        expected=f"{expected} bytes")
    flat: Array = np.frombuffer(body, dtype, offset=buffer.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _header(buffer: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(buffer)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(buffer, max_header_size=_LONGEST_HEADER)
    except Exception as error:  # numpy parses the header as Python: what it raises for a forged one is open
        raise Malformed("not an .npy file", where="body", found=type(error).__name__) from None
    if any(not 0 <= extent < 2**40 for extent in shape):
        raise Malformed("not an .npy file", where="body", found=f"shape {shape}")
    return shape, fortran, dtype
