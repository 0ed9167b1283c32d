"""The method on streamed rows: the first pass fits the maps, the second applies them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from scipy import linalg

from embsync.alignment.columns import ColumnAgreement, judge_columns
from embsync.alignment.cross_validation import Fit, JudgedRows, JudgedSums, fold_count, out_of_sample_fit, sum_judged
from embsync.alignment.gram import Pairing, RawObserver, SideSums, qr_factor, sum_side, triangular_factor
from embsync.alignment.preservation import Residual, residual_scale, written_block
from embsync.alignment.procrustes import Axes, align, compare_axes, disagreement, first_rotation
from embsync.alignment.standardize import Standardization, keep_products, standardize
from embsync.alignment.transform import Transform
from embsync.dtypes import Array, Float32, Float64, Int64
from embsync.errors import SnapshotError
from embsync.rows import Rows, in_threads, library_threads, map_blocks
from embsync.sides import NAMES, Sides

#: Called by worker threads with ``(start, raw block, stable block)``.
Observer = Callable[[int, Array, Float32], None]


class FirstPass(Protocol):
    """What the fit needs of one side, wherever its rows are: sums and a triangular factor."""

    @property
    def width(self) -> int:
        """Values in a row, e."""

    @property
    def rate(self) -> float:
        """Share of the side's rows that are anchors."""

    def sums(self, threads: int) -> SideSums:
        """Return the sums of one pass over the rows."""

    def factor(self, gram: Float64) -> Float64:
        """Return the upper triangular (e, e) factor R with R^T R = T^T T, given that product."""


@dataclass(frozen=True)
class SideInput:
    """The input of one side whose rows are read by this process.

    Attributes
    ----------
    rows : Rows
    pairing : Pairing or None
        Which rows have an anchor; None in a new space.
    rate : float
        Share of the side's rows that are anchors.
    weights : (t,) float64 or None
    sampled : (s,) int64
        Positions of rows whose raw vectors are kept.
    name : str
        How errors refer to the rows.
    observe : callable or None
        Called by worker threads with every raw block.
    """

    rows: Rows
    pairing: Pairing | None = None
    rate: float = 1.0
    weights: Float64 | None = None
    sampled: Int64 | None = None
    name: str = "rows"
    observe: RawObserver | None = None

    @property
    def width(self) -> int:
        """Values in a row."""
        return self.rows.width

    def sums(self, threads: int) -> SideSums:
        """Return the sums of one pass over the rows."""
        return sum_side(
            self.rows,
            self.pairing,
            self.weights,
            sampled=self.sampled,
            name=self.name,
            observe=self.observe,
            threads=threads,
        )

    def factor(self, gram: Float64) -> Float64:
        """Return the triangular factor."""
        return triangular_factor(gram, lambda: qr_factor(self.rows))


@dataclass(frozen=True)
class SideFit:
    """One side's sums and maps.

    Attributes
    ----------
    sums : SideSums
        Without the judged rows.
    map : (e, k) float64
    judged : int
        Number of rows that the fit is judged on.
    fit : Fit or None
        None in a new space or for a side too small to be judged.
    scale : float
        See :func:`embsync.alignment.preservation.residual_scale`.
    axes : Axes
        Figures are None in a new space or below 4e anchored rows, NaN where they cannot be measured.
    columns : ColumnAgreement or None
        None where the figures of ``axes`` are.
    """

    sums: SideSums
    map: Float64
    judged: int
    fit: Fit | None
    scale: float
    axes: Axes
    columns: ColumnAgreement | None

    @property
    def judged_alone(self) -> bool:
        """Whether the side has the 4e judged rows that figures about it alone require."""
        return _suffices(self.judged, self.map)

    @property
    def magnitude(self) -> float:
        """Root mean square of the side's stable values without zero rows; 0 if there are no other rows."""
        return self.typical_length / float(np.sqrt(self.map.shape[1]))

    @property
    def typical_length(self) -> float:
        """Root mean square of the lengths of the side's stable rows without zero rows; 0 if there are no other rows."""
        energy = float(np.einsum("ij,ik,kj->", self.map, self.sums.gram, self.map, optimize=True))
        return float(np.sqrt(max(energy, 0.0) / max(self.sums.rows - self.sums.zero_rows, 1)))


@dataclass(frozen=True)
class Alignment(Sides[SideFit]):
    """The result of the first pass.

    ``rotation_disagreement`` is None in a new space, for one side, or when a side has fewer than 4e anchored rows.
    """

    transform: Transform
    rank: int
    truncation_loss: float
    rotation_disagreement: float | None

    @property
    def common(self) -> int:
        """Number of rows with an anchor on both sides together."""
        return sum(side.sums.paired for side in self)


def _suffices(judged: int, basis: Float64) -> bool:
    return judged >= 4 * len(basis)


def fit(sides: Sides[FirstPass], *, dimension: int, standardized: bool = True, threads: int = 0) -> Alignment:
    """Fit the maps of a snapshot into a space of ``dimension`` axes, in one pass over the rows.

    If all scores are zero, the rank is 0 and the maps are zero; callers refuse such a snapshot.

    Raises
    ------
    SnapshotError
        A value is not finite, or the sides have different widths.
    """
    if len({side.width for side in sides}) > 1:
        raise SnapshotError(
            "sides of different widths", found=" and ".join(str(side.width) for side in sides), expected="one width"
        )
    sums = sides.map(lambda side: side.sums(threads))
    factors = sides.map(lambda side, total: side.factor(total.gram), sums)
    with library_threads(1, "blas"):
        if standardized and factors.users is not None:
            form = standardize(factors.items, factors.users, dimension)
        else:
            form = keep_products(factors.items, factors.users, dimension)
        return _rotate(form, sides, sums, dimension, threads)


@dataclass(frozen=True)
class _Judged:
    """Judged rows of a side by fold, and their sums."""

    rows: JudgedRows
    parts: list[slice]
    sums: JudgedSums

    @classmethod
    def of(cls, rows: JudgedRows, folds: int, threads: int) -> _Judged:
        parts = rows.sort_by_fold(folds)
        return cls(rows, parts, sum_judged(rows, parts, threads))


def _rotate(
    form: Standardization, sides: Sides[FirstPass], sums: Sides[SideSums], dimension: int, threads: int
) -> Alignment:
    """Align the standardized form to the anchors."""
    onto = sides.map(lambda side, basis: basis.T / side.rate, form)
    crosses = [basis @ total.cross for basis, total in zip(onto, sums, strict=True) if total.cross is not None]
    anchored = [cross for cross in crosses if np.any(cross)]
    cross: Float64 = np.sum(crosses, axis=0)
    count = max(fold_count(0 if total.judged is None else len(total.judged), total.paired) for total in sums)
    judged = sums.map(lambda total: None if total.judged is None else _Judged.of(total.judged, count, threads))
    held = [(basis, side) for basis, side in zip(onto, (judged.items, judged.users), strict=False) if side]
    rotations: list[Float64] = []
    if anchored:
        enough = any(_suffices(len(side.rows), basis.T) for basis, side in held)

        def rotate(fold: int | None) -> Float64:
            """Return the rotation fitted to all rows, or to all but those of a fold."""
            without = 0.0 if fold is None else sum(basis @ side.sums.folds[fold] for basis, side in held)
            return align(cross - without, form.energy)

        rotations = [*in_threads(rotate, [None, *range(count if enough else 0)], threads)]
    rotation = rotations[0] if anchored else first_rotation(form.items, dimension)

    finish = partial(_side_fit, rotation=rotation, folds=rotations[1:], threads=threads)
    fits = sums.map(finish, form, judged)
    maps = fits.map(lambda side: side.map)
    transform = Transform(maps.items, maps.users, form.singular_values)
    inverses = NAMES.map(transform.inverse)
    measures = fits.map(lambda side, *others: partial(_with_axes, side, *others), judged, inverses)
    items, *users = in_threads(lambda measure: measure(), measures, threads)
    apart = None
    if len(crosses) == 2 and len(anchored) == 2 and all(side.judged_alone for side in fits):
        apart = disagreement(crosses[0], crosses[1], form.energy, threads)
    return Alignment(items, users[0] if users else None, transform, form.rank, form.truncation_loss, apart)


def _side_fit(
    total: SideSums, basis: Float64, side: _Judged | None, *, rotation: Float64, folds: list[Float64], threads: int
) -> SideFit:
    """Return a side's map, and how well it fits the judged rows if there are enough; axes are not measured yet."""
    own: Float64 = basis @ rotation
    fit, number = None, 0 if side is None else len(side.rows)
    if side is not None and folds and _suffices(number, basis):
        fit = out_of_sample_fit(side.rows, side.parts, basis, folds, threads)
    scale = residual_scale(total.gram, own, total.rows)
    return SideFit(replace(total, judged=None), own, number, fit, scale, Axes(), None)


def _with_axes(side: SideFit, judged: _Judged | None, inverse: Float64) -> SideFit:
    """Return ``side`` with the agreement of its axes and raw columns with the anchors, if its fit was judged.

    Parameters
    ----------
    side : SideFit
    judged : _Judged or None
    inverse : (k, e) float64
        The other side's map, transposed: the inverse at full rank, where the map is square.
    """
    if judged is None or side.fit is None:
        return side
    sums, own = judged.sums, side.map
    if own.shape[0] != own.shape[1]:
        inverse = np.asarray(linalg.pinv(own), np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is detected from the results
        rows = own.T @ sums.rows @ own
        axes = compare_axes(own.T @ sums.cross, rows, sums.anchors)
        axes = replace(axes, mean_shift=sums.mean_shift(own, rows))
        return replace(side, axes=axes, columns=judge_columns(sums, own, inverse, rows))


def transform_rows(rows: Rows, side: SideFit, observers: Sequence[Observer], *, threads: int = 0) -> Residual:
    """Run the second pass: map every row, pass each block to the observers, and return the sums of the residual.

    Raises
    ------
    SnapshotError
        A stable value overflows float32.
    """

    def work(start: int, block: Array) -> tuple[Float64, Float64]:
        written, cross, own = written_block(block, side.map, side.scale)
        for observe in observers:
            observe(start, block, written)
        return cross, own

    width, dimension = side.map.shape
    cross, own = np.zeros((width, dimension)), np.zeros((dimension, dimension))
    for start, (one, two) in map_blocks(work, rows, threads):
        if not np.isfinite(two).all():
            raise SnapshotError(
                "stable vectors do not fit float32",
                found=f"overflow near row {start}",
                hint="scale the embeddings before saving them",
            )
        cross += one
        own += two
    return Residual(side.sums.gram, cross, own)
