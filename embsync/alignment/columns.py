"""Agreement of each raw column with the anchors: damage to a single column barely changes the cosines of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embsync.alignment.cross_validation import JudgedSums
from embsync.alignment.procrustes import determined_rank, whitening
from embsync.dtypes import Bool, Float64

#: Columns that contribute less than this share of an average column's contribution to the stable rows are not judged:
#: they may be noise in every snapshot, and they affect no ranking.
_CARRIES = 0.01
#: Variance of a column below this share of its mean square is rounding error: the column is constant.
_CONSTANT = 1e-10
#: A column is explained when the anchors account for this share of its variance: healthy columns measure 0.15 or more,
#: noise 0.01.
EXPLAINED = 0.1


@dataclass(frozen=True)
class ColumnAgreement:
    """How each raw column of a side agrees with the anchors.

    Attributes
    ----------
    explained : (e,) float64
        Share of a column's variance that a linear function of the anchors explains: the coefficient of determination,
        adjusted for the number of the anchors' axes (Ezekiel, "Methods of Correlation Analysis", 1930). About 0 for a
        column whose values were shuffled, NaN for one that is not judged.
    new : int
        Directions that the rows determine and the anchors do not: those that a wider model added.
    scale : float
        Largest ratio of an explained column's spread to that of the anchors mapped back by the inverse, divided by the
        median column's. Multiplying a column of one of two sides by c shows as about sqrt(c) on both. NaN where it
        cannot be measured.
    """

    explained: Float64
    new: int
    scale: float

    def fit(self, other: ColumnAgreement | None) -> float:
        """Return the smallest explained share, skipping as many of the worst columns as the model has new directions.

        A column is judged only if the anchors explain the same column of the other side: one that is noise on both
        sides, or noise on one and constant on the other, is so in every snapshot.

        Parameters
        ----------
        other : ColumnAgreement or None
            The other side; None to judge every column.

        Returns
        -------
        float
            NaN where it cannot be measured.
        """
        judged = self._judged(other)
        if not judged.any():  # no column of the other side is explained
            judged = self._judged(None)
        found = np.sort(self.explained[judged])
        return float(found[min(self.new, len(found) - 1)]) if len(found) else float("nan")

    def unexplained(self, other: ColumnAgreement | None) -> int:
        """Return how many columns neither side's anchors explain, not counting those that a wider model added."""
        unknown = self._judged(None) & ~self._judged(other) & ~(self.explained >= EXPLAINED)
        return max(int(np.count_nonzero(unknown)) - self.new, 0)

    def _judged(self, other: ColumnAgreement | None) -> Bool:
        known = ~np.isnan(self.explained)
        return known if other is None else known & (other.explained >= EXPLAINED)


def judge_columns(sums: JudgedSums, transform: Float64, inverse: Float64, energy: Float64) -> ColumnAgreement:
    """Return how the centred raw columns of a side agree with its anchors.

    Parameters
    ----------
    sums : JudgedSums
    transform : (e, k) float64
        The map of the side.
    inverse : (k, e) float64
        Its pseudoinverse.
    energy : (k, k) float64
        Gram matrix of the mapped rows.
    """
    anchors = sums.anchors
    cross = sums.cross - np.outer(sums.row_sum, sums.anchor_sum) / sums.weight
    variance = np.diag(sums.rows) - sums.row_sum**2 / sums.weight
    centred = anchors - np.outer(sums.anchor_sum, sums.anchor_sum) / sums.weight
    carried = variance * (transform**2).sum(axis=1)
    if not all(np.isfinite(part).all() for part in (energy, cross, centred, carried)):
        return _nothing(len(transform))
    judged = (carried > _CARRIES * carried.mean()) & (variance > _CONSTANT * np.diag(sums.rows))
    axes = whitening(centred)
    if not judged.any() or axes is None:
        return _nothing(len(transform))
    explained = ((cross[judged] @ axes) ** 2).sum(axis=1) / variance[judged]
    share = np.full(len(transform), np.nan)
    share[judged] = 1.0 - (1.0 - explained) * (sums.count - 1) / max(sums.count - axes.shape[1] - 1, 1)
    inverse = inverse[:, judged]
    expected = np.einsum("kj,kl,lj->j", inverse, centred, inverse, optimize=True)
    scale = np.sqrt(variance[judged] / np.maximum(expected, np.finfo(np.float64).tiny))
    new = max(determined_rank(energy) - determined_rank(anchors), 0)
    # A column of noise has no scale in the anchors: averaging over nights removes most of it.
    known = share[judged] >= EXPLAINED
    compared = np.sort(scale[known] if known.any() else scale)
    largest = compared[-1 - min(new, len(compared) - 1)]
    return ColumnAgreement(share, new, float(largest / np.median(scale)))


def _nothing(width: int) -> ColumnAgreement:
    return ColumnAgreement(np.full(width, np.nan), 0, float("nan"))
