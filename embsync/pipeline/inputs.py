"""The inputs of a run: the snapshot's ids and rows, and the parent version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

import numpy as np

from embsync.alignment.anchors import DEFAULT_POLICY, AnchorSide, AnchorUpdate, Policy
from embsync.alignment.two_pass import SideInput
from embsync.config import Config
from embsync.dtypes import Array, RowNumbers
from embsync.engines.protocol import Engine
from embsync.errors import Hint, SnapshotError, UsageError
from embsync.ids import sample
from embsync.invocation import command, store_of
from embsync.manifest import RowCounts
from embsync.pipeline.labels import LaidOut, of_snapshot
from embsync.pipeline.references import anchors_of, pair
from embsync.pipeline.run_sides import SAMPLED, RunSide, Sampled, reject_other_ids, require_rows
from embsync.pipeline.table_run import table_run
from embsync.pipeline.watched_rows import WatchedRows
from embsync.progress import Progress
from embsync.reader import Version
from embsync.reader.side import Side
from embsync.sides import SideName, Sides
from embsync.snapshots import SideDigest, Snapshot, SnapshotSide, fingerprints_of
from embsync.store.rows import ParentRows, RowPlan, plan


@dataclass(frozen=True)
class LocalRun:
    """One side of a run whose rows are read by this process.

    Attributes
    ----------
    name : str
    side : SnapshotSide
        The side of the snapshot.
    plan : RowPlan
    ids : (t,) ndarray
        In the order of the snapshot's rows.
    fitted : SideInput
        The side as the input of the alignment.
    digest : SideDigest
        The digest of the pass over that input.
    held : ParentRows or None
        Ids, ``last_seen`` and lineage of the parent's side.
    anchors : AnchorSide or None
        The parent's anchors, memory-mapped.
    parent : Side or None
        The parent's side.
    """

    name: SideName
    side: SnapshotSide
    plan: RowPlan
    ids: Array
    fitted: SideInput
    digest: SideDigest
    held: ParentRows | None
    anchors: AnchorSide | None

    parent: Side | None = None

    @property
    def counts(self) -> RowCounts:
        """Row counts, without the number of zero rows."""
        return self.plan.counts

    @property
    def id_bytes(self) -> int:
        """Bytes of an id."""
        return self.plan.ids.dtype.itemsize

    @property
    def sampled_rows(self) -> RowNumbers:
        """The version's rows of the sampled ids."""
        return self.plan.rows[self.fitted.sampled]

    def sampled(self) -> Sampled:
        """Return the sampled rows."""
        ids = self.plan.ids[self.sampled_rows]
        rows = self.plan.parent_live[self.fitted.sampled].astype(np.int64)
        there = np.flatnonzero(rows >= 0)
        none = np.empty((0, 0), np.float32)
        stable = none if self.parent is None else np.array(self.parent.vectors[rows[there]], np.float32)
        return Sampled(ids, there, rows[there], stable)

    def id_of(self, position: int) -> int | str:
        """Return the id of a row of the snapshot."""
        name = self.plan.ids[self.plan.rows[position]]
        return name.decode("utf-8") if isinstance(name, bytes) else int(name)


@dataclass(frozen=True)
class Inputs(Sides[RunSide]):
    """The inputs of a run; ``parent`` is None when a new space begins, ``update`` is how the anchors are updated.

    ``labels`` are those of the items' rows, which are always read by this process.
    """

    items: LocalRun
    snapshot: Snapshot
    parent: Version | None
    number: int
    dimension: int
    update: AnchorUpdate
    labels: LaidOut

    def has_fingerprint(self, fingerprint: str | None) -> bool:
        """Return whether the contents read by the first pass have a fingerprint, by the current or the earlier rule."""
        return fingerprint in fingerprints_of([run.digest for run in self])

    @property
    def same_as_parent(self) -> bool:
        """Whether the parent was made from the same contents."""
        return self.parent is not None and self.has_fingerprint(self.parent.record.snapshot.fingerprint)


def gather(
    snapshot: Snapshot,
    parent: Version | None,
    known: Version | None,
    number: int,
    config: Config,
    progress: Progress,
    *,
    earlier: bool = False,
    engine: Engine | None = None,
) -> Inputs:
    """Read the ids and lay out the rows.

    Parameters
    ----------
    snapshot : Snapshot
    parent : Version or None
        The version to align to; None in a new space.
    known : Version or None
        The current version, whose id types the store keeps even in a new space.
    number : int
        The number of the new version.
    config : Config
    progress : callable
    earlier : bool
        Whether the fingerprint by the rule of earlier releases is computed as well.
    engine : Engine, optional
        The engine that reads the users' rows; default: this process.

    Raises
    ------
    SnapshotError
        The ids are of a different type from the store's, or a side appears or disappears.
    UsageError
        The configured dimension is not that of the space.
    """
    dimension = _dimension(snapshot, parent, config)
    if parent is not None:
        _reject_other_sides(snapshot, parent)
    update = _anchor_update(config, known)

    def run(side: SnapshotSide, name: SideName) -> LocalRun:
        ids = side.ids()
        if known is not None and (name == "items" or known.users is not None):
            reject_other_ids(side, name, ids.dtype.kind, known)
        digest = SideDigest(side, ids, earlier=earlier)
        watched = WatchedRows(digest.rows, snapshot, name, "reading", progress)
        return _side_run(side, name, ids, digest, watched, parent, update, config)

    items = run(snapshot.items, "items")
    users: RunSide | None = None
    if snapshot.users is not None and engine is not None:
        progress("reading", snapshot.items.count / (snapshot.items.count + snapshot.users.count))
        users = table_run(engine, snapshot.users, parent, known, update, config)
    elif snapshot.users is not None:
        require_rows(parent, snapshot.path)
        users = run(snapshot.users, "users")
    labels = of_snapshot(snapshot, parent, items.plan, config.snapshot.labels)
    return Inputs(items, users, snapshot, parent, number, dimension, update, labels)


def _dimension(snapshot: Snapshot, parent: Version | None, config: Config) -> int:
    """Return the width of the space: the parent's; in a new space as configured, else the snapshot's."""
    wanted = config.space.dimension
    if parent is None:
        return wanted or snapshot.width
    if wanted not in (None, parent.record.dimension):
        raise UsageError(
            "space.dimension differs from the space's",
            found=wanted,
            expected=parent.record.dimension,
            hint=_other_dimension(wanted, parent, snapshot),
        )
    return parent.record.dimension


def _other_dimension(wanted: int, parent: Version, snapshot: Snapshot) -> Hint:
    store = store_of(parent.path)
    if wanted > parent.record.dimension:
        return command("widen", wanted, purpose="to make the space wider", store=store)
    purpose = "a space cannot become narrower: remove space.dimension; or to begin a new space"
    return command("accept", snapshot.path, "--new-space", purpose=purpose, store=store)


def _anchor_update(config: Config, known: Version | None) -> AnchorUpdate:
    """Return how anchors are updated: as configured, else as in the store, else by default."""
    given = config.space.anchors
    policy = given.policy
    if policy is None and known is not None and known.record.alignment.policy in get_args(Policy):
        policy = cast("Policy", known.record.alignment.policy)
    return AnchorUpdate(policy or DEFAULT_POLICY, given.weight, given.parent_share, given.slow_weight)


def _side_run(
    side: SnapshotSide,
    name: SideName,
    ids: Array,
    digest: SideDigest,
    watched: WatchedRows,
    parent: Version | None,
    update: AnchorUpdate,
    config: Config,
) -> LocalRun:
    pairing, rate, anchors, held = None, 1.0, None, None
    if parent is not None:
        mine = parent.side(name)
        held = ParentRows(mine.ids, mine.last_seen, parent.lineage)
        anchors = anchors_of(parent, name)
        pairing, rate = pair(ids, anchors, update, mine.ids, mine.vectors), anchors.rate
    sampled = sample(ids, max(SAMPLED, config.index.sample_queries))
    laid_out = plan(ids, held, config.store.carry_forward_versions)
    fitted = SideInput(watched, pairing, rate, side.weights(), sampled, side.source, digest.update)
    return LocalRun(
        name, side, laid_out, ids, fitted, digest, held, anchors, None if parent is None else parent.side(name)
    )


def _reject_other_sides(snapshot: Snapshot, known: Version) -> None:
    has, had = snapshot.users is not None, known.record.users is not None
    if has != had:
        raise SnapshotError(
            "sides differ from the store's",
            where=snapshot.path,
            found="items and users" if has else "items only",
            expected="items and users" if had else "items only",
            hint=command(
                "accept",
                snapshot.path,
                "--new-space",
                purpose="the sides of a space never change; if this is intended",
                store=store_of(known.path),
            ),
        )


def live_rows(run: LocalRun) -> Array:
    """Return the rows of live ids, ascending."""
    return np.flatnonzero(run.plan.live)
