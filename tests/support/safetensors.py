"""The safetensors format, written as its library writes it, so that most tests do not need the library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from support.nights import Array

_NAMES = {"f": "F", "i": "I", "u": "U"}


def save_file(tensors: dict[str, Array], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a file: the length of the header, the header padded to eight bytes, the values without gaps."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, array in tensors.items():
        bits = 8 * array.dtype.itemsize
        header[name] = {
            "dtype": "BOOL" if array.dtype == bool else f"{_NAMES[array.dtype.kind]}{bits}",
            "shape": list(array.shape),
            "data_offsets": [position, position := position + array.nbytes],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in tensors.values()]
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *data]))
