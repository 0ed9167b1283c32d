"""Whether each raw column still says what it said: a column damaged alone hardly shows in the rows' cosines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embsync.alignment import lapack
from embsync.alignment.gram import Cross
from embsync.alignment.procrustes import DETERMINED
from embsync.dtypes import Float64

#: Columns that carry less than this share of what an average column carries of the stable rows are not judged: they may
#: be noise every night, and change no ranking.
_CARRIES = 0.01
#: Variance of a column below this share of its mean square is rounding: a constant column has nothing to explain.
_CONSTANT = 1e-10


@dataclass(frozen=True)
class Columns:
    """The columns that agree least with the anchors; NaN where nothing can be measured.

    Attributes
    ----------
    fit : float
        Least share of a column's variance that a linear function of the anchors explains: the coefficient of
        determination, adjusted for the number of anchors' axes (Ezekiel, "Methods of Correlation Analysis", 1930).
        About 0 for a column whose values were shuffled.
    scale : float
        Greatest ratio of a column's spread to the one that the anchors have through the inverse of the map, over the
        median column's. A column times c on one side of two shows as about sqrt(c) on both.
    """

    fit: float
    scale: float


def judge_columns(sums: Cross, paired: int, transform: Float64) -> Columns:
    """Return how the raw columns of a side agree with its anchors, means taken out.

    A model that grew has columns that nobody knew: as many of the worst are passed over as the rows have determined
    directions more than the anchors.

    Parameters
    ----------
    sums : Cross
    paired : int
        Rows with an anchor.
    transform : (e, k) float64
        The map of the side.
    """
    anchors = sums.anchors
    energy = transform.T @ sums.rows @ transform
    cross = sums.folds.sum(axis=0) - np.outer(sums.row_sum, sums.anchor_sum) / sums.weight
    variance = np.diag(sums.rows) - sums.row_sum**2 / sums.weight
    centred = anchors - np.outer(sums.anchor_sum, sums.anchor_sum) / sums.weight
    carried = variance * (transform**2).sum(axis=1)
    if not all(np.isfinite(part).all() for part in (energy, cross, centred, carried)):
        return Columns(float("nan"), float("nan"))
    judged = (carried > _CARRIES * carried.mean()) & (variance > _CONSTANT * np.diag(sums.rows))
    values, axes = _determined(centred)
    if not judged.any() or len(values) == 0:
        return Columns(float("nan"), float("nan"))
    explained = ((cross[judged] @ axes / np.sqrt(values)) ** 2).sum(axis=1) / variance[judged]
    fit = 1.0 - (1.0 - explained) * (paired - 1) / max(paired - len(values) - 1, 1)
    inverse = np.linalg.pinv(transform)[:, judged]
    expected = np.einsum("kj,kl,lj->j", inverse, centred, inverse, optimize=True)
    scale = np.sqrt(variance[judged] / np.maximum(expected, np.finfo(np.float64).tiny))
    unknown = len(_determined(energy)[0]) - len(_determined(anchors)[0])
    place = min(max(unknown, 0), len(fit) - 1)
    return Columns(float(np.sort(fit)[place]), float(np.sort(scale)[-1 - place] / np.median(scale)))


def _determined(gram: Float64) -> tuple[Float64, Float64]:
    """Return the eigenvalues and eigenvectors of a Gram matrix that stand above rounding."""
    values, vectors = lapack.eigh((gram + gram.T) / 2)
    held = values > max(DETERMINED * values[-1], 0.0)
    return values[held], vectors[:, held]
