"""Nights published by both engines, and the comparison of their versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embsync.config import Config
from embsync.manifest import Manifest
from embsync.pipeline import Request
from embsync.pipeline.run import publish_snapshot
from embsync.store import Store

#: Fields that differ although the versions are equal: times, random names, files, and an index built in parallel.
_OTHER = frozenset({"seconds", "created", "space_id", "files", "mtime_ns", "format", "parts", "index", "checks"})


def save(
    directory: Path, items: Any, item_ids: Any, users: Any, user_ids: Any, files: int = 3, *, fixed: bool = False
) -> Path:
    """Write a snapshot as parquet part files with lists or fixed-size lists."""
    for name, ids, vectors in (("items", item_ids, items), ("users", user_ids, users)):
        (directory / name).mkdir(parents=True)
        for number, rows in enumerate(np.array_split(np.arange(len(ids)), files)):
            kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1] if fixed else -1)
            table = pa.table({"id": pa.array(ids[rows].tolist()), "vector": pa.array(list(vectors[rows]), kind)})
            pq.write_table(table, directory / name / f"part-{number}.parquet")
    return directory


def publish(store: Path, snapshot: Path, config: Config, **options: Any) -> Manifest:
    """Publish a snapshot."""
    return publish_snapshot(Store(store), Request(snapshot, **options), config)


def differences(first: Manifest, second: Manifest) -> list[str]:
    """Return the fields that differ by more than 1e-6 relative to their size, or at all if they are not numbers."""
    return list(_differences(msgspec.to_builtins(first), msgspec.to_builtins(second), ""))


def _differences(first: Any, second: Any, place: str) -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for name in sorted({*first, *second} - _OTHER):
            yield from _differences(first.get(name), second.get(name), f"{place}.{name}")
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        for number, pair in enumerate(zip(first, second, strict=True)):
            yield from _differences(*pair, f"{place}[{number}]")
    elif isinstance(first, float) and isinstance(second, float):
        if abs(first - second) > 1e-6 * abs(first) + 1e-12:
            yield f"{place}: {first} and {second}"
    elif first != second:
        yield f"{place}: {first} and {second}"


def require_same_users(local: Path, spark: Path, number: int) -> None:
    """Assert that the users of a version are the same rows, within one float32 rounding of the row's largest entry."""
    arrays, parts = (root / "versions" / f"{number:06d}" / "users" for root in (local, spark))
    table = pq.read_table([str(path) for path in sorted(parts.glob("part-*.parquet"))])
    ids, vectors, seen = (np.load(arrays / f"{name}.npy") for name in ("ids", "vectors", "last_seen"))
    assert [name.encode() if isinstance(name, str) else name for name in table["id"].to_pylist()] == ids.tolist()
    assert table["last_seen"].to_pylist() == seen.tolist()
    rows = np.array(table["vector"].to_pylist(), np.float32)
    apart = np.abs(rows - vectors).max(axis=1)
    assert (apart <= 2.0**-23 * np.abs(vectors).max(axis=1)).all()


def require_same_arrays(local: Path, spark: Path, number: int) -> None:
    """Assert that anchors, start sample and neighbours are the same ids and rows."""
    one, other = (root / "versions" / f"{number:06d}" for root in (local, spark))
    for name in ("anchors/user_ids", "anchors/user_ages", "start/user_ids", "neighbours"):
        np.testing.assert_array_equal(np.load(one / f"{name}.npy"), np.load(other / f"{name}.npy"), name)
    for name in ("anchors/users", "start/users", "users/moments"):
        np.testing.assert_allclose(np.load(one / f"{name}.npy"), np.load(other / f"{name}.npy"), atol=1e-5)
