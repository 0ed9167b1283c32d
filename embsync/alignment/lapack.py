"""Factorizations, by SciPy's LAPACK; it is loaded by the first, because who only reads has no use for it.

SciPy takes the drivers and lets matrices be overwritten; NumPy does not. Arguments are those of ``scipy.linalg``.
"""

from __future__ import annotations

from typing import Any

from embsync.dtypes import Float64


def cholesky(matrix: Float64) -> Float64 | None:
    """Return the upper triangular R with R^T R = ``matrix``, None where it is not positive definite."""
    from scipy import linalg  # noqa: PLC0415

    try:
        factor: Float64 = linalg.cholesky(matrix)
    except linalg.LinAlgError:
        return None
    return factor


def qr(matrix: Float64, **options: Any) -> Any:
    """Return what ``scipy.linalg.qr`` does."""
    from scipy import linalg  # noqa: PLC0415

    return linalg.qr(matrix, **options)


def svd(matrix: Float64, **options: Any) -> Any:
    """Return U, S and V^T, or S alone with ``compute_uv=False``."""
    from scipy import linalg  # noqa: PLC0415

    return linalg.svd(matrix, **options)


def eigh(matrix: Float64) -> Any:
    """Return eigenvalues, ascending, and eigenvectors of a symmetric matrix."""
    from scipy import linalg  # noqa: PLC0415

    return linalg.eigh(matrix)
