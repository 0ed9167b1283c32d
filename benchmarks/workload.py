"""The data of the benchmarks: two nights of a large recommender, the second one rotated, with drift and churn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STEP = 50_000


@dataclass(frozen=True)
class Size:
    """Rows and width of a snapshot."""

    users: int
    items: int = 200_000
    width: int = 128


def write_nights(root: Path, size: Size, seed: int = 0) -> tuple[Path, Path]:
    """Write two snapshots under ``root`` block by block: cosine about 0.9 from night to night, any rotation."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((size.width, size.width)))[0].astype(np.float32)
    # Decaying singular values, as of trained vectors; an isotropic cloud has no neighbourhoods to search.
    spectrum = (2.0 / (1.0 + np.arange(size.width, dtype=np.float32) / 8.0)).astype(np.float32)
    nights = (root / "night=1", root / "night=2")
    for night in nights:
        night.mkdir(parents=True, exist_ok=True)
    for name, rows in (("items", size.items), ("users", size.users)):
        first, second = (_create(night, name, rows, size.width) for night in nights)
        for start, block in _blocks(rng, rows, size.width):
            base = block * spectrum
            first[start : start + len(block)] = base
            noise = rng.standard_normal(block.shape, dtype=np.float32) * spectrum * np.float32(0.45)
            second[start : start + len(block)] = (base + noise) @ turn
        ids = np.arange(rows)
        np.save(nights[0] / f"{name[:-1]}_ids.npy", ids)
        # One in a hundred leaves and as many join, with ids above all others.
        np.save(nights[1] / f"{name[:-1]}_ids.npy", np.where(ids % 100 == 99, ids + rows, ids))
    return nights


def _create(night: Path, name: str, rows: int, width: int) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.lib.format.open_memmap(
        night / f"{name}.npy", mode="w+", dtype=np.float32, shape=(rows, width)
    )
    return array


def _blocks(rng: np.random.Generator, rows: int, width: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, rows, STEP):
        yield start, rng.standard_normal((min(STEP, rows - start), width), dtype=np.float32)
