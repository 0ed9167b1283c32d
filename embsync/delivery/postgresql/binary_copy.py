"""Rows in the binary format of PostgreSQL's COPY, encoded a block at a time.

The formats of the file and of ``bigint``, ``text``, ``boolean`` and ``timestamptz`` are those of PostgreSQL's
documentation of COPY and of its send functions; that of ``jsonb`` is a 1 and JSON as text. That of ``vector`` is
pgvector's ``vector_send``: the width and a zero as 16-bit integers, then the numbers as 32-bit floats, all big-endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import LiteralString

import numpy as np

from embsync.delivery.rows import RowBlock, labels_as_json
from embsync.dtypes import Array

#: The columns of a table of rows, in the order in which they are copied, and their types; None: that of the ids.
COLUMNS: Sequence[tuple[str, LiteralString | None]] = (
    ("version", "bigint"),
    ("id", None),
    ("vector", "vector"),
    ("live", "boolean"),
    ("age", "bigint"),
    ("last_seen", "bigint"),
    ("last_seen_at", "timestamptz"),
)
#: Column of items only, after the others.
LABELS: tuple[str, LiteralString] = ("labels", "jsonb")
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
#: ``timestamptz`` counts microseconds from here.
_EPOCH = np.datetime64("2000-01-01", "us")
#: JSON is padded with spaces to a multiple of this, so that few lengths occur.
_JSON_STEP = 64
_JSONB_FORMAT = b"\x01"


def encoded(block: RowBlock, version: int) -> Iterator[bytes]:
    """Yield the rows of a block; rows with fields of equal length are encoded together, so their order may change."""
    ids = _big_endian_ids(block.ids)
    lengths = np.full(len(ids), 8) if ids.dtype.kind == "i" else np.char.str_len(ids)
    known = ~np.isnat(block.last_seen_at)
    labels = None if block.labels is None else [_jsonb(one) for one in labels_as_json(block.labels, len(ids))]
    sizes = np.zeros(len(ids), np.int64) if labels is None else np.fromiter(map(len, labels), np.int64, len(ids))
    shapes, which = np.unique(np.column_stack([lengths, known, sizes]), axis=0, return_inverse=True)
    for place, (length, _, size) in enumerate(shapes.tolist()):
        rows = np.flatnonzero(which.ravel() == place)
        texts = None if labels is None else np.array([labels[row] for row in rows.tolist()], f"S{size}")
        kind = ids.dtype if ids.dtype.kind == "i" else f"S{length}"
        yield _records(block, ids[rows].astype(kind), texts, rows, version)


def _jsonb(text: bytes) -> bytes:
    text = _JSONB_FORMAT + text
    return text.ljust(-(-len(text) // _JSON_STEP) * _JSON_STEP)


def _big_endian_ids(ids: Array) -> Array:
    return ids.astype(">i8") if ids.dtype.kind == "i" else np.char.encode(ids, "utf-8")


def _records(block: RowBlock, ids: Array, labels: Array | None, rows: Array, version: int) -> bytes:
    """Return encoded rows; all have a time or none has, all ids have one length, and all labels have one length."""
    width = block.vectors.shape[1]
    timed = not np.isnat(block.last_seen_at[rows[0]])
    fields: list[tuple[str, int, list[tuple[str, object]]]] = [
        ("version", 8, [(">i8", version)]),
        ("id", ids.dtype.itemsize, [(ids.dtype.str, ids)]),
        ("vector", 4 + 4 * width, [(">i2", width), (">i2", 0), (f"({width},)>f4", block.vectors[rows])]),
        ("live", 1, [("u1", block.live[rows])]),
        ("age", 8, [(">i8", block.ages[rows])]),
        ("last_seen", 8, [(">i8", block.last_seen[rows])]),
        ("last_seen_at", 8, [(">i8", (block.last_seen_at[rows] - _EPOCH).astype(np.int64))])
        if timed
        else ("last_seen_at", -1, []),
    ]
    if labels is not None:
        fields.append(("labels", labels.dtype.itemsize, [(labels.dtype.str, labels)]))
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    values: dict[str, object] = {"fields": len(fields)}
    for name, length, parts in fields:
        layout.append((f"{name} length", ">i4"))
        values[f"{name} length"] = length
        for place, (dtype, value) in enumerate(parts):
            layout.append((f"{name} {place}", dtype))
            values[f"{name} {place}"] = value
    records = np.empty(len(rows), layout)
    for name, value in values.items():
        records[name] = value
    return records.tobytes()
