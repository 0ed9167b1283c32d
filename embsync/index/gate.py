"""The recall gate: finds the cheapest search parameters that reach the target recall, with searches like a reader's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embsync.dtypes import Float32, Int64
from embsync.index.ground_truth import exact_scores
from embsync.index.layers import Tunable, completed, effort, is_exact, tunables
from embsync.index.live_rows import LiveVectors
from embsync.index.points import cheapest
from embsync.index.searcher import Searcher
from embsync.similarity import Metric

#: Parameters used when there are no queries to measure with; more generous than FAISS's defaults.
_UNMEASURED = {"efSearch": 64, "nprobe": 16, "k_factor_rf": 4}
#: Relative difference in score up to which a row counts as good as the last exact neighbour: float32 rounding.
_ROUNDING = 1e-6
#: Pairs of row numbers compared at once, one byte each.
_COMPARED = 1 << 24


@dataclass(frozen=True)
class SearchTuning:
    """The parameters that the gate chose, their recall (None if not measured), and their cost."""

    search: dict[str, int]
    recall: float | None
    effort: float


@dataclass(frozen=True)
class RecallGate:
    """Sampled queries with their exact neighbours.

    Parameters
    ----------
    live : LiveVectors
    queries : (q, k) ndarray of float32
    ground_truth : (q, recall_at) ndarray of int64
        Rows of the exact neighbours, best first, -1 where there are fewer.
    metric : str
    target : float
    """

    live: LiveVectors
    queries: Float32
    ground_truth: Int64
    metric: Metric
    target: float

    def judge(self, index: Any, labels: Int64, most: float = math.inf) -> SearchTuning:
        """Return the cheapest parameters of ``index`` that reach the target, or else come close to its best recall.

        The recall of an exact index is 1.0, without a measurement.

        Nothing that costs more than ``most`` (see :func:`effort`) is tried, except the smallest parameters.
        """
        k = self.ground_truth.shape[1]
        knobs = tunables(index, k)
        if self.queries.shape[0] == 0:
            values = completed(index, {knob.name: min(knob.high, _UNMEASURED[knob.name]) for knob in knobs})
            return SearchTuning(values, None, effort(index, values, k))
        if is_exact(index):  # its results are the ground truth
            return SearchTuning({}, 1.0, effort(index, {}, k))
        measure = _Measurement(self, index, labels, most)
        if not knobs:
            return measure.tuning({})
        if len(knobs) == 1:
            return measure.tuning(_cheapest(measure, knobs[0], {}, self.target))
        return _cheapest_pair(measure, knobs[0], knobs[1], self.target)

    def reached(self, tuning: SearchTuning) -> bool:
        """Return whether the measured recall reaches the target."""
        return tuning.recall is not None and tuning.recall >= self.target

    def recall(self, rows: Int64) -> float:
        """Return the share of the exact neighbours found.

        A row that scores as high as the last exact neighbour counts as found: an index may choose among equal scores.
        Only rows that are not among the exact neighbours need to be scored.
        """
        wanted = self.ground_truth >= 0
        hit = np.zeros(rows.shape, np.bool_)
        step = max(1, _COMPARED // max(rows.shape[1] * self.ground_truth.shape[1], 1))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            exact = np.where(wanted[part], self.ground_truth[part], -2)
            hit[part] = (rows[part, :, None] == exact[:, None, :]).any(axis=2)
        doubtful = np.flatnonzero((~hit & (rows >= 0)).any(axis=1))
        if doubtful.size:
            bar = exact_scores(self.live, self.queries[doubtful], self.ground_truth[doubtful], self.metric)
            bar = np.where(wanted[doubtful], bar, np.inf).min(axis=1)
            found = exact_scores(self.live, self.queries[doubtful], rows[doubtful], self.metric)
            hit[doubtful] |= found >= (bar - _ROUNDING * np.abs(bar))[:, None]
        return float(np.minimum(hit.sum(axis=1), wanted.sum(axis=1)).sum() / max(wanted.sum(), 1))


class _Measurement:
    """Recall and cost of one index as functions of its search parameters; nothing is measured twice."""

    def __init__(self, gate: RecallGate, index: Any, labels: Int64, most: float) -> None:
        self._gate = gate
        self.most = most
        self._index = index
        self._k = gate.ground_truth.shape[1]
        self._searcher = Searcher(index, labels, gate.metric, dict.fromkeys(_names(index, self._k), 1))
        self._known: dict[tuple[tuple[str, int], ...], float] = {}

    def __call__(self, values: Mapping[str, int]) -> float:
        key = tuple(sorted(values.items()))
        if key not in self._known:
            full = completed(self._index, values)
            rows, _ = self._searcher.search(self._gate.queries, self._k, full)
            self._known[key] = self._gate.recall(rows)
        return self._known[key]

    def tuning(self, values: Mapping[str, int]) -> SearchTuning:
        return SearchTuning(completed(self._index, values), self(values), self.cost(values))

    def cost(self, values: Mapping[str, int]) -> float:
        """Return the effort of a search with ``values``."""
        return effort(self._index, values, self._k)

    def affordable(self, knob: Tunable, fixed: Mapping[str, int]) -> int:
        """Return the largest value of ``knob`` within the allowed effort, or its smallest value if none is."""
        low, high = knob.low, knob.high + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.cost({**fixed, knob.name: middle}) <= self.most:
                low = middle
            else:
                high = middle
        return low


def _names(index: Any, k: int) -> list[str]:
    return list(completed(index, {knob.name: 1 for knob in tunables(index, k)}))


def _cheapest(measure: _Measurement, knob: Tunable, fixed: Mapping[str, int], target: float) -> dict[str, int]:
    """Return ``fixed`` with the smallest value of ``knob`` that reaches ``target``; see :func:`cheapest`."""
    most = measure.affordable(knob, fixed)
    return {
        **fixed,
        knob.name: cheapest(lambda value: measure({**fixed, knob.name: value}), knob.low, most, target),
    }


def _cheapest_pair(measure: _Measurement, finder: Tunable, refiner: Tunable, target: float) -> SearchTuning:
    """Return the cheapest pair: for each refining factor, the smallest effort of the candidate finder."""
    found: list[SearchTuning] = []
    factor = refiner.low
    while factor <= refiner.high:
        if found and measure.cost({finder.name: finder.low, refiner.name: factor}) > measure.most:
            break
        found.append(measure.tuning(_cheapest(measure, finder, {refiner.name: factor}, target)))
        if found[-1].recall is not None and found[-1].recall >= target:
            measure.most = min(measure.most, found[-1].effort)  # costlier pairs need not be tried
        factor *= 2
    best = max(float(tuning.recall or 0.0) for tuning in found)
    bar = target if best >= target else 0.99 * best
    return min((v for v in found if float(v.recall or 0.0) >= bar), key=lambda v: v.effort)
