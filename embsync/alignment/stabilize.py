"""``embsync.stabilize``: the method on arrays, with no store, no daemon and no files."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, get_args

import numpy as np

from embsync.alignment.anchors import DEFAULT_POLICY, AnchorSide, Motion, Policy, advance, choose
from embsync.alignment.drift import Fit, FitMeter
from embsync.alignment.gram import Pairing
from embsync.alignment.preservation import Residual, map_error, score_error
from embsync.alignment.transform import SideName, Transform
from embsync.alignment.two_pass import Alignment, SideFit, SideInput, fit, judged_alone, transform_rows
from embsync.dtypes import Array, Float32, Float64, Int64
from embsync.errors import SnapshotError, UsageError
from embsync.ids import canonical, fold_of, positions_in, sample
from embsync.manifest import Preservation
from embsync.rows import ArrayRows, worker_count
from embsync.similarity import RunningTopK, agreement

_Value = TypeVar("_Value")

TOP_K = 10
SAMPLED_QUERIES = 1000


@dataclass(frozen=True)
class Anchors:
    """Reference rows of a space; hand them to the next :func:`stabilize`.

    Under ``two_time_scales`` a side carries both: ``vectors``, the slow average, and ``recent``, the last stable rows.
    """

    items: AnchorSide
    users: AnchorSide | None

    @property
    def dimension(self) -> int:
        """Width k of the space."""
        return int(self.items.vectors.shape[1])


@dataclass(frozen=True)
class Stabilized:
    """A snapshot in the stable space, rows in the order given.

    Attributes
    ----------
    items, users : (t, k) and (w, k) float32, read-only; users None for one side
    transform : Transform
        Maps, inverses and singular values.
    anchors : Anchors
        For the next snapshot.
    fit_items, fit_users : Fit or None
        Out-of-sample fit to the anchors; None in a new space or for a side too small to be judged.
    rotation_disagreement : float or None
    preservation : Preservation
        The certificate.
    """

    items: Float32
    users: Float32 | None
    transform: Transform
    anchors: Anchors
    fit_items: Fit | None
    fit_users: Fit | None
    rotation_disagreement: float | None
    rank: int
    truncation_loss: float
    preservation: Preservation


@dataclass(frozen=True)
class _Side:
    raw: Array
    ids: Array
    order: Int64
    previous: AnchorSide | None
    weights: Float64 | None
    sampled: Int64
    name: str
    motion: Motion

    @cached_property
    def pairing(self) -> Pairing | None:
        if self.previous is None:
            return None
        return Pairing(
            positions_in(self.ids, self.previous.ids), self.previous.reference(self.motion), fold_of(self.previous.ids)
        )

    def as_input(self) -> SideInput:
        rate = 1.0 if self.previous is None else self.previous.rate
        return SideInput(ArrayRows(self.raw), self.pairing, rate, self.weights, self.sampled, self.name)


def stabilize(
    items: Array,
    users: Array | None = None,
    *,
    item_ids: Array | None = None,
    user_ids: Array | None = None,
    anchors: Anchors | None = None,
    dimension: int | None = None,
    standardize: bool = True,
    item_weights: Array | None = None,
    user_weights: Array | None = None,
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
    items : (t, e) float array
    users : (w, e) float array, optional
        Without users, every item-item product is kept instead.
    item_ids, user_ids : (t,) and (w,) arrays of integers or strings, optional
        Default: row numbers.
    anchors : Anchors, optional
        Of the previous snapshot's result; without them a new space begins.
    dimension : int, optional
        Width k of a new space; default e.
    standardize : bool
        Fix the scale split between the sides by the low-rank SVD before rotating.
    item_weights, user_weights : (t,) and (w,) arrays, optional
        Weights of the rows in the rotation's fit.
    policy, weight, parent_share, slow_weight, anchor_rows
        How the anchors move on; see ``space.anchors`` in the configuration and :class:`Motion`.
    threads : int
        Workers; 0 for all cores.

    Raises
    ------
    SnapshotError
        Wrong shapes, duplicate ids, values that are not finite, or no scores at all.
    UsageError
        Sides that do not match the anchors, or ids of which the anchors have none.

    References
    ----------
    Zielnicki and Hsiao, "Orthogonal Low Rank Embedding Stabilization", RecSys 2025.

    Examples
    --------
    >>> import numpy as np, embsync
    >>> rng = np.random.default_rng(7)
    >>> items, users = rng.normal(size=(300, 8)), rng.normal(size=(200, 8))
    >>> first = embsync.stabilize(items, users)
    >>> turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]      # tomorrow's axes are arbitrary
    >>> second = embsync.stabilize(items @ turn, users @ turn, anchors=first.anchors)
    >>> bool(np.allclose(second.items, first.items, atol=1e-5))
    True
    >>> bool(np.allclose(second.items @ second.users.T, items @ users.T, atol=1e-4))
    True
    """
    if anchors is not None and (anchors.users is None) != (users is None):
        raise UsageError(
            "sides differ from the anchors'",
            found="users" if anchors.users is None else "no users",
            expected="the sides the space began with",
        )
    motion = _motion(policy, weight, parent_share, slow_weight)
    sides = [_side("items", items, item_ids, None if anchors is None else anchors.items, item_weights, motion)]
    if users is not None:
        sides.append(_side("users", users, user_ids, None if anchors is None else anchors.users, user_weights, motion))
    if anchors is not None and not any(_shares_ids(side) for side in sides):
        raise UsageError(
            "no id is shared with the anchors",
            found=f"ids such as {sides[0].ids[0]!r}",
            expected=f"ids such as {anchors.items.ids[0]!r}",
            hint="without anchors a new space begins",
        )
    k = _dimension(dimension, anchors, int(sides[0].raw.shape[1]))
    found = fit(*_pair([side.as_input() for side in sides]), dimension=k, standardized=standardize, threads=threads)
    if found.rank == 0:
        raise SnapshotError("no scores: every item or every user vector is zero", found="rank 0")
    stable, fits, preservation = _apply(sides, found, threads)
    with ThreadPoolExecutor(worker_count(threads)) as pool:  # gathering rows is slow from one thread
        moved = list(pool.map(lambda side, rows: _advance(side, rows, anchor_rows), sides, stable))
    return Stabilized(
        *_pair(stable),
        found.transform,
        Anchors(*_pair(moved)),
        *_pair(fits),
        found.rotation_disagreement,
        found.rank,
        found.truncation_loss,
        preservation,
    )


def _shares_ids(side: _Side) -> bool:
    return side.pairing is not None and bool(np.any(side.pairing.positions.astype(np.int64) >= 0))


def _pair(values: list[_Value]) -> tuple[_Value, _Value | None]:
    return values[0], values[1] if len(values) > 1 else None


def _motion(policy: Policy, weight: float, parent_share: float, slow_weight: float) -> Motion:
    if policy not in get_args(Policy) or not (0 < weight <= 1 and 0 <= parent_share <= 1 and 0 < slow_weight <= 1):
        raise UsageError(
            "unknown anchor policy",
            found=f"policy {policy!r} with weight {weight}, parent_share {parent_share} and slow_weight {slow_weight}",
            expected=f"one of {', '.join(get_args(Policy))}, weights in (0, 1] and a share in [0, 1]",
        )
    return Motion(policy, weight, parent_share, slow_weight)


def _dimension(wanted: int | None, anchors: Anchors | None, width: int) -> int:
    if wanted is not None and (wanted < 1 or (anchors is not None and wanted != anchors.dimension)):
        raise UsageError(
            "dimension does not fit",
            found=wanted,
            expected="at least 1" if anchors is None else f"the anchors' {anchors.dimension}",
        )
    if anchors is not None:
        return anchors.dimension
    return width if wanted is None else wanted


def _side(
    name: SideName, raw: Array, ids: Array | None, previous: AnchorSide | None, weights: Array | None, motion: Motion
) -> _Side:
    rows = np.asarray(raw)
    if rows.ndim != 2 or rows.dtype.kind != "f" or 0 in rows.shape:
        raise SnapshotError(
            f"{name} is not a matrix of vectors",
            found=f"{rows.dtype} of shape {rows.shape}",
            expected="a 2-D float array with rows",
        )
    names = np.arange(len(rows)) if ids is None else np.asarray(ids)
    if names.shape != (len(rows),) or names.dtype.kind not in "iuSU":
        raise SnapshotError(
            f"{name} ids do not fit",
            found=f"{names.dtype} of shape {names.shape}",
            expected=f"{len(rows)} integers or strings",
        )
    names = canonical(names, f"{name} ids")
    if previous is not None and previous.ids.dtype.kind != names.dtype.kind:
        raise UsageError(
            f"{name} ids of another type than the anchors'", found=str(names.dtype), expected=str(previous.ids.dtype)
        )
    order = np.argsort(names, kind="stable").astype(np.int64)
    if weights is not None and np.shape(weights) != (len(rows),):
        raise SnapshotError(
            f"{name} weights do not fit", found=f"shape {np.shape(weights)}", expected=f"({len(rows)},)"
        )
    own = None if weights is None else np.asarray(weights, np.float64)
    if own is not None and not (np.isfinite(own) & (own >= 0)).all():
        raise SnapshotError(
            f"{name} weights do not fit", found="negative or non-finite values", expected="finite weights of 0 or more"
        )
    return _Side(rows, names, order, previous, own, sample(names, SAMPLED_QUERIES), name, motion)


def _apply(sides: list[_Side], found: Alignment, threads: int) -> tuple[list[Float32], list[Fit | None], Preservation]:
    """Run the second pass, queries first, and certify it."""
    parts = [found.items] if found.users is None else [found.items, found.users]
    queries = parts[-1].sums.sample
    raw_best, best = RunningTopK(queries, TOP_K), RunningTopK(queries.astype(np.float64) @ parts[-1].map, TOP_K)
    stable: list[Float32] = []
    fits: list[Fit | None] = []
    residuals: list[Residual] = []
    for side, part in zip(sides, parts, strict=True):
        out = np.empty((len(side.raw), part.map.shape[1]), np.float32)
        meter = _fit_meter(side, part)

        def observe(
            start: int,
            block: Array,
            written: Float32,
            out: Float32 = out,
            meter: FitMeter | None = meter,
            items: bool = side is sides[0],
        ) -> None:
            out[start : start + len(block)] = written
            if meter is not None:
                meter.observe(start, block)
            if items:
                numbers = np.arange(start, start + len(block), dtype=np.int64)
                raw_best.observe(numbers, block)
                best.observe(numbers, written)

        residuals.append(transform_rows(ArrayRows(side.raw), part, [observe], threads=threads))
        out.flags.writeable = False
        stable.append(out)
        fits.append(None if meter is None else meter.result())
    users = residuals[1] if len(sides) > 1 else None
    certificate = Preservation(
        map_error(found.transform),
        score_error(residuals[0], users, found.transform),
        agreement(raw_best.result(), best.result()),
        len(queries),
    )
    return stable, fits, certificate


def _fit_meter(side: _Side, part: SideFit) -> FitMeter | None:
    if side.pairing is None or part.fold_maps is None or not judged_alone(part.sums):
        return None
    return FitMeter(side.pairing, part.fold_maps)


def _advance(side: _Side, stable: Float32, limit: int) -> AnchorSide:
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
    advance(out.__setitem__, stable.shape[1], ids, stable, rows, live, side.previous, side.motion)
    out.flags.writeable = False
    recent = None
    if side.motion.policy == "two_time_scales":
        recent = np.empty_like(out)
        last = (
            None
            if side.previous is None
            else dataclasses.replace(
                side.previous, vectors=side.previous.vectors if side.previous.recent is None else side.previous.recent
            )
        )
        advance(recent.__setitem__, stable.shape[1], ids, stable, rows, live, last, Motion("previous"))
        recent.flags.writeable = False
    return AnchorSide(ids, out, len(ids) / len(union), recent)
