"""The anchors passed from one call to the next, and the file that stores them between processes.

The file is safetensors, which other programs can read: tensors ``items.ids``, ``items.vectors`` and optionally
``items.recent`` and ``items.ages``, the same for users, and in ``__metadata__`` the format version, each side's
``rate``, and the sha256 of the entire file with 64 zeros in place of the hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embsync.alignment.anchors import AnchorSide
from embsync.dtypes import Array
from embsync.errors import NotFoundError, SnapshotError
from embsync.ids import LONGEST_ID, canonical
from embsync.invocation import quoted
from embsync.numpy_header import ArrayHeader
from embsync.sides import NAMES, Sides
from embsync.snapshots.files import FileBytes, Place, file_size
from embsync.snapshots.safetensors import read_headers
from embsync.store.durable import replace_file, write_errors

#: Version of the file format; incremented when older releases can no longer read it.
FORMAT = "1"
_NO_HASH = "0" * 64
_PIECE = 4 * 2**20
_TYPES = {"|u1": "U8", "<i4": "I32", "<i8": "I64", "<f4": "F32"}


@dataclass(frozen=True)
class Anchors(Sides[AnchorSide]):
    """Reference rows of a space, to be passed to the next :func:`embsync.stabilize`.

    Attributes
    ----------
    items, users : AnchorSide
        ``ids`` (a,), ``vectors`` (a, k) float32 and, with ``two_time_scales``, ``recent`` (a, k) float32: the last
        stable rows, in addition to the slow average in ``vectors``; ``ages`` (a,) int32: how many snapshots have
        updated each row. ``users`` is None for one side.
    """

    def __repr__(self) -> str:
        users = "" if self.users is None else f", {len(self.users.ids):,} users"
        return f"<Anchors: {len(self.items.ids):,} items{users}, {self.dimension} dimensions>"

    @property
    def dimension(self) -> int:
        """Width k of the space."""
        return int(self.items.vectors.shape[1])

    def save(self, path: str | Path) -> None:
        """Write the anchors to one file, durably and atomically.

        Parameters
        ----------
        path : str or Path
            A file in an existing directory; a previous file is replaced.

        Raises
        ------
        NotFoundError
            The directory does not exist.
        StoreError
            The file cannot be written.
        """
        target = Path(path).absolute()
        if not target.parent.is_dir():
            folder = quoted(str(target.parent))
            raise NotFoundError("no directory to write to", where=target.parent, hint=f"mkdir -p {folder}")
        with write_errors("the anchors", target):
            replace_file(target, _encoded(self))

    @classmethod
    def load(cls, path: str | Path) -> Anchors:
        """Return the anchors that :meth:`save` wrote to a file.

        Parameters
        ----------
        path : str or Path
            A file that :meth:`save` has written.

        Returns
        -------
        Anchors
            The saved anchors, in memory.

        Raises
        ------
        NotFoundError
            There is no such file.
        SnapshotError
            It was not written by :meth:`save`, has a later format, or was changed.
        """
        try:
            place = Place.at(path)
        except NotFoundError:
            raise NotFoundError("no such anchors file", where=path) from None
        with place.open() as file:
            content = FileBytes(file, str(place))
            size = file_size(file)
            headers = read_headers(content, size)
            metadata = _metadata(content)
            _require_as_written(content, size, metadata)
            sides = [_side(name, headers, metadata, content) for name in NAMES if f"{name}.ids" in headers]
        if not sides or len({side.vectors.shape[1] for side in sides}) > 1 or f"{NAMES.items}.ids" not in headers:
            raise _ill_formed(content, f"tensors {', '.join(headers)[:200]}", "items, perhaps users, of one width")
        return cls(sides[0], sides[1] if len(sides) > 1 else None)


def _encoded(anchors: Anchors) -> bytes:
    """Return the bytes of the file: length of the header, header, numbers."""
    metadata = {"embsync_anchors": FORMAT, "sha256": _NO_HASH}
    tensors: dict[str, Array] = {}
    for name, side in anchors.named():
        metadata[f"{name}.rate"] = repr(float(side.rate))
        tensors[f"{name}.vectors"] = np.ascontiguousarray(side.vectors, "<f4")
        if side.recent is not None:
            tensors[f"{name}.recent"] = np.ascontiguousarray(side.recent, "<f4")
        if side.ages is not None:
            tensors[f"{name}.ages"] = np.ascontiguousarray(side.ages, "<i4")
        ids = np.ascontiguousarray(side.ids)
        tensors[f"{name}.ids"] = (
            ids.astype("<i8", copy=False) if ids.dtype.kind == "i" else ids.view(np.uint8).reshape(len(ids), -1)
        )
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for key, array in tensors.items():
        place = [position, position + array.nbytes]
        header[key] = {"dtype": _TYPES[array.dtype.str], "shape": array.shape, "data_offsets": place}
        position += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8, as the safetensors library aligns them
    head = len(text).to_bytes(8, "little") + text
    numbers = [array.reshape(-1).view(np.uint8).data for array in tensors.values()]
    digest = hashlib.sha256(head)
    for part in numbers:
        digest.update(part)
    return b"".join([head.replace(_NO_HASH.encode(), digest.hexdigest().encode(), 1), *numbers])


def _metadata(content: FileBytes) -> Mapping[str, str]:
    length = int.from_bytes(content.read(8, 0), "little")
    found = json.loads(content.read(length, 8)).get("__metadata__")
    if not isinstance(found, dict) or "embsync_anchors" not in found:
        raise _ill_formed(content, "a safetensors file without anchors", "a file written by Anchors.save")
    if found["embsync_anchors"] != FORMAT:
        raise _ill_formed(
            content, f"format {found['embsync_anchors']!r}"[:60], f"format {FORMAT}, which this release reads"
        )
    return found


def _require_as_written(content: FileBytes, size: int, metadata: Mapping[str, str]) -> None:
    stated = str(metadata.get("sha256"))
    length = 8 + int.from_bytes(content.read(8, 0), "little")
    digest = hashlib.sha256(content.read(length, 0).replace(stated.encode(), _NO_HASH.encode(), 1))
    for start in range(length, size, _PIECE):
        digest.update(content.read(min(_PIECE, size - start), start))
    if digest.hexdigest() != stated:
        raise _ill_formed(content, "a sha256 that differs from the recorded one", "the file as it was written")


def _side(name: str, headers: Mapping[str, ArrayHeader], metadata: Mapping[str, str], content: FileBytes) -> AnchorSide:
    ids = _read(headers[f"{name}.ids"], content)
    if ids.dtype == np.uint8 and ids.ndim == 2 and 1 <= ids.shape[1] <= LONGEST_ID:
        ids = ids.view(f"S{ids.shape[1]}").reshape(-1)
    rows = [_read(headers[key], content) for key in (f"{name}.vectors", f"{name}.recent") if key in headers]
    try:
        rate = float(metadata[f"{name}.rate"])
        ids = canonical(ids, f"{content.where}({name}.ids)")
    except (KeyError, ValueError, TypeError):
        rate = 0.0
    wrong = [array for array in rows if array.dtype != np.float32 or array.ndim != 2 or len(array) != len(ids)]
    if not rows or wrong or len({array.shape for array in rows}) > 1 or not 0 < rate <= 1:
        raise _ill_formed(content, f"{name} with wrong shapes or rates", "an id, a row of float32 and a rate in (0, 1]")
    if not (ids[1:] > ids[:-1]).all() or not all(np.isfinite(array).all() for array in rows):
        raise _ill_formed(content, f"{name} out of order or not finite", "ascending ids and finite rows")
    ages = _read(headers[f"{name}.ages"], content) if f"{name}.ages" in headers else None
    if ages is not None and not (ages.dtype == np.int32 and ages.shape == ids.shape and (ages >= 0).all()):
        raise _ill_formed(content, f"{name} with wrong ages", "one int32 of at least 0 for each id")
    return AnchorSide(ids, rows[0], rate, rows[1] if len(rows) > 1 else None, ages)


def _read(header: ArrayHeader, content: FileBytes) -> Array:
    array = np.empty(header.shape, header.dtype)
    content.fill(array, header.offset)
    array.setflags(write=False)
    return array


def _ill_formed(content: FileBytes, found: str, expected: Any) -> SnapshotError:
    return SnapshotError("not the saved anchors", where=content.where, found=found, expected=expected)
