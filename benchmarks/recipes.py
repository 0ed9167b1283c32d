"""The peers of embsync: the same alignment of one night, in memory, without a certificate.

``plain`` is the recipe as published: QR of both sides in float64. ``expert`` is a version optimized for the
machine: Gram matrices of float32 blocks added up in float64, Cholesky factors, and no copy of a side beside
the result. Both join the ids of tonight with those of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Matrix = NDArray[np.float64]
Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

#: Rows of a block that remains in the cache with its product.
STEP = 4096


@dataclass(frozen=True)
class Table:
    """One side: ``vectors`` (n, e) float32 and ``ids`` (n,) int64."""

    vectors: Vectors
    ids: Ids


@dataclass(frozen=True)
class Reference:
    """Last night's stable vectors, ascending by id."""

    items: Table
    users: Table


def reference(items: Table, users: Table) -> Reference:
    """Return the stable vectors of a new space that starts with this night."""
    stable = _stable(items.vectors, users.vectors)
    return Reference(*(_sorted(one.ids, vectors) for one, vectors in zip((items, users), stable, strict=True)))


def plain(items: Table, users: Table, before: Reference) -> tuple[Vectors, Vectors]:
    """Return tonight's stable vectors by QR, SVD and orthogonal Procrustes in float64."""
    rows = np.vstack(_standardized(items.vectors, users.vectors))
    pairs = [_joined(now, then) for now, then in ((items, before.items), (users, before.users))]
    common = np.concatenate([pairs[0][0], len(items.ids) + pairs[1][0]])
    anchors = np.vstack([before.items.vectors[pairs[0][1]], before.users.vectors[pairs[1][1]]])
    rotation, _ = linalg.orthogonal_procrustes(rows[common], anchors)
    stable = (rows @ rotation).astype(np.float32)
    return stable[: len(items.ids)], stable[len(items.ids) :]


def expert(items: Table, users: Table, before: Reference) -> tuple[Vectors, Vectors]:
    """Return tonight's stable vectors by Gram matrices, Cholesky factors and float32 products in blocks."""
    maps = _maps(*(linalg.cholesky(_product(side.vectors, side.vectors)) for side in (items, users)))
    cross = sum(
        A.T @ _joined_product(now, then)
        for A, now, then in zip(maps, (items, users), (before.items, before.users), strict=True)
    )
    U, _, Vt = np.linalg.svd(cross)
    stable = [now.vectors @ (A @ (U @ Vt)).astype(np.float32) for A, now in zip(maps, (items, users), strict=True)]
    return stable[0], stable[1]


def _stable(items: Vectors, users: Vectors) -> tuple[Vectors, Vectors]:
    return tuple(side.astype(np.float32) for side in _standardized(items, users))


def _standardized(items: Vectors, users: Vectors) -> tuple[Matrix, Matrix]:
    maps = _maps(*(np.linalg.qr(side.astype(np.float64), "r") for side in (items, users)))
    return items @ maps[0], users @ maps[1]


def _maps(items: Matrix, users: Matrix) -> tuple[Matrix, Matrix]:
    U, S, Vt = np.linalg.svd(items @ users.T)
    return users.T @ Vt.T * S**-0.5, items.T @ U * S**-0.5


def _product(left: Vectors, right: Vectors) -> Matrix:
    total = np.zeros((left.shape[1], right.shape[1]))
    for start in range(0, len(left), STEP):
        total += left[start : start + STEP].T @ right[start : start + STEP]
    return total


def _joined_product(now: Table, then: Table) -> Matrix:
    """Return the product of tonight's raw rows with the reference rows of the same ids, block by block."""
    here, there = _joined(now, then)
    total = np.zeros((now.vectors.shape[1], then.vectors.shape[1]))
    for start in range(0, len(here), STEP):
        part = slice(start, start + STEP)
        total += now.vectors[here[part]].T @ then.vectors[there[part]]
    return total


def _joined(now: Table, then: Table) -> tuple[Ids, Ids]:
    """Return the rows of the common ids: tonight's, and those of the reference, which ascends by id."""
    places = np.searchsorted(then.ids, now.ids)
    places[places == len(then.ids)] = 0
    here = np.flatnonzero(then.ids[places] == now.ids)
    return here, places[here]


def _sorted(ids: Ids, vectors: Vectors) -> Table:
    order = np.argsort(ids, kind="stable")
    return Table(vectors[order], ids[order])
