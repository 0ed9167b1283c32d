"""One small model, written in every layout that tests need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embsync.config import SnapshotConfig
from embsync.snapshots import Snapshot, SnapshotSide, open_snapshot

Array = NDArray[Any]
ROW_NUMBERS = SnapshotConfig(row_number_ids=True)


@dataclass(frozen=True)
class Model:
    """Items, users and their ids, in file order."""

    items: Array
    item_ids: Array
    users: Array
    user_ids: Array

    def typed(self, dtype: Any) -> Model:
        """Return the model with vectors of another type."""
        return replace(self, items=self.items.astype(dtype), users=self.users.astype(dtype))

    def named(self) -> Model:
        """Return the model with string ids, some of them not ASCII."""
        return replace(
            self,
            item_ids=np.array([f"müsli-{number}" for number in self.item_ids]),
            user_ids=np.array([f"u{number}" for number in self.user_ids]),
        )


def model(items: int = 300, users: int = 200, width: int = 8, seed: int = 7) -> Model:
    """Return a model with ids in random order."""
    random = np.random.default_rng(seed)
    return Model(
        random.standard_normal((items, width)).astype(np.float32),
        random.permutation(items * 3)[:items].astype(np.int64) - 5,
        random.standard_normal((users, width)).astype(np.float32),
        random.permutation(users * 3)[:users].astype(np.int64) + 10**12,
    )


def utf8(ids: Array) -> Array:
    """Return ids as a reader returns them."""
    if ids.dtype.kind == "U":
        return np.array([text.encode() for text in ids.tolist()])
    return ids.astype(np.int64) if ids.dtype.kind in "iu" else ids


def write_npy(path: Path, made: Model) -> Path:
    """Write the model as layout npy."""
    path.mkdir(parents=True, exist_ok=True)
    for name, array in vars(made).items():
        np.save(path / f"{name}.npy", array)
    return path


def write_npz(path: Path, made: Model, *, deflate: bool = False) -> Path:
    """Write the model as layout npz."""
    (np.savez_compressed if deflate else np.savez)(path, **vars(made))
    return path


def vectors(side: SnapshotSide) -> Array:
    """Return all rows of a side, after checking what every block guarantees."""
    blocks, expected_start = [], 0
    for start, block in side.blocks():
        assert start == expected_start
        assert block.shape[1] == side.width
        assert block.dtype.isnative
        assert not block.flags.writeable
        expected_start += len(block)
        blocks.append(block)
    assert expected_start == side.count
    return np.concatenate(blocks)


def assert_reads(snapshot: Snapshot, made: Model) -> None:
    """Assert that a snapshot equals the model, bit for bit and in its order, in two passes."""
    assert snapshot.users is not None
    for side, raw, ids in ((snapshot.items, made.items, made.item_ids), (snapshot.users, made.users, made.user_ids)):
        for _ in range(2):
            np.testing.assert_array_equal(vectors(side), raw)
            assert vectors(side).dtype == raw.dtype.newbyteorder("=")
        np.testing.assert_array_equal(side.ids(), utf8(ids))
        assert side.ids().dtype == utf8(ids).dtype
        assert side.weights() is None


def read(path: Path, config: SnapshotConfig | None = None) -> None:
    """Open a snapshot and read all of it, as the pipeline does."""
    snapshot = open_snapshot(path, config or SnapshotConfig())
    for side in snapshot.sides:
        side.ids()
        side.weights()
        vectors(side)
