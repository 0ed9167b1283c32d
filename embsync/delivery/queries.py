"""Queries for a version and their exact neighbours, with which a sink's recall is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embsync.dtypes import Array, Float32, Float64, Int64
from embsync.ids import sample
from embsync.reader import Version
from embsync.rows import block_rows
from embsync.similarity import Metric, RunningTopK, scores_of, unit_rows

#: Queries of a probe: the standard error of a measured recall of 0.95 at 10 neighbours is then about 0.005.
QUERIES = 200
#: Relative difference in score up to which a row counts as good as the last exact neighbour: float32 rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ProbeQueries:
    """Vectors of sampled live users (items of a one-sided version), and their exact neighbours among the live items.

    Attributes
    ----------
    vectors : (q, d) float32
    k : int
        Neighbours of each query, the first value of the version's ``recall_at``; fewer if there are fewer live items.
    ids : (q, k) int64 or str
        Exact neighbours by the store's metric, best first.
    metric : {"inner_product", "cosine", "l2"}
    target : float
        The recall that the version's own index had to reach.
    """

    vectors: Float32
    k: int
    ids: Array
    metric: Metric
    target: float
    _version: Version
    _rows: Int64

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.vectors)

    def recall(self, found: Sequence[Sequence[object]] | Array) -> float | None:
        """Return the share of the exact neighbours that a sink found; None without queries.

        An item that scores as high as the last exact neighbour counts as one: an index may return any of equal scores.

        Parameters
        ----------
        found : sequence of sequences of ids
            The sink's results for each query, at most ``k`` ids each; ids unknown to the version count as misses.
        """
        if len(self) == 0:
            return None
        hits = sum(self._hits(query, list(ids)[: self.k]) for query, ids in enumerate(found))
        return hits / (len(self) * self.k)

    def _hits(self, query: int, ids: Sequence[object]) -> int:
        side = self._version.items
        rows = np.unique(side.rows(np.asarray(ids))) if len(ids) else np.empty(0, np.int64)
        rows = rows[rows >= 0]
        rows = rows[side.live[rows]]
        exact = np.isin(rows, self._rows[query])
        bar = self._scores(query, self._rows[query]).min()
        as_good = self._scores(query, rows) >= bar - _ROUNDING * abs(bar)
        return int((exact | as_good).sum())

    def _scores(self, query: int, rows: Int64) -> Float64:
        vectors = np.asarray(self._version.items.vectors[rows])
        asked = self.vectors[query : query + 1]
        if self.metric == "cosine":
            vectors, asked = unit_rows(vectors), unit_rows(asked)
        return np.asarray(scores_of(asked, vectors[None], self.metric)[0])


def probe_queries(version: Version, most: int = QUERIES) -> ProbeQueries:
    """Return up to ``most`` queries of a pinned version, the same ones every time, with their exact neighbours."""
    record, items, asking = version.record.index, version.items, version.sides.queries
    candidates = asking.live_rows()
    chosen = candidates[sample(np.asarray(asking.ids[candidates]), most)]
    vectors = np.asarray(asking.vectors[np.sort(chosen)])
    live = np.flatnonzero(items.live)
    k = min(record.points[0].k, len(live))
    best = RunningTopK(vectors, max(k, 1), record.metric)
    step = block_rows(items.vectors.shape[1])
    for start in range(0, len(live), step):
        rows = live[start : start + step]
        best.observe(rows, np.asarray(items.vectors[rows]))
    found = best.result().rows[:, :k]
    ids = items.names(found.ravel()).reshape(found.shape)
    return ProbeQueries(vectors, k, ids, record.metric, record.target_recall, version, found)
