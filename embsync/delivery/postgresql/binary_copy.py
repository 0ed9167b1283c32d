"""Rows in the binary format of PostgreSQL's COPY, encoded a block at a time.

The formats of the file and of ``bigint``, ``text``, ``boolean`` and ``timestamptz`` are those of PostgreSQL's
documentation of COPY and of its send functions; that of ``vector`` is pgvector's ``vector_send``: the width and a zero
as 16-bit integers, then the numbers as 32-bit floats, all big-endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import LiteralString

import numpy as np

from embsync.delivery.rows import RowBlock
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
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
#: ``timestamptz`` counts microseconds from here.
_EPOCH = np.datetime64("2000-01-01", "us")


def encoded(block: RowBlock, version: int) -> Iterator[bytes]:
    """Yield the rows of a block; rows whose fields are equally long are encoded together, so their order may change."""
    ids = _big_endian_ids(block.ids)
    lengths = np.full(len(ids), 8) if ids.dtype.kind == "i" else np.char.str_len(ids)
    known = ~np.isnat(block.last_seen_at)
    shape = lengths * 2 + known
    for one in np.unique(shape):
        rows = np.flatnonzero(shape == one)
        length = int(one) // 2
        yield _records(block, ids[rows].astype(ids.dtype if ids.dtype.kind == "i" else f"S{length}"), rows, version)


def _big_endian_ids(ids: Array) -> Array:
    return ids.astype(">i8") if ids.dtype.kind == "i" else np.char.encode(ids, "utf-8")


def _records(block: RowBlock, ids: Array, rows: Array, version: int) -> bytes:
    """Return rows that all have a time, or none, and ids of one length."""
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
