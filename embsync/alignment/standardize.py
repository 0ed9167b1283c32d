"""Low-rank SVD of the score matrix: fixes everything that training leaves arbitrary except the rotation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from embsync.dtypes import Float64
from embsync.sides import Sides

#: Directions whose singular value is below this share of the largest do not count towards the rank. float32 snapshots
#: have a relative precision of about 1e-7; without a tolerance, a duplicated column gave map entries of 2e8.
RANK_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Standardization(Sides[Float64]):
    """Maps that bring both sides into a common form, determined up to a rotation.

    Attributes
    ----------
    items, users : (e, r) float64
        M_T and M_W with (T M_T)(W M_W)^T = T W^T; the same array when nothing is standardized.
    energy : (r, r) float64
        Gram matrix of the standardized rows; diag(S) after :func:`standardize`.
    singular_values : (e,) float64
        Of T W^T (of T alone for one side), descending.
    rank : int
        Directions above the tolerance: r before truncation.
    truncation_loss : float
        Relative Frobenius norm of the scores that the narrower space cannot hold.
    """

    energy: Float64
    singular_values: Float64
    rank: int
    truncation_loss: float


def standardize(factor_items: Float64, factor_users: Float64, dimension: int) -> Standardization:
    """Return the balanced maps of two sides from their triangular factors.

    With the factors R_T and R_W and U S V^T = SVD(R_T R_W^T): M_T = R_W^T V S^-1/2 and M_W = R_T^T U S^-1/2
    (Zielnicki and Hsiao, "Orthogonal Low Rank Embedding Stabilization", RecSys 2025). Both standardized sides
    have the Gram matrix S. Directions beyond ``dimension`` are truncated, and their share of the scores is reported.

    Parameters
    ----------
    factor_items, factor_users : (e, e) float64
        R_T and R_W.
    dimension : int
        Width k of the space.
    """
    U, S, Vt = linalg.svd(factor_items @ factor_users.T)
    rank = numerical_rank(S)
    kept = min(rank, dimension)
    scale = S[:kept] ** -0.5
    total = float(np.sum(S**2))
    lost = float(np.sum(S[kept:rank] ** 2))
    return Standardization(
        items=factor_users.T @ Vt[:kept].T * scale,
        users=factor_items.T @ U[:, :kept] * scale,
        energy=np.diag(S[:kept]),
        singular_values=S,
        rank=rank,
        truncation_loss=float(np.sqrt(lost / total)) if total else 0.0,
    )


def keep_products(factor_items: Float64, factor_users: Float64 | None, dimension: int) -> Standardization:
    """Return one orthonormal map for both sides, which also preserves the products within each side.

    The identity if the space is wide enough; otherwise the ``dimension`` leading principal directions of all rows.
    """
    other = factor_items if factor_users is None else factor_users
    S = linalg.svd(factor_items if factor_users is None else factor_items @ other.T, compute_uv=False)
    gram = factor_items.T @ factor_items + (0.0 if factor_users is None else other.T @ other)
    width = gram.shape[0]
    basis, loss = np.eye(width), 0.0
    if width > dimension:
        basis = np.ascontiguousarray(linalg.eigh(gram)[1][:, ::-1][:, :dimension])
        outside = np.eye(width) - basis @ basis.T
        norm = float(np.linalg.norm(factor_items @ other.T))
        loss = float(np.linalg.norm(factor_items @ outside @ other.T)) / norm if norm else 0.0
    return Standardization(
        items=basis,
        users=basis,
        energy=basis.T @ gram @ basis,
        singular_values=S,
        rank=numerical_rank(S),
        truncation_loss=loss if loss > RANK_TOLERANCE else 0.0,
    )


def numerical_rank(singular_values: Float64) -> int:
    """Return how many singular values exceed the tolerance; 0 if all are zero."""
    if len(singular_values) == 0 or singular_values[0] <= 0:
        return 0
    return int(np.count_nonzero(singular_values > RANK_TOLERANCE * singular_values[0]))
