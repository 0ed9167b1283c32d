"""Catalogues that are retrained every night: synthetic ones of any size, and enlarged real ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

import embsync

QUERIES = 1000
NEW, GONE = 0.02, 0.01


@dataclass(frozen=True)
class Night:
    """Live ids, ascending, with their vectors; users with theirs, as queries."""

    ids: np.ndarray
    vectors: np.ndarray
    users: np.ndarray
    queries: np.ndarray


def spectrum(width: int) -> np.ndarray:
    """Return decaying scales of the axes, as of trained vectors; an isotropic cloud has no neighbourhoods to search."""
    return (2.0 / (1.0 + np.arange(width) / 8.0)).astype(np.float32)


def retrainings(rows: int, width: int, cosine: float, nights: int) -> Iterator[Night]:
    """Yield night 0 to ``nights``: each item's constant vector plus the noise of each training run.

    The noise is independent every night, such that consecutive nights have the mean ``cosine``, as independent
    retrainings of one model on growing data have. 2 % of the items are new, 1 % gone, every night.
    """
    rng = np.random.default_rng(0)
    truth = draw(rng, pool_of(rows, nights), width)
    people = draw(rng, QUERIES, width)
    noise = np.sqrt(1.0 / cosine - 1.0)
    for ids in catalogue(rng, rows, nights):
        yield Night(ids, blurred(rng, truth[ids], noise), np.arange(QUERIES), blurred(rng, people, noise))


def wandering(rows: int, width: int, cosine: float, nights: int) -> Iterator[Night]:
    """Yield nights whose noise adds up, so items drift without bound, as no stable model does; a gate must cope."""
    rng = np.random.default_rng(1)
    items, people = draw(rng, pool_of(rows, nights), width), draw(rng, QUERIES, width)
    noise = np.sqrt(1.0 / cosine**2 - 1.0)
    for ids in catalogue(rng, rows, nights):
        yield Night(ids, items[ids], np.arange(QUERIES), people)
        items, people = (blurred(rng, part, noise) * np.float32(cosine) for part in (items, people))


def draw(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Return rows with the spectrum of trained vectors."""
    array = rng.standard_normal((rows, width), dtype=np.float32)
    array *= spectrum(width)
    return array


def blurred(rng: np.random.Generator, rows: np.ndarray, noise: float) -> np.ndarray:
    """Return ``rows`` with isotropic noise, ``noise`` times as large as they are.

    In real retrainings it differs by axis: between the second and the third night of goodbooks it is 0.05 of the signal
    on the strongest axis of the stable space, 0.22 on the 17th, 1.17 on the weakest.
    """
    result = rng.standard_normal(rows.shape, dtype=np.float32)
    result *= np.float32(noise * np.sqrt(np.mean(spectrum(rows.shape[1]) ** 2)))
    result += rows
    return result


def pool_of(rows: int, nights: int) -> int:
    """Return the total number of items over all nights."""
    return rows + nights * int(NEW * rows)


def catalogue(rng: np.random.Generator, rows: int, nights: int) -> Iterator[np.ndarray]:
    """Yield the live ids of each night."""
    ids = np.arange(rows)
    for night in range(nights + 1):
        yield ids
        kept = np.delete(ids, rng.choice(ids.size, int(GONE * rows), replace=False))
        ids = np.concatenate([kept, rows + night * int(NEW * rows) + np.arange(int(NEW * rows))])


def goodbooks(folder: Path, nights: int) -> Iterator[tuple[Night, Night]]:
    """Yield the real retrainings, stable and raw, back and forth over the five days until ``nights`` have passed.

    Every step is from one independent training run to the next or the previous one.
    """
    if not (folder / "day=1" / "items.npy").is_file():
        print(f"skipped: no real retrainings at {folder}")
        return
    order = [1, 2, 3, 4, 5, 4, 3, 2]
    anchors = None
    for number in range(nights + 1):
        day = folder / f"day={order[number % len(order)]}"
        item_ids, items, user_ids, users = (
            np.load(day / f"{name}.npy") for name in ("item_ids", "items", "user_ids", "users")
        )
        stable = embsync.stabilize(items, users, item_ids=item_ids, user_ids=user_ids, anchors=anchors)
        anchors = stable.anchors
        assert stable.users is not None
        chosen = slice(0, QUERIES)
        yield (
            Night(item_ids, np.array(stable.items), user_ids[chosen], np.array(stable.users[chosen])),
            Night(item_ids, items, user_ids[chosen], users[chosen]),
        )


def lasting(folder: Path) -> np.ndarray:
    """Return the ids that live on all five real days, 95 % of them; none without real retrainings."""
    days = [np.load(path) for path in folder.glob("day=*/item_ids.npy")]
    return reduce(np.intersect1d, days) if days else np.empty(0, np.int64)


def enlarged(nights: Iterable[Night], times: int, partners: np.ndarray) -> Iterator[Night]:
    """Yield nights with ``times`` as many items: each further one is a fixed mixture of two real ones.

    A mixture cos(a) x + sin(a) y keeps norm and nightly noise of its components, so it drifts as real items
    do; a copy with a constant offset would drift less than a real item. It lives while x does, and y, one of
    the ``partners``, always does: otherwise, twice as many would come and go as in the real catalogue.
    """
    largest = 10_001  # above every goodbooks book_id
    for night in nights:
        ids, vectors = [night.ids], [night.vectors]
        for copy in range(1, times):
            rng = np.random.default_rng(copy)
            partner, angle = rng.choice(partners, largest), rng.uniform(0.2, 1.37, largest).astype(np.float32)
            there = np.searchsorted(night.ids, partner[night.ids])
            turn = angle[night.ids, None]
            vectors.append(np.cos(turn) * night.vectors + np.sin(turn) * night.vectors[there])
            ids.append(night.ids + copy * largest)
        yield Night(np.concatenate(ids), np.ascontiguousarray(np.concatenate(vectors)), night.users, night.queries)
