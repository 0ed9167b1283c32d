"""Drift from the parent: cosines, displacements and norms, collected as the rows are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from embsync.dtypes import Array, Float32, Float64, RowNumbers
from embsync.measurements import Moved, SideDrift
from embsync.rows import as_slice
from embsync.similarity import lowest

MOVED_MOST = 10

#: Squared relative distance up to which two raw rows count as equal: the float32 rounding of ||a||^2 + ||b||^2 - 2ab
#: when one of them was mapped back through the parent's inverse.
_ROUNDING = 1e-5

#: Factor of a norm's change, relative to the median, beyond which a row is an outlier.
OUTLIER = 3.0


@dataclass(frozen=True)
class RowChange:
    """Changes of a side's rows since the parent version, over ids live in both; None: not comparable.

    Attributes
    ----------
    norm_ratio : float or None
        Median norm over the parent's.
    norm_outliers : float or None
        Share of rows whose norm changed by more than a factor of 3 relative to the median.
    longest : float or None
        Norm of the longest row relative to the median, over the same of the parent's rows.
    unchanged : float or None
        Share of raw rows within float32 rounding of the parent's.
    scale_raw : float or None
        ||new||_F / ||old||_F of the raw rows.
    """

    norm_ratio: float | None = None
    norm_outliers: float | None = None
    longest: float | None = None
    unchanged: float | None = None
    scale_raw: float | None = None


def mean(values: Array) -> float | None:
    """Return the mean of the values that are not NaN, or None if there are none."""
    kept = values[~np.isnan(values)]
    return float(kept.mean(dtype=np.float64)) if len(kept) else None


class DriftMeter:
    """Compares rows with the parent version's.

    Parameters
    ----------
    parent_rows : (t,) row numbers
        The parent's row of each id that is live in both versions, -1 for the others.
    parent_vectors : (p, k) float32
        The parent's stable vectors, possibly memory-mapped.
    parent_inverse : (k, e) float64 or None
        Map back to the parent's raw vectors; None when it is not exact or they have another width.
    id_of : callable
        The id of a row, by its position; default: the position itself.
    """

    def __init__(
        self,
        parent_rows: RowNumbers,
        parent_vectors: Float32,
        parent_inverse: Float64 | None,
        id_of: Callable[[int], int | str] = int,
    ) -> None:
        self._rows = parent_rows
        self._vectors = parent_vectors
        self._id_of = id_of
        self._inverse = None if parent_inverse is None else parent_inverse.astype(np.float32)
        count = len(parent_rows)
        self._cosines = np.full(count, np.nan, np.float32)
        #: Norms of rows that are not zero in either version, in order of arrival, which does not affect the figures.
        self._norms = np.empty((2, count), np.float32)
        self._compared = 0
        self._lock = Lock()  # blocks are observed by several threads
        self._raw: list[tuple[int, float, int, float, float, int, float]] = []
        self._stable: list[tuple[int, float, float]] = []

    def observe(self, start: int, block: Array, stable: Float32) -> None:
        """Add a block of raw rows and their stable vectors."""
        rows = self._rows[start : start + len(block)]
        local = np.flatnonzero(rows >= 0)
        if len(local) == 0:
            return
        all_compared = len(local) == len(block)
        old = np.asarray(self._vectors[as_slice(rows[local])])
        new = stable if all_compared else stable[local]
        cosines, norms, moved, before = compare_stable(new, old)
        norms = norms[:, (norms > 0).all(axis=0)]
        with self._lock:
            first = self._compared
            self._compared += norms.shape[1]
        self._norms[:, first : first + norms.shape[1]] = norms
        self._cosines[start + local] = cosines
        self._stable.append((start, moved, before))
        if self._inverse is not None:
            self._raw.append((start, *compare_raw(block if all_compared else block[local], old @ self._inverse)))

    def result(self) -> tuple[SideDrift, RowChange]:
        """Return the figures over all rows observed."""
        norm_figures, moved_most = self._norm_figures(), self._moved_most()  # before the copy below, to save memory
        cosines = self._cosines[~np.isnan(self._cosines)]
        if len(cosines) == 0:
            return SideDrift(), RowChange()
        raw = [sum(column) for column in zip(*sorted(self._raw), strict=True)][1:] if self._raw else None
        moved, before = (sum(column) for column in list(zip(*sorted(self._stable), strict=True))[1:])
        drift = SideDrift(
            cosine=float(cosines.mean(dtype=np.float64)),
            cosine_p05=float(np.percentile(cosines, 5, overwrite_input=True)),
            cosine_raw=None if raw is None or not raw[1] else raw[0] / raw[1],
            displacement=root(moved, before),
            displacement_raw=None if raw is None else root(raw[2], raw[3]),
            moved_most=moved_most,
        )
        change = RowChange(
            **norm_figures,
            unchanged=None if raw is None or not raw[1] else raw[4] / raw[1],
            scale_raw=None if raw is None else root(raw[5], raw[3]),
        )
        return drift, change

    def _norm_figures(self) -> dict[str, float]:
        if not self._compared:
            return {}
        new, old = self._norms[:, : self._compared]
        with np.errstate(invalid="ignore"):  # an overflow shows in the result
            changes = np.divide(new, old, dtype=np.float64)
            changes /= np.median(changes, overwrite_input=True)
            outside = np.count_nonzero(changes > OUTLIER) + np.count_nonzero(changes < 1 / OUTLIER)
            del changes
            ratio = np.float64(_median(new)) / _median(old)
            longest = np.float64(new.max()) / old.max() / ratio
        return {"norm_ratio": float(ratio), "norm_outliers": float(outside / self._compared), "longest": float(longest)}

    def _moved_most(self) -> tuple[Moved, ...]:
        rows = lowest(self._cosines, MOVED_MOST).tolist()
        return tuple(Moved(self._id_of(row), float(self._cosines[row])) for row in rows)


def compare_stable(new: Float32, old: Float32) -> tuple[Float32, Float32, float, float]:
    """Return the rows' cosines, (2, b) norms, and the sums of the squared differences and of the old squared norms."""
    own, other, dot = (np.einsum("ij,ij->i", a, b) for a, b in ((new, new), (old, old), (new, old)))
    moved = float(np.sum(own + other - 2.0 * dot, dtype=np.float64))
    norms: Float32 = np.sqrt(np.stack([own, other]))
    return _divide(dot, np.sqrt(own * other)), norms, moved, float(other.sum(dtype=np.float64))


def compare_raw(block: Array, before: Float32) -> tuple[float, int, float, float, int, float]:
    """Return sums over raw rows and the parent's raw rows, which were mapped back from its stable rows.

    The sum and number of cosines, squared differences, squared norms before, unchanged rows, squared norms now.
    """
    new = block.astype(np.float32, copy=False)
    own, other, dot = (np.einsum("ij,ij->i", a, b) for a, b in ((new, new), (before, before), (new, before)))
    cosines = _divide(dot, np.sqrt(own * other))
    kept = ~np.isnan(cosines)
    moved = own + other - 2.0 * dot
    return (
        float(cosines[kept].sum(dtype=np.float64)),
        int(kept.sum()),
        float(np.sum(moved, dtype=np.float64)),
        float(other.sum(dtype=np.float64)),
        int(np.count_nonzero((moved <= _ROUNDING * own) & (own > 0))),
        float(own.sum(dtype=np.float64)),
    )


def _median(values: Float32) -> float:
    """Return the median in float64, without converting all values to it."""
    middle = [(len(values) - 1) // 2, len(values) // 2]
    return float(np.partition(values, middle)[middle].mean(dtype=np.float64))


def _divide(top: Array, bottom: Array) -> Float32:
    result = np.full(len(top), np.nan, np.float32)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result


def root(moved: float, before: float) -> float | None:
    """Return the root of a sum of squares over another one, None if that is 0."""
    return float(np.sqrt(max(moved, 0.0) / before)) if before > 0 else None
