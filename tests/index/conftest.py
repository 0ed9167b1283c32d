"""A small seeded side, and functions that make the next night and its index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from embsync.config import IndexConfig
from embsync.index import Built, ParentIndex, Searcher, refresh

WIDTH = 16


@dataclass(frozen=True)
class Side:
    """A side as the store writes it: rows ascending by id, some of them live."""

    ids: np.ndarray
    vectors: np.ndarray
    live: np.ndarray
    queries: np.ndarray

    @property
    def live_ids(self) -> np.ndarray:
        """Ids of the live rows."""
        return self.ids[self.live]


def make_side(rows: int = 1500, width: int = WIDTH, seed: int = 0, carried: int = 100) -> Side:
    """Make a side with a decaying spectrum, as of embeddings, and carried rows at random positions."""
    rng = np.random.default_rng(seed)
    spectrum = np.linspace(1.5, 0.4, width)
    vectors = (rng.standard_normal((rows, width)) * spectrum).astype(np.float32)
    queries = (rng.standard_normal((60, width)) * spectrum).astype(np.float32)
    live = np.sort(rng.choice(rows, rows - carried, replace=False)).astype(np.int64)
    return Side(np.arange(rows, dtype=np.int64) * 3, vectors, live, queries)


def next_night(
    side: Side, seed: int, cosine: float = 0.99, gone: int = 15, new: int = 30, back: int = 10
) -> tuple[Side, np.ndarray]:
    """Return another night and the parent's row map: vectors move, some ids leave, some are new, some return."""
    rng = np.random.default_rng(seed)
    absent = np.setdiff1d(side.ids, side.live_ids)
    returning = absent[:back]
    leaving = rng.choice(side.live_ids, gone, replace=False)
    fresh = rng.choice(np.setdiff1d(np.arange(side.ids.max() + 2 * new), side.ids), new, replace=False)
    live_ids = np.union1d(np.setdiff1d(side.live_ids, leaving), np.union1d(returning, fresh))
    ids = np.union1d(side.ids, fresh)
    vectors = rng.standard_normal((ids.size, side.vectors.shape[1])).astype(np.float32)
    old = side.vectors
    noise = rng.standard_normal(old.shape) * np.sqrt(1 / cosine**2 - 1) * np.linalg.norm(old, axis=1, keepdims=True)
    vectors[np.searchsorted(ids, side.ids)] = old + noise / np.sqrt(old.shape[1])
    row_map = np.searchsorted(ids, side.ids).astype(np.int64)
    row_map[~np.isin(side.ids, live_ids)] = -1
    live = np.searchsorted(ids, live_ids).astype(np.int64)
    return Side(ids, vectors, live, side.queries), row_map


def build(side: Side, config: IndexConfig, previous: ParentIndex | None = None, threads: int = 1) -> Built:
    """Build the index of a side, by default with one thread."""
    return refresh(side.vectors, side.live, side.queries, None, config, threads, previous)


def save(built: Built, path: Path) -> str:
    """Write the index and return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        built.write(lambda chunk: (file.write(chunk), digest.update(chunk)))
    return digest.hexdigest()


@dataclass(frozen=True)
class Shelf:
    """A directory for the index files of a test."""

    path: Path

    def save(self, built: Built, name: str = "index.faiss") -> str:
        """Write the index; return its hash."""
        return save(built, self.path / name)

    def open(self, built: Built, name: str = "index.faiss") -> Searcher:
        """Write the index and map it, as a reader does."""
        self.save(built, name)
        return Searcher.open(self.path / name, built.labels, built.report)

    def parent(self, built: Built, row_map: np.ndarray, name: str = "parent.faiss") -> ParentIndex:
        """Write the index; return it as the next night's parent."""
        return ParentIndex(self.path / name, self.save(built, name), built.labels, row_map, built.report)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A directory for index files."""
    return Shelf(tmp_path)


@pytest.fixture
def side() -> Side:
    """1,500 rows, 1,400 of them live."""
    return make_side()


@pytest.fixture
def make() -> Callable[..., Side]:
    """A function that makes another side."""
    return make_side


@pytest.fixture
def night() -> Callable[..., tuple[Side, np.ndarray]]:
    """A function that makes the next night."""
    return next_night


@pytest.fixture
def index_of() -> Callable[..., Built]:
    """A function that builds the index of a side."""
    return build


@pytest.fixture(scope="session")
def built_once() -> Callable[..., tuple[Side, Built]]:
    """A function that makes a side and its index, shared by tests that do not modify them."""
    made: dict[str, tuple[Side, Built]] = {}

    def once(config: IndexConfig, **options: int) -> tuple[Side, Built]:
        name = repr((config, options))
        if name not in made:
            side = make_side(**options)
            made[name] = side, build(side, config)
        return made[name]

    return once


@pytest.fixture
def same() -> Callable[..., tuple[Side, np.ndarray]]:
    """A function that makes a night without changes."""

    def pass_night(side: Side) -> tuple[Side, np.ndarray]:
        row_map = np.full(side.ids.size, -1, np.int64)
        row_map[side.live] = side.live
        return replace(side), row_map

    return pass_night
