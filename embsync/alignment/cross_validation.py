"""Judging the fit to the anchors: rows in ten folds, their sums, and cosines by maps fitted without their fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embsync.dtypes import Array, Float32, Float64, RowNumbers
from embsync.ids import FOLDS
from embsync.rows import in_threads

#: Rows whose sums are formed together, few enough to stay in the cache.
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Fit:
    """Out-of-sample fit of one side to its anchors: each fold is mapped by the rotation fitted without it.

    Attributes
    ----------
    common : int
        Rows compared, n: all with an anchor up to 8,000 or 8k, beyond that those whose ids have the lowest hashes. A
        share p has the standard error sqrt(p (1 - p) / n).
    cosine, cosine_mismatched, share_below_half : float or None
        Mean cosine of rows with their own anchors; the same with other ids' anchors; share of rows whose cosine is
        below 0.5. None when there is nothing to compare.
    lost : float or None
        Estimated share of rows with another id's vector: twice the share of cosines below ``cosine_mismatched``, since
        half of the mismatched rows lie below their own mean.
    """

    common: int = 0
    cosine: float | None = None
    cosine_mismatched: float | None = None
    share_below_half: float | None = None
    lost: float | None = None


@dataclass(frozen=True)
class JudgedRows:
    """Rows that the fit is judged on, and their anchors.

    Attributes
    ----------
    places : (n,) row numbers
        Positions of the anchors, which are in the order of ids.
    folds : (n,) uint8
        0 to 9, by the ids' hashes.
    rows : (n, e) float32
    anchors : (n, k) float32
    roots : (n,) float64
        Square roots of the rows' weights in the fit.
    """

    places: RowNumbers
    folds: Array
    rows: Float32
    anchors: Float32
    roots: Float64

    @classmethod
    def empty(cls, places: RowNumbers, folds: Array, width: int, dimension: int) -> JudgedRows:
        """Allocate the rows with these anchors."""
        rows, anchors = (np.empty((len(places), size), np.float32) for size in (width, dimension))
        return cls(places, folds.copy(), rows, anchors, np.ones(len(places)))

    def __len__(self) -> int:
        return len(self.roots)

    def sort_by_fold(self, count: int) -> list[slice]:
        """Sort the rows in place by fold, for a ``count`` of 1, 2, 5 or 10 folds, and return the slice of each."""
        if count == 1:
            return [slice(0, len(self))]
        folds = self.folds % count
        order = np.argsort(folds, kind="stable")
        bounds = np.searchsorted(folds, np.arange(count + 1), sorter=order)
        for column in (self.places, self.folds, self.rows, self.anchors, self.roots):
            column[:] = column[order]
        return [slice(*bounds[fold : fold + 2]) for fold in range(count)]


def fold_count(judged: int, paired: int) -> int:
    """Return the number of folds: the smallest divisor of 10 for which a fold has at most a tenth of the anchored rows.

    A map fitted without a tenth of the rows is about as good as one fitted to all, and fitting ten of them for the
    sample of a large side took a tenth of the time to stabilize.
    """
    return next((count for count in (1, 2, 5) if 10 * judged <= count * paired), FOLDS)


@dataclass(frozen=True)
class JudgedSums:
    """Sums over judged rows X, their anchors B and their weights.

    Attributes
    ----------
    folds : (f, e, k) float64
        X^T diag(weights) B, one sum per fold.
    cross : (e, k) float64
        The same over all folds.
    rows, anchors : (e, e) and (k, k) float64
        X^T diag(weights) X and B^T diag(weights) B.
    row_sum, anchor_sum : (e,) and (k,) float64
        Weighted sums of the rows.
    weight : float
        Sum of the weights.
    count : int
        Number of rows.
    """

    folds: Float64
    cross: Float64
    rows: Float64
    anchors: Float64
    row_sum: Float64
    anchor_sum: Float64
    weight: float
    count: int

    def mean_shift(self, transform: Float64, energy: Float64) -> float:
        """Return the distance between the mean stable row and the mean anchor, each over its root mean square length.

        Parameters
        ----------
        transform : (e, k) float64
            The map of the side.
        energy : (k, k) float64
            Gram matrix of the mapped rows.

        Returns
        -------
        float
            At most 2; NaN where it cannot be measured.
        """
        lengths = np.sqrt(self.weight * np.array([np.trace(energy), np.trace(self.anchors)]))
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            return float("nan")
        own, other = transform.T @ self.row_sum / lengths[0], self.anchor_sum / lengths[1]
        return float(np.linalg.norm(own - other))


def sum_judged(judged: JudgedRows, parts: Sequence[slice], threads: int = 0) -> JudgedSums:
    """Return the sums over rows sorted by fold."""
    chunks = [
        (fold, slice(start, min(start + _ROWS_AT_ONCE, part.stop)))
        for fold, part in enumerate(parts)
        for start in range(part.start, part.stop, _ROWS_AT_ONCE)
    ]
    e, k = judged.rows.shape[1], judged.anchors.shape[1]

    def add(chunk: tuple[int, slice]) -> tuple[int, tuple[Float64, ...]]:
        fold, part = chunk
        roots = judged.roots[part]
        left, right = (side[part] * roots[:, None] for side in (judged.rows, judged.anchors))
        # float32 is precise enough to detect a flipped axis.
        narrow = right.astype(np.float32)
        squares = (narrow.T @ narrow).astype(np.float64)
        return fold, (left.T @ right, left.T @ left, squares, roots @ left, roots @ right, np.asarray(roots @ roots))

    folds = np.zeros((len(parts), e, k))
    totals = [np.zeros(shape) for shape in ((e, e), (k, k), e, k, ())]
    for fold, sums in in_threads(add, chunks, threads):
        for total, one in zip((folds[fold], *totals), sums, strict=True):
            total += one  # noqa: PLW2901  (in place)
    rows, anchors, row_sum, anchor_sum, weight = totals
    return JudgedSums(folds, folds.sum(axis=0), rows, anchors, row_sum, anchor_sum, float(weight), len(judged))


def out_of_sample_fit(
    judged: JudgedRows, parts: Sequence[slice], basis: Float64, rotations: Sequence[Float64], threads: int = 0
) -> Fit:
    """Return how well rows sorted by fold fit their anchors, each row mapped by its fold's own map.

    Parameters
    ----------
    judged : JudgedRows
    parts : list of slice
        The slice of each fold.
    basis : (e, r) float64
        Map from raw rows to the standardized form.
    rotations : sequence of (r, k) float64
        Rotations of that form into the space, each fitted without the rows of its fold.
    threads : int
        Workers; 0 for all cores.
    """
    anchors = judged.anchors
    # A mismatched anchor is half the judged rows away in the order of ids, since neighbouring ids may be alike.
    by_id = np.argsort(judged.places)
    partners = np.empty(len(judged), np.int64)
    partners[by_id] = np.roll(by_id, len(by_id) // 2)
    squares = np.einsum("ij,ij->i", anchors, anchors)

    def compare(fold: int) -> tuple[Float64, Float64]:
        part = parts[fold]
        # float32 is precise enough for a mean of cosines, at half the work.
        fitted = judged.rows[part] @ (basis @ rotations[fold]).astype(np.float32)
        own = np.einsum("ij,ij->i", fitted, fitted)
        others = partners[part]
        return (
            _cosines(np.einsum("ij,ij->i", fitted, anchors[part]), own, squares[part]),
            _cosines(np.einsum("ij,ij->i", fitted, anchors[others]), own, squares[others]),
        )

    found = in_threads(compare, range(len(parts)), threads)
    matched, mismatched = (np.concatenate(column) for column in zip(*found, strict=True))
    cosines, others = matched[~np.isnan(matched)], mismatched[~np.isnan(mismatched)]
    if len(cosines) == 0:
        return Fit()
    mean_of_others = float(others.mean()) if len(others) else None
    return Fit(
        common=len(cosines),
        cosine=float(cosines.mean()),
        cosine_mismatched=mean_of_others,
        share_below_half=float((cosines < 0.5).mean()),
        lost=None if mean_of_others is None else min(1.0, 2.0 * float((cosines < mean_of_others).mean())),
    )


def _cosines(dots: Float32, left: Float32, right: Float32) -> Float64:
    """Return cosines from dot products and squared norms, NaN where a row is zero."""
    norms = np.sqrt(left.astype(np.float64) * right)
    cosines = np.full(len(dots), np.nan)
    np.divide(dots, norms, out=cosines, where=norms > 0)
    return cosines
