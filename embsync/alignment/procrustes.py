"""Weighted orthogonal Procrustes from a cross-Gram matrix; reflections are allowed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.linalg import lapack

from embsync.dtypes import Float64
from embsync.rows import in_threads

#: Cross-Gram directions below this share of the strongest do not determine the rotation: float32 anchors have rounding
#: errors of about 1e-7 of their norm along axes that do not contribute to scores.
DETERMINED = 1e-6


def align(cross: Float64, energy: Float64) -> Float64:
    """Return the rotation that brings standardized rows closest to the anchors.

    Q minimizes ||A Q - B||_F over matrices with orthonormal rows. It depends on A^T B alone: with the singular value
    decomposition A^T B = U S V^T, Q = U V^T (Schönemann, "A generalized solution of the orthogonal Procrustes problem",
    Psychometrika 31, 1966). Directions that A^T B leaves undetermined are assigned to the remaining axes in descending
    order of energy, with signs by :func:`fix_signs`.

    There is no scaling or centring: both would change scores.

    Parameters
    ----------
    cross : (r, k) float64
        A^T B, with r <= k.
    energy : (r, r) float64
        A^T A, which orders the undetermined directions.

    Returns
    -------
    (r, k) float64 ndarray
        Q with Q Q^T = I.
    """
    rotation, left, right = _determined(cross)
    rank, (r, k) = left.shape[1], cross.shape
    if rank == r:
        return rotation
    free = _complement(left)
    _, order = linalg.eigh(free.T @ energy @ free)
    directions = fix_signs(free @ order[:, ::-1])
    return rotation + directions @ _free_axes(right, r - rank, k).T


def first_rotation(basis: Float64, dimension: int) -> Float64:
    """Return the (r, k) signed identity matrix that makes the first version of a space reproducible."""
    signs = np.sign(_leading_entries(basis))
    rotation = np.zeros((basis.shape[1], dimension))
    np.fill_diagonal(rotation, np.where(signs == 0, 1.0, signs))
    return rotation


def fix_signs(directions: Float64) -> Float64:
    """Flip columns so that the entry of largest magnitude in each is positive."""
    signs = np.sign(_leading_entries(directions))
    return directions * np.where(signs == 0, 1.0, signs)


def disagreement(cross_items: Float64, cross_users: Float64, energy: Float64, threads: int = 0) -> float:
    """Return how far the rotations fitted to each side alone differ: 0 if equal, about 1 if unrelated.

    ||E^1/2 (Q_items - Q_users)||_F / sqrt(2 tr E) within the axes that the anchors determine; E is the energy.
    """
    own, other = in_threads(_determined, (cross_items, cross_users), threads)
    axes = own[2] if own[2].shape[1] <= other[2].shape[1] else other[2]
    difference = (own[0] - other[0]) @ axes
    reach = own[0] @ axes
    scale = 2.0 * float(np.trace(reach.T @ energy @ reach))
    return float(np.sqrt(np.trace(difference.T @ energy @ difference) / scale)) if scale else 0.0


@dataclass(frozen=True)
class Axes:
    """How rotated rows A agree with their anchors B along the axes; None where it was not measured.

    Attributes
    ----------
    axis_agreement : float or None
        Smallest agreement along any axis: 1 for equal rows, -1 for a flipped axis. The smallest eigenvalue of
        E^-1/2 (C + C^T)/2 E^-1/2 with C = A^T B and E = (A^T A + B^T B)/2, within the axes that have energy: the
        minimum over directions v of 2 sum (a v)(b v) / sum ((a v)^2 + (b v)^2). An axis that only A or only B has
        gives 0.
    axis_scale : float or None
        Smallest spread of the rows relative to the anchors' along any axis, divided by the median axis's: square roots
        of the eigenvalues of (B^T B)^-1/2 A^T A (B^T B)^-1/2 within the axes that the anchors determine. If the model
        became narrower, as many of the smallest are skipped as it lost axes. Multiplying a column of one of two sides
        by c shows as about sqrt(c).
    mean_shift : float or None
        See :meth:`embsync.alignment.cross_validation.JudgedSums.mean_shift`.
    """

    axis_agreement: float | None = None
    axis_scale: float | None = None
    mean_shift: float | None = None


def compare_axes(cross: Float64, rows: Float64, anchors: Float64) -> Axes:
    """Return how rows agree with their anchors along the axes.

    Parameters
    ----------
    cross, rows, anchors : (k, k) float64
        A^T B, A^T A and B^T B of the rotated rows and their anchors.

    Returns
    -------
    Axes
        NaN if there is no energy, or it is not finite.
    """
    both = whitening((rows + anchors) / 2)
    determined = whitening(anchors)
    if both is None or determined is None or not np.isfinite(cross).all():
        return Axes(float("nan"), float("nan"))
    agreement = both.T @ ((cross + cross.T) / 2) @ both
    spreads = np.sqrt(np.maximum(np.linalg.eigvalsh(determined.T @ ((rows + rows.T) / 2) @ determined), 0.0))
    fewer = max(len(spreads) - determined_rank(rows), 0)
    median = float(np.median(spreads))
    least = float(spreads[min(fewer, len(spreads) - 1)])
    return Axes(
        float(np.linalg.eigvalsh((agreement + agreement.T) / 2)[0]), least / median if median > 0 else float("nan")
    )


def whitening(gram: Float64) -> Float64 | None:
    """Return the (k, r) map W with W^T gram W = I on the axes of a Gram matrix that exceed rounding error.

    It is the inverse of the triangular factor if all axes do, which takes a tenth of the time; otherwise it is computed
    from the eigenvectors.

    Returns
    -------
    ndarray or None
        None if the matrix is zero or not finite.
    """
    if not np.isfinite(gram).all():
        return None
    if (factor := _cholesky(gram)) is not None:
        return np.asarray(lapack.dtrtri(factor)[0], np.float64)
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    held = values > max(DETERMINED * values[-1], 0.0)
    whitened: Float64 = vectors[:, held] / np.sqrt(values[held])
    return whitened if held.any() else None


def determined_rank(gram: Float64) -> int:
    """Return how many eigenvalues of a Gram matrix exceed rounding error."""
    if _cholesky(gram) is not None:
        return len(gram)
    values = np.linalg.eigvalsh((gram + gram.T) / 2)
    return int(np.count_nonzero(values > max(DETERMINED * values[-1], 0.0)))


def _cholesky(gram: Float64) -> Float64 | None:
    """Return the upper triangular factor of a Gram matrix if all its axes surely exceed rounding error.

    The condition number of a symmetric matrix in the 1-norm is at least that in the 2-norm. LAPACK estimates it, rarely
    too low by more than a factor of 3 (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 15.3).
    """
    symmetric = (gram + gram.T) / 2
    factor, failed = lapack.dpotrf(symmetric)
    if failed:
        return None
    reciprocal, _ = lapack.dpocon(factor, np.abs(symmetric).sum(axis=0).max())
    return np.asarray(factor, np.float64) if reciprocal > 10 * DETERMINED else None


def _leading_entries(columns: Float64) -> Float64:
    entries: Float64 = np.take_along_axis(columns, np.abs(columns).argmax(axis=0)[None], axis=0)[0]
    return entries


def _determined(cross: Float64) -> tuple[Float64, Float64, Float64]:
    U, S, Vt = np.linalg.svd(cross, full_matrices=False)  # unlike SciPy's, it releases the GIL
    rank = int(np.count_nonzero(DETERMINED * S[0] < S)) if len(S) and S[0] > 0 else 0
    left, right = U[:, :rank], Vt[:rank].T
    return left @ right.T, left, right


def _complement(columns: Float64) -> Float64:
    if columns.shape[1] == 0:
        return np.eye(len(columns))
    return np.asarray(linalg.qr(columns)[0], np.float64)[:, columns.shape[1] :]


def _free_axes(taken: Float64, count: int, k: int) -> Float64:
    """Return ``count`` orthonormal directions orthogonal to ``taken``, as close to the coordinate axes as possible."""
    outside = np.eye(k) - taken @ taken.T
    pivots = np.sort(linalg.qr(outside, pivoting=True)[2][:count])
    basis, triangle = linalg.qr(outside[:, pivots], mode="economic")
    return np.asarray(basis * np.where(np.diag(triangle) < 0, -1.0, 1.0), np.float64)
