"""The first pass over the rows: Gram sums, and cross-Gram sums with the anchors, fold by fold.

Sums are accumulated in float64. Forming a Gram matrix squares the condition number, so for ill-conditioned sides the
triangular factor comes from a QR decomposition of the blocks instead, in another pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from embsync.alignment.anchors import Blend, ReferenceRows
from embsync.dtypes import Array, Float64, Int64, RowNumbers
from embsync.errors import SnapshotError
from embsync.ids import FOLDS, fold_of, sample
from embsync.rows import Rows, in_threads, library_threads, map_blocks

#: Called by worker threads with ``(start, raw block)``.
RawObserver = Callable[[int, Array], None]

#: Condition number of a side up to which its Gram matrix is used. The relative error in the smallest direction is
#: eps * condition**2: 2e-4 at 1e6; Cholesky fails near 1e8.
GRAM_CONDITION = 1e6

#: Rows of a side that the fit is judged on, and how many a dimension at least: a share of 0.03 of them has a standard
#: error of 0.0019, and judging all of 100,000 took a seventh of the time to stabilize.
JUDGED = 8_000
JUDGED_A_DIMENSION = 8

#: Values of judged rows whose sums are formed together. The products of one block's few judged rows would be as large
#: as those of all: ten of e x k, added up block by block.
_JUDGED_AT_ONCE = 2**21


@dataclass(frozen=True)
class Pairing:
    """Which rows of a side have an anchor.

    Attributes
    ----------
    positions : (t,) row numbers
        Position of each row's anchor, -1 without one.
    anchors : (a, k) float32
        Rows to fit to, possibly memory-mapped, or blended as they are read; a blend has weights of its own.
    folds : (a,) uint8
        Cross-validation fold of each anchor that the fit is judged on, 10 for others.
    """

    positions: RowNumbers
    anchors: ReferenceRows
    folds: Array

    @classmethod
    def of(cls, positions: RowNumbers, anchors: ReferenceRows, ids: Array) -> Pairing:
        """Return the pairing with anchors of those ids; judged are those with the lowest hashes that are there."""
        there = positions[positions >= 0]
        judged = there[sample(ids[there], max(JUDGED, JUDGED_A_DIMENSION * anchors.shape[1]))]
        folds = np.full(len(ids), FOLDS, np.uint8)
        folds[judged] = fold_of(ids[judged])
        return cls(positions, anchors, folds)

    def judged(self, start: int, stop: int) -> Int64:
        """Return which rows of a block are judged, counted from its first."""
        places = self.positions[start:stop]
        return (
            np.flatnonzero((places >= 0) & (self.folds[places] < FOLDS)) if len(self.folds) else np.empty(0, np.int64)
        )


@dataclass(frozen=True)
class Cross:
    """Sums over rows X and their anchors B: ``whole`` over all rows with an anchor, the others over those judged.

    Attributes
    ----------
    whole : (e, k) float64
        Raw rows against their anchors, X^T diag(weights) B.
    folds : (10, e, k) float64
        The same, one sum a fold.
    rows, anchors : (e, e) and (k, k) float64
        X^T diag(weights) X and B^T diag(weights) B.
    row_sum, anchor_sum : (e,) and (k,) float64
        Weighted sums of the rows.
    weight : () float64
        Sum of the weights.
    """

    whole: Float64
    folds: Float64
    rows: Float64
    anchors: Float64
    row_sum: Float64
    anchor_sum: Float64
    weight: Float64

    @classmethod
    def zeros(cls, width: int, dimension: int) -> Cross:
        """Return the sums over no rows."""
        return cls(
            np.zeros((width, dimension)),
            np.zeros((FOLDS, width, dimension)),
            np.zeros((width, width)),
            np.zeros((dimension, dimension)),
            np.zeros(width),
            np.zeros(dimension),
            np.zeros(()),
        )

    def add_judged(self, judged: Sequence[JudgedRows], threads: int) -> None:
        """Add the sums of judged rows, one fold a worker, in place."""
        if not judged:
            return
        order, parts = by_fold(np.concatenate([one.folds for one in judged]))
        rows, anchors, roots = (
            np.concatenate([getattr(one, name) for one in judged]) for name in ("rows", "anchors", "roots")
        )

        def add(fold: int) -> tuple[Float64, ...]:
            part = order[parts[fold]]
            left, right, root = rows[part].astype(np.float64), anchors[part].astype(np.float64), roots[part]
            self.folds[fold] += left.T @ right
            # To tell a flipped axis, float32 will do.
            narrow = right.astype(np.float32)
            squares = (narrow.T @ narrow).astype(np.float64)
            return left.T @ left, squares, root @ left, root @ right, np.asarray(root @ root)

        mine = (self.rows, self.anchors, self.row_sum, self.anchor_sum, self.weight)
        for sums in in_threads(add, range(FOLDS), threads):
            for total, one in zip(mine, sums, strict=True):
                total += one  # noqa: PLW2901  (in place)


@dataclass(frozen=True)
class JudgedRows:
    """Judged rows of a block and their anchors, both times the roots of the rows' weights.

    Attributes
    ----------
    rows, anchors : (n, e) and (n, k)
    roots : (n,) float64
    folds : (n,) uint8
    """

    rows: Array
    anchors: Array
    roots: Float64
    folds: Array


@dataclass(frozen=True)
class SideSums:
    """The sums from one pass over a side.

    Attributes
    ----------
    rows : int
        t.
    gram : (e, e) float64
        T^T T.
    cross : Cross or None
    paired, judged : int
        Rows with an anchor, and those of them that the fit is judged on.
    zero_rows : int
        Rows in which every value is zero.
    sample : (s, e) ndarray
        Raw rows at the requested positions.
    """

    rows: int
    gram: Float64
    cross: Cross | None
    paired: int
    judged: int
    zero_rows: int
    sample: Array


def sum_side(
    rows: Rows,
    pairing: Pairing | None = None,
    weights: Float64 | None = None,
    *,
    sampled: Int64 | None = None,
    name: str = "rows",
    observe: RawObserver | None = None,
    threads: int = 0,
) -> SideSums:
    """Accumulate the Gram matrix of a side, and its cross-Gram matrix with the anchors.

    Parameters
    ----------
    rows : Rows
    pairing : Pairing, optional
    weights : (t,) float64, optional
        Weights of the rows in the cross-Gram matrix.
    sampled : (s,) int64, ascending, optional
        Positions of rows to keep.
    name : str
        How errors refer to the rows.
    observe : callable, optional
        Called by worker threads with ``(start, block)``.
    threads : int
        Workers; 0 for all cores.

    Raises
    ------
    SnapshotError
        A value is not finite, or its square overflows float64.
    """
    width = rows.width
    gram = np.zeros((width, width))
    cross = None if pairing is None else Cross.zeros(width, pairing.anchors.shape[1])
    zero_rows = 0
    wanted = np.empty(0, np.int64) if sampled is None else sampled
    kept: list[Array] = []

    def work(start: int, block: Array) -> tuple[Float64, int, tuple[Float64, JudgedRows] | None, Array]:
        x = block.astype(np.float64)
        product = x.T @ x
        if not np.isfinite(np.trace(product)):
            raise _not_finite(name, start, block)
        if observe is not None:
            observe(start, block)
        # Only a row that begins with zero can be all zero; testing every value would take a seventh of the pass.
        suspects = x[x[:, 0] == 0.0]
        zeros = len(suspects) - int(np.count_nonzero(suspects.any(axis=1)))
        part = None if pairing is None else _cross(start, block, x, pairing, weights)
        first, last = np.searchsorted(wanted, (start, start + len(block)))
        return product, zeros, part, block[wanted[first:last] - start]

    judged: list[JudgedRows] = []
    for _, (product, zeros, part, taken) in map_blocks(work, rows, threads):
        gram += product
        zero_rows += zeros
        kept.append(taken)
        if cross is not None and part is not None:
            cross.whole.__iadd__(part[0])
            judged.append(part[1])
            if sum(one.rows.size for one in judged) >= _JUDGED_AT_ONCE:
                cross.add_judged(judged, threads)
                judged.clear()
    if cross is not None:
        with library_threads(1, "blas"):
            cross.add_judged(judged, threads)
    paired = 0 if pairing is None else int(np.count_nonzero(pairing.positions >= 0))
    count = 0 if pairing is None else len(pairing.judged(0, rows.count))
    kept_rows = np.concatenate(kept) if kept else np.empty((0, width))
    return SideSums(rows.count, gram, cross, paired, count, zero_rows, kept_rows)


def _cross(
    start: int, block: Array, exact: Float64, pairing: Pairing, weights: Float64 | None
) -> tuple[Float64, JudgedRows] | None:
    """Return a block's cross-Gram matrix with its anchors, and its judged rows; ``exact`` is the block in float64."""
    places = pairing.positions[start : start + len(block)]
    local = np.flatnonzero(places >= 0)
    if len(local) == 0:
        return None
    places = places[local]
    anchors: Array = pairing.anchors[places]
    left, right = exact if len(local) == len(block) else exact[local], anchors.astype(np.float64)
    weight = None if weights is None else weights[start : start + len(block)][local]
    if isinstance(pairing.anchors, Blend):
        own = pairing.anchors.weigh(places, right)
        weight = own if weight is None else weight * own
    folds = pairing.folds[places]
    judged = np.flatnonzero(folds < FOLDS)
    if weight is None:
        return left.T @ right, JudgedRows(block[local[judged]], anchors[judged], np.ones(len(judged)), folds[judged])
    roots = np.sqrt(weight)
    left *= roots[:, None]
    right *= roots[:, None]
    return left.T @ right, JudgedRows(left[judged], right[judged], roots[judged], folds[judged])


def by_fold(folds: Array) -> tuple[Int64, list[slice]]:
    """Return the positions of judged rows sorted by their folds, and the part of each fold among them."""
    order = np.argsort(folds, kind="stable")
    bounds = np.searchsorted(folds, np.arange(FOLDS + 1), sorter=order)
    return order[: bounds[-1]], [slice(*bounds[fold : fold + 2]) for fold in range(FOLDS)]


def require_finite(name: str, start: int, block: Array) -> None:
    """Raise SnapshotError if a value is not finite or its square overflows, as :func:`sum_side` does."""
    x = block.astype(np.float64).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(x @ x):
            raise _not_finite(name, start, block)


def _not_finite(name: str, start: int, block: Array) -> SnapshotError:
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(bad) == 0:
        return SnapshotError(
            "values too large",
            where=name,
            found=f"up to {np.abs(block).max():.3g} in rows {start} to {start + len(block) - 1}",
            expected="finite squares in float64",
        )
    shown = ", ".join(str(start + i) for i in bad[:5])
    more = " and more" if len(bad) > 5 else ""
    return SnapshotError(
        "NaN or infinity",
        where=name,
        found=f"in row {shown}{more} (counted from 0)",
        expected="finite vectors",
        hint="the training run diverged, or left part of the file unwritten",
    )


def triangular_factor(rows: Rows, gram: Float64) -> Float64:
    """Return the upper triangular (e, e) factor R with R^T R = T^T T.

    A Cholesky factor of the Gram matrix if it is well enough conditioned, otherwise a QR factor of the blocks (Demmel
    et al., "Communication-optimal parallel and sequential QR and LU factorizations", SIAM J. Sci. Comput. 34, 2012).
    """
    try:
        factor: Float64 = linalg.cholesky(gram)
    except linalg.LinAlgError:
        return _qr_factor(rows)
    return _qr_factor(rows) if np.linalg.cond(factor) > GRAM_CONDITION else factor


def _qr_factor(rows: Rows) -> Float64:
    factor = np.zeros((0, rows.width))
    for _, block in rows.blocks():
        stacked = np.vstack([factor, block.astype(np.float64)])
        triangle = linalg.qr(stacked, mode="r", overwrite_a=True, check_finite=False)[0]
        factor = np.asarray(triangle, np.float64)[: rows.width]
    padded = np.zeros((rows.width, rows.width))
    padded[: len(factor)] = factor
    return padded
