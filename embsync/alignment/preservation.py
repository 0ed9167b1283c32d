"""The preservation certificate: how much the scores of the published vectors differ from those of the raw ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from embsync.alignment.gram import RawObserver, sum_side
from embsync.alignment.transform import Transform
from embsync.dtypes import Array, Float32, Float64
from embsync.measurements import Preservation
from embsync.rows import Rows, in_threads, library_threads, map_blocks
from embsync.sides import Sides

#: Exponents of residual scales for which the squared scale and its inverse are finite in float64.
_SCALE_EXPONENTS = (-500, 500)


class Sliced(Protocol):
    """Rows that can be read by slices."""

    def __getitem__(self, part: slice, /) -> Array:
        """Return the rows of a slice."""


@dataclass(frozen=True)
class Residual:
    """Sums over the rounding residual D = written - T A of one side, T its raw rows and A its map.

    Attributes
    ----------
    gram : (e, e) float64
        T^T T.
    cross : (e, k) float64
        T^T D.
    own : (k, k) float64
        D^T D.
    """

    gram: Float64
    cross: Float64
    own: Float64


def written_block(block: Array, transform: Float64, scale: float) -> tuple[Float32, Float64, Float64]:
    """Return the float32 rows to write, and the block's T^T D and D^T D.

    The product is computed in float64, so the only error is the rounding to float32. float32 is precise enough for the
    sums of the residual: a relative error of 1e-4 in a residual of 1e-8 is negligible.

    Parameters
    ----------
    block : (b, e) raw rows
    transform : (e, k) float64
    scale : float
        Power of two that brings the residual near 1, so that its squares neither underflow nor overflow.
    """
    exact = block.astype(np.float64) @ transform
    written = exact.astype(np.float32)
    cross, own = residual_sums(block, written, exact, scale)
    return written, cross, own


def residual_sums(block: Array, written: Float32, exact: Float64, scale: float) -> tuple[Float64, Float64]:
    """Return T^T D and D^T D of one block; ``exact`` is overwritten."""
    np.subtract(written, exact, out=exact)
    exact *= scale
    residual = exact.astype(np.float32)
    raw = block.astype(np.float32, copy=False)
    return (raw.T @ residual).astype(np.float64) / scale, (residual.T @ residual).astype(np.float64) / scale**2


def residual_scale(gram: Float64, transform: Float64, rows: int) -> float:
    """Return the power of two that brings float32 rounding of ``raw @ transform`` near 1."""
    with np.errstate(over="ignore", invalid="ignore"):  # damaged maps
        energy = float(np.einsum("ij,ik,kj->", transform, gram, transform, optimize=True))
    typical = np.sqrt(max(energy, 0.0) / max(rows * transform.shape[1], 1))
    if not typical > 0:
        return 1.0
    return float(2.0 ** np.clip(24 - np.round(np.log2(typical)), *_SCALE_EXPONENTS))


def residual_of(
    rows: Rows, written: Sliced, transform: Float64, *, observe: RawObserver | None = None, threads: int = 0
) -> Residual:
    """Return the residual sums of vectors written earlier, in the order of ``rows``.

    Parameters
    ----------
    rows : Rows
        The t raw rows.
    written : (t, k) float32
        The version's vectors, read slice by slice.
    transform : (e, k) float64
    observe : callable, optional
        Called by worker threads with ``(start, raw block)``.
    """
    gram = sum_side(rows, observe=observe, threads=threads).gram
    scale = residual_scale(gram, transform, rows.count)

    def work(start: int, block: Array) -> tuple[Float64, Float64]:
        exact = block.astype(np.float64) @ transform
        return residual_sums(block, written[start : start + len(block)], exact, scale)

    cross, own = np.zeros_like(transform), np.zeros((transform.shape[1],) * 2)
    for _, (one, two) in map_blocks(work, rows, threads):
        cross += one
        own += two
    return Residual(gram, cross, own)


def certify(
    transform: Transform, sides: Sides[Residual], top_k_agreement: float | None, sampled: int, *, threads: int = 0
) -> Preservation:
    """Return the certificate of the written vectors, given the agreement of the exact top k of ``sampled`` queries."""
    error = score_error(sides, transform, threads=threads)
    return Preservation(map_error(transform), error, top_k_agreement, sampled)


def map_error(transform: Transform) -> float:
    """Return ||A_W^T A_T - P||_2, where P = Q^T I_r Q is an orthogonal projector.

    P is derived from the product itself (its leading singular subspace), so that maps read from a store can be judged
    on their own.
    """
    with library_threads(1, "blas"):
        product = transform.side("users").T @ transform.items
        distance = float(np.linalg.norm(product - np.eye(len(product)), 2))
        if distance < 0.5:  # then no singular value is below 0.5, and P is the identity
            return distance
        U, S, Vt = np.linalg.svd(product)
        rank = int(np.count_nonzero(S > 0.5))
        basis = np.linalg.qr((U[:, :rank] + Vt[:rank].T) / 2.0)[0]
        return float(np.linalg.norm(product - basis @ basis.T, 2))


def score_error(sides: Sides[Residual], transform: Transform, *, threads: int = 0) -> float:
    """Return ||T' W'^T - T W^T||_F / ||T W^T||_F over all pairs, exactly, from small matrices.

    With T' = T A_T + D_T and W' = W A_W + D_W the difference is
    [T D_T] [[A_T A_W^T - I, A_T], [A_W^T, I]] [W D_W]^T, whose norm follows from the stacked Gram matrices.
    Computing the norm of T' W'^T and subtracting would cancel. With one side, T takes the place of W.

    Returns 0 if all scores are zero before and after, and infinity if the written vectors or the maps are so large
    (which means damage) that no digit of the difference is reliable.
    """
    items, other = sides.items, sides.queries
    with library_threads(1, "blas"), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        squared, uncertain = _squared_norm(_stacked(items), _middle(transform, items, other), _stacked(other), threads)
        total = float(np.sum(items.gram * other.gram))
    if not (np.isfinite(squared) and np.isfinite(total)) or uncertain > max(squared, total):
        return float("inf")
    if total <= 0.0:
        return 0.0 if squared <= 0.0 else float("inf")
    return float(np.sqrt(max(squared, 0.0) / total))


def _relative_size(side: Residual) -> float:
    """Size of the residual relative to the raw rows; scaling by it keeps the stacked Gram matrix well conditioned."""
    raw, own = float(np.trace(side.gram)), float(np.trace(side.own))
    return float(np.sqrt(own / raw)) if raw > 0 and own > 0 else 1.0


def _middle(transform: Transform, items: Residual, users: Residual) -> Float64:
    A, B = transform.items, transform.side("users")
    s, t = _relative_size(items), _relative_size(users)
    return np.block([[A @ B.T - np.eye(len(A)), A * t], [B.T * s, np.eye(A.shape[1]) * (s * t)]])


def _stacked(side: Residual) -> Float64:
    s = _relative_size(side)
    return np.block([[side.gram, side.cross / s], [side.cross.T / s, side.own / s**2]])


def _squared_norm(left: Float64, middle: Float64, right: Float64, threads: int) -> tuple[float, float]:
    """Return tr(L M R M^T) and a bound on its rounding error, which shows whether any digit is reliable."""
    L, M, R = np.abs(left), np.abs(middle), np.abs(right)
    pairs = [(left, middle), (middle, right), (L, M), (M, R)]
    before, after, most_before, most_after = in_threads(lambda pair: pair[0] @ pair[1], pairs, threads)
    return float(np.sum(before * after)), float(np.finfo(np.float64).eps * np.sum(most_before * most_after))
