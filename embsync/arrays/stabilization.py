"""``embsync.stabilize``: the method applied to arrays, without a store, a daemon or files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, get_args

import numpy as np

from embsync.alignment.anchors import DEFAULT_POLICY, AnchorSide, AnchorUpdate, Policy, advance, advance_ages, choose
from embsync.alignment.certified import SampledNeighbours
from embsync.alignment.cross_validation import Fit
from embsync.alignment.gram import Pairing
from embsync.alignment.preservation import Residual, certify
from embsync.alignment.transform import Transform
from embsync.alignment.two_pass import Alignment, SideFit, SideInput, fit, transform_rows
from embsync.arrays.anchors import Anchors
from embsync.arrays.checks import OTHERWISE, judge_fit
from embsync.dtypes import Array, Float32, Float64, Int64
from embsync.errors import SnapshotError, UsageError
from embsync.ids import positions_in, sample
from embsync.manifest import CheckRecord
from embsync.measurements import Preservation
from embsync.pipeline.checks import require
from embsync.reporting.summary import Summary
from embsync.rows import library_threads
from embsync.sides import NAMES, SideName, Sides
from embsync.similarity import TOP_K
from embsync.snapshots.array_sides import side_of_arrays
from embsync.snapshots.sides import IdentifiedSide

SAMPLED_QUERIES = 1000


@dataclass(frozen=True)
class Stabilized(Sides[Float32]):
    """A snapshot in the stable space, with rows in the order given.

    Attributes
    ----------
    items, users : (t, k) and (w, k) float32, read-only
        Stable vectors; ``users`` is None for one side.
    transform : Transform
        Maps, inverses and singular values.
    anchors : Anchors
        Reference rows for the next snapshot.
    fit_items, fit_users : Fit or None
        Out-of-sample fit to the anchors; None in a new space or for a side too small to be judged.
    rotation_disagreement : float or None
        Distance between the rotations fitted to each side alone: 0 if equal, about 1 if unrelated. None in a new space,
        for one side, and for sides too small to be judged.
    rank : int
        Number of directions that contribute to scores.
    truncation_loss : float
        Relative Frobenius norm of the scores that a narrower space cannot hold.
    preservation : Preservation
        The certificate.
    checks : tuple of CheckRecord
        The checks of the fit to the anchors, with values, limits and outcomes; empty in a new space.
    """

    transform: Transform
    anchors: Anchors
    fit_items: Fit | None
    fit_users: Fit | None
    rotation_disagreement: float | None
    rank: int
    truncation_loss: float
    preservation: Preservation
    checks: tuple[CheckRecord, ...] = ()

    def __repr__(self) -> str:
        sides = [("items", self.items, self.fit_items), ("users", self.users, self.fit_users)]
        parts = [f"{len(rows):,} {name}" for name, rows, _ in sides if rows is not None]
        fits = [f"{name} {fit.cosine:.2f}" for name, _, fit in sides if fit is not None and fit.cosine is not None]
        parts += [
            f"{self.items.shape[1]} dimensions",
            f"score error {self.preservation.score_error:.1e}",
            f"cosine with the anchors: {', '.join(fits)}" if fits else "no fit to anchors",
        ]
        return f"<Stabilized: {', '.join(parts)}>"

    def report(self) -> Summary:
        """Return a summary with the verdict, the spectrum and the checks; ``html`` is the page, ``save`` writes it."""
        rows = {"items": len(self.items)} | ({} if self.users is None else {"users": len(self.users)})
        fits = {"items": self.fit_items, "users": self.fit_users}
        return Summary(
            rows=rows,
            dimension=self.items.shape[1],
            rank=self.rank,
            preservation=self.preservation,
            singular_values=self.transform.singular_values,
            cosines={name: (fit.cosine, fit.cosine_mismatched) for name, fit in fits.items() if fit is not None},
            checks=self.checks,
        )

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


@dataclass(frozen=True)
class _Side:
    rows: IdentifiedSide
    ids: Array
    order: Int64
    previous: AnchorSide | None
    weights: Float64 | None
    sampled: Int64
    update: AnchorUpdate

    @cached_property
    def pairing(self) -> Pairing | None:
        if self.previous is None:
            return None
        places = positions_in(self.ids, self.previous.ids)
        return Pairing.of(places, self.previous.reference(self.update, places), self.previous.ids)

    def as_input(self) -> SideInput:
        rate = 1.0 if self.previous is None else self.previous.rate
        return SideInput(self.rows, self.pairing, rate, self.weights, self.sampled, self.rows.name)


def stabilize(
    items: Any,
    users: Any = None,
    *,
    item_ids: Any = None,
    user_ids: Any = None,
    anchors: Anchors | None = None,
    check: bool = True,
    dimension: int | None = None,
    standardize: bool = True,
    item_weights: Any = None,
    user_weights: Any = None,
    policy: Policy = DEFAULT_POLICY,
    weight: float = 0.3,
    parent_share: float = 0.45,
    slow_weight: float = 0.001,
    anchor_rows: int = 100_000,
    threads: int = 0,
) -> Stabilized:
    """Map a snapshot into a stable space with linear maps that change no user-item score.

    Parameters
    ----------
    items : (t, e) array of float16, float32 or float64
        A NumPy array, or any type that :func:`embsync.write_snapshot` takes: pandas with its index as ids, Arrow,
        tensors.
    users : (w, e) array, optional
        Without users, the item-item products are preserved instead of the user-item scores.
    item_ids, user_ids : (t,) and (w,) arrays of integers or strings
        Required with anchors, unless pandas supplies them. A new space without ids uses row numbers.
    anchors : Anchors, optional
        ``anchors`` of the previous snapshot's result; without them a new space begins.
    check : bool
        Raise RefusedError where ``embsync sync`` would refuse the fit to the anchors. If False, the result is returned
        anyway, and its ``checks`` show what is wrong.
    dimension : int, optional
        Width k of a new space; default: e.
    standardize : bool
        Fix the scale split between the sides by the low-rank SVD before rotating.
    item_weights, user_weights : (t,) and (w,) arrays, optional
        Weights of the rows when the rotation is fitted.
    policy, weight, parent_share, slow_weight, anchor_rows
        How the anchors are updated; see ``space.anchors`` in the configuration.
    threads : int
        Worker threads; 0 for one per core.

    Returns
    -------
    Stabilized
        The stable vectors, the maps, the figures, and the anchors for the next snapshot.

    Raises
    ------
    SnapshotError
        The shapes do not match, an id occurs twice, ids are missing with anchors, a value is not finite, or every score
        is zero.
    UsageError
        The sides, the dimension or the type of ids differ from the anchors', or the anchor policy or one of its weights
        is invalid.
    RefusedError
        Too few ids are shared with the anchors, or rows do not fit them, for example because of wrong ids, another
        model, or sides from two training runs.

    References
    ----------
    Zielnicki and Hsiao, "Orthogonal Low Rank Embedding Stabilization", RecSys 2025.

    Examples
    --------
    >>> import numpy as np, embsync
    >>> rng = np.random.default_rng(7)
    >>> items, users = rng.normal(size=(300, 8)), rng.normal(size=(200, 8))
    >>> ids = {"item_ids": np.arange(300), "user_ids": [f"user {number}" for number in range(200)]}
    >>> first = embsync.stabilize(items, users, **ids)
    >>> first.anchors
    <Anchors: 300 items, 200 users, 8 dimensions>
    >>> turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]      # tomorrow's axes are arbitrary
    >>> second = embsync.stabilize(items @ turn, users @ turn, **ids, anchors=first.anchors)
    >>> bool(np.allclose(second.items, first.items, atol=1e-5))
    True
    >>> bool(np.allclose(second.items @ second.users.T, items @ users.T, atol=1e-4))
    True
    """
    _require_same_sides(users, anchors)
    update = _anchor_update(policy, weight, parent_share, slow_weight)
    ids, weights = Sides(item_ids, user_ids), Sides(item_weights, user_weights)
    sides = Sides(items, users).map(partial(_side, update), NAMES, ids, weights, anchors or Sides(None, None))
    k = _dimension(dimension, anchors, sides.items.rows.width)
    with library_threads(1, "blas"):
        found = fit(sides.map(_Side.as_input), dimension=k, standardized=standardize, threads=threads)
        if found.rank == 0:
            raise SnapshotError("no scores: every item or every user vector is zero", found="rank 0")
        written, preservation = _apply(sides, found, threads)
    fits = found.map(lambda side: side.fit)
    checks = [] if anchors is None else judge_fit(found, preservation)
    if check:
        require(checks, None, otherwise=OTHERWISE)
    moved = sides.map(lambda side, out: _advance(side, out.stable, anchor_rows, threads), written)
    return Stabilized(
        written.items.stable,
        None if written.users is None else written.users.stable,
        found.transform,
        Anchors(moved.items, moved.users),
        fits.items,
        fits.users,
        found.rotation_disagreement,
        found.rank,
        found.truncation_loss,
        preservation,
        tuple(checks),
    )


def _require_same_sides(users: Any, anchors: Anchors | None) -> None:
    if anchors is not None and (anchors.users is None) != (users is None):
        raise UsageError(
            "sides differ from the anchors'",
            found="users" if anchors.users is None else "no users",
            expected="the sides of the space",
        )


def _anchor_update(policy: Policy, weight: float, parent_share: float, slow_weight: float) -> AnchorUpdate:
    if policy not in get_args(Policy) or not (0 < weight <= 1 and 0 <= parent_share <= 1 and 0 < slow_weight <= 1):
        raise UsageError(
            "invalid anchor policy or weight",
            found=f"policy {policy!r} with weight {weight}, parent_share {parent_share} and slow_weight {slow_weight}",
            expected=f"one of {', '.join(get_args(Policy))}, weights in (0, 1] and a share in [0, 1]",
        )
    return AnchorUpdate(policy, weight, parent_share, slow_weight)


def _dimension(wanted: int | None, anchors: Anchors | None, width: int) -> int:
    if wanted is not None and (wanted < 1 or (anchors is not None and wanted != anchors.dimension)):
        raise UsageError(
            "wrong dimension",
            found=wanted,
            expected="at least 1" if anchors is None else f"the anchors' {anchors.dimension}",
        )
    if anchors is not None:
        return anchors.dimension
    return width if wanted is None else wanted


def _side(
    update: AnchorUpdate, vectors: Any, name: SideName, ids: Any, weights: Any, previous: AnchorSide | None
) -> _Side:
    rows = side_of_arrays(name, vectors, ids, weights, row_numbers=previous is None)
    side_ids = rows.ids()
    if previous is not None and previous.ids.dtype.kind != side_ids.dtype.kind:
        raise UsageError(
            f"{name[:-1]}_ids of a different type from the anchors'",
            found=str(side_ids.dtype),
            expected=str(previous.ids.dtype),
        )
    order = np.argsort(side_ids, kind="stable").astype(np.int64)
    return _Side(rows, side_ids, order, previous, rows.weights(), sample(side_ids, SAMPLED_QUERIES), update)


@dataclass(frozen=True)
class _Written:
    stable: Float32
    residual: Residual


def _apply(sides: Sides[_Side], found: Alignment, threads: int) -> tuple[Sides[_Written], Preservation]:
    """Run the second pass and compute the certificate."""
    queries = found.queries.sums.sample
    stable_queries = queries.astype(np.float64) @ found.queries.map
    none, none_raw = stable_queries[:0], queries[:0]
    neighbours = SampledNeighbours(found, stable_queries, none, none_raw, TOP_K, "inner_product")

    def write(side: _Side, part: SideFit) -> _Written:
        out = np.empty((side.rows.count, part.map.shape[1]), np.float32)

        def observe(start: int, block: Array, stable: Float32) -> None:
            out[start : start + len(block)] = stable
            if side is sides.items:
                neighbours.observe(np.arange(start, start + len(block)), block, stable)

        residual = transform_rows(side.rows, part, [observe], threads=threads)
        out.flags.writeable = False
        return _Written(out, residual)

    written = sides.map(write, found)
    residuals = written.map(lambda side: side.residual)
    return written, certify(found.transform, residuals, neighbours.agreement(), len(queries), threads=threads)


def _advance(side: _Side, stable: Float32, limit: int, threads: int) -> AnchorSide:
    known = side.ids[side.order]
    union = known
    if side.previous is not None:
        absent = positions_in(side.previous.ids, known) < 0
        union = np.sort(np.concatenate([known, side.previous.ids[absent]]), kind="stable")
    ids = union[choose(union, limit)]
    places = positions_in(ids, known)
    live = places >= 0
    out = np.empty((len(ids), stable.shape[1]), np.float32)
    rows = side.order[np.maximum(places, 0)]
    advance(out.__setitem__, stable.shape[1], ids, stable, rows, live, side.previous, side.update, threads)
    out.flags.writeable = False
    recent = None
    if side.update.policy == "two_time_scales":
        recent = np.empty_like(out)
        last = (
            None
            if side.previous is None
            else dataclasses.replace(
                side.previous, vectors=side.previous.vectors if side.previous.recent is None else side.previous.recent
            )
        )
        advance(recent.__setitem__, stable.shape[1], ids, stable, rows, live, last, AnchorUpdate("previous"), threads)
        recent.flags.writeable = False
    ages = advance_ages(ids, live, side.previous)
    ages.flags.writeable = False
    return AnchorSide(ids, out, len(ids) / len(union), recent, ages)
