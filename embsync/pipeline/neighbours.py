"""Exact neighbours of the sampled users, found in one pass for the certificate, the overlaps and the recall gate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embsync.alignment.certified import SampledNeighbours
from embsync.alignment.two_pass import Alignment
from embsync.config import IndexConfig
from embsync.dtypes import Array, Float32, Float64, Int64
from embsync.ids import positions_in, sample
from embsync.pipeline.inputs import Inputs
from embsync.pipeline.run_sides import Sampled
from embsync.reader import Version
from embsync.rows import ArrayRows, as_slice, map_blocks
from embsync.similarity import TOP_K, Metric, RunningTopK, overlap


@dataclass(frozen=True)
class Overlaps:
    """Shares of the sampled users' exact top 10 that did not change; see the manifest's ``drift``."""

    overlap_at_10: float | None = None
    stale_overlap_at_10: float | None = None
    stale_overlap_at_10_raw: float | None = None


class Neighbours:
    """Collects exact neighbours while the items are read.

    - of the sampled users' raw vectors among the raw items, and of their stable vectors among the stable items;
    - of the parent's vectors of the same users, raw and stable, among the new items.

    Parameters
    ----------
    inputs : Inputs
    found : Alignment
    config : IndexConfig
    threads : int
        Workers; 0 for all cores.
    """

    def __init__(self, inputs: Inputs, found: Alignment, config: IndexConfig, threads: int) -> None:
        metric: Metric = config.metric
        side = found.queries
        raw = side.sums.sample
        #: (q, k) float32 stable vectors of the sampled users.
        self.queries: Float32 = (raw.astype(np.float64) @ side.map).astype(np.float32)
        asking = inputs.queries.sampled()
        #: Positions, among the sampled users, of the queries of the recall gate.
        self.gate: Int64 = sample(asking.ids, config.sample_queries)
        depth = max(TOP_K, config.depths[0])
        self._rows = inputs.items.plan.rows
        self._parent = None if inputs.parent is None else _ParentView(inputs, asking, metric, threads)
        stale = self.queries[:0] if self._parent is None else self._parent.stable
        stale_raw = raw[:0] if self._parent is None else self._parent.raw()
        self._has_raw = len(stale_raw) > 0
        self._found = SampledNeighbours(found, self.queries, stale, stale_raw, depth, metric)

    def observe(self, start: int, block: Array, stable: Float32) -> None:
        """Add item rows, raw and stable; called by worker threads."""
        self._found.observe(self._rows[start : start + len(block)], block, stable)

    @property
    def ground_truth(self) -> Int64:
        """(q, >= recall_at) rows of the sampled users' exact neighbours, best first."""
        return self._found.sampled().rows

    def table(self, asking: Array) -> Int64:
        """Return (s, 11): the row of each sampled user, ascending, and of its ten best items, -1 if there are fewer.

        ``asking`` has the rows of the sampled users, in the order of the sample.
        """
        order = np.argsort(asking)
        return np.column_stack([asking, self._found.sampled().rows[:, :TOP_K]])[order].astype(np.int64)

    def agreement(self) -> float | None:
        """Return the share of sampled users whose top 10 the maps did not change."""
        return self._found.agreement()

    def overlaps(self) -> Overlaps:
        """Return how much of the top 10 is unchanged since the parent version."""
        if self._parent is None or len(self._parent.sampled) == 0:
            return Overlaps()
        own = self._found.sampled().rows[self._parent.sampled, :TOP_K]
        return Overlaps(
            overlap_at_10=overlap(own, self._parent.top_rows()),
            stale_overlap_at_10=overlap(own, self._found.others().rows[:, :TOP_K]),
            stale_overlap_at_10_raw=overlap(own, self._found.others_raw().rows) if self._has_raw else None,
        )


class _ParentView:
    """The sampled users' vectors in the parent version, and their neighbours there."""

    def __init__(self, inputs: Inputs, asking: Sampled, metric: Metric, threads: int) -> None:
        assert inputs.parent is not None
        self._version: Version = inputs.parent
        self._metric = metric
        self._threads = threads
        self._name = inputs.queries.name
        self._row_map = inputs.items.plan.row_map
        self._width = inputs.snapshot.width
        #: Positions, among the sampled users, of those live in the parent.
        self.sampled: Int64 = asking.in_parent
        self._asking = asking.parent_rows
        self.stable: Float32 = asking.stable

    def raw(self) -> Array:
        """Return the parent's raw vectors of the users; no rows if the maps cannot be inverted."""
        maps = self._version.transform.maps
        if not maps.invertible or len(maps.items) != self._width:
            return np.empty((0, self._width), np.float32)
        inverse: Float64 = maps.inverse(self._name)
        return (self.stable.astype(np.float64) @ inverse).astype(np.float32)

    def top_rows(self) -> Int64:
        """Return the users' top 10 in the parent as rows of the new version; -2 for items that no longer exist.

        The parent has stored the top 10 of the users sampled when it was made; those of the others are found by a scan.
        """
        rows = np.full((len(self._asking), TOP_K), -1, np.int64)
        table = self._version.neighbours if self._version.record.index.metric == self._metric else None
        places = np.full(len(rows), -1) if table is None else positions_in(self._asking, table[:, 0])
        known = places >= 0
        if table is not None:
            rows[known] = table[places[known], 1:]
        if not known.all():
            rows[~known] = self._scanned(self.stable[~known])
        moved = self._row_map[np.maximum(rows, 0)]
        return np.where(rows < 0, -1, np.where(moved < 0, -2, moved))

    def _scanned(self, queries: Float32) -> Int64:
        items = self._version.items
        best = RunningTopK(queries, TOP_K, self._metric)

        def work(start: int, block: Array) -> None:
            live = np.flatnonzero(items.live[start : start + len(block)])
            best.observe(start + live, block[as_slice(live)])

        for _ in map_blocks(work, ArrayRows(items.vectors), self._threads):
            pass
        return best.result().rows
