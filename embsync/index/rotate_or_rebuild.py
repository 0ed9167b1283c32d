"""Deciding by measurement whether the index is reused, rotated or rebuilt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from embsync.config import IndexConfig
from embsync.dtypes import Float32, Int64
from embsync.errors import StoreError, UsageError
from embsync.index.build import build
from embsync.index.built import Built, ParentIndex
from embsync.index.factory import densify, resolve_factory
from embsync.index.files import faiss_sentence, read_index, reject_damage, reject_newer_faiss
from embsync.index.gate import RecallGate, SearchTuning
from embsync.index.ground_truth import exact_neighbours
from embsync.index.layers import effort, is_exact
from embsync.index.library import faiss
from embsync.index.live_rows import LiveVectors, live_vectors
from embsync.index.rotate import has_graph, obstacle, rotate, unchanged
from embsync.index.threads import faiss_threads
from embsync.manifest import Action, IndexReport, OperatingPoint

#: Queries of the gates after the first: 200 with 100 neighbours each measure more neighbours than its 1,000 with 10.
_DEEPER_QUERIES = 200


def refresh(
    vectors: Float32,
    live: Int64,
    queries: Float32,
    ground_truth: Int64 | None,
    config: IndexConfig,
    threads: int = 0,
    previous: ParentIndex | None = None,
) -> Built:
    """Return the index of a version: the parent's, rotated, if its measured recall allows; otherwise a new one.

    Parameters
    ----------
    vectors : (rows, k) ndarray of float32, C order
        All rows of the items, possibly a read-only memory map.
    live : (n,) ndarray of int64
        Positions of the live rows, ascending.
    queries : (q, k) ndarray of float32
        Sampled queries for the recall gate.
    ground_truth : (q, >= the first recall_at) ndarray of int64 or None
        Rows of their exact neighbours by the store's metric, best first; None to compute them here, in blocks.
    config : IndexConfig
    threads : int
        0 for all cores. With 1, the same input gives the same file.
    previous : ParentIndex, optional
        The parent's index. If it is missing or damaged, the index is rebuilt, ``reason`` says so, and ``damage`` holds
        the error.

    Raises
    ------
    UsageError
        FAISS rejects the factory string or cannot train it on these vectors, or an array has the wrong shape or dtype.
    StoreError
        There is not enough memory.
    """
    side = live_vectors(vectors, live, config.metric)
    with faiss_threads(threads):
        try:
            return _Refresh(side, queries, ground_truth, config, previous).run()
        except MemoryError as error:
            raise StoreError(
                "out of memory while indexing",
                found=f"{side.count} rows of {side.width} values",
                hint="a smaller index, such as 'HNSW32_SQ8' or 'IVF4096,SQ8'",
            ) from error


class _Rebuild(Exception):
    """The parent's index cannot be kept; the message says why."""

    def __init__(self, reason: str, damage: StoreError | None = None) -> None:
        super().__init__(reason)
        self.damage = damage


@dataclass
class _Refresh:
    """One run of :func:`refresh`."""

    side: LiveVectors
    queries: Float32
    ground_truth: Int64 | None
    config: IndexConfig
    previous: ParentIndex | None
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> Built:
        before = None if self.previous is None else self.previous.report.factory
        self.factory = resolve_factory(self.config.factory, self.side.count, before)
        with self._timed("truth"):
            self.gate = _gate(self.side, self.queries, self.ground_truth, self.config)
        damage = None
        try:
            return self._keep()
        except _Rebuild as decision:
            reason, damage = str(decision), decision.damage
        with self._timed("build"):
            index = build(self.factory, self.side, self.config.metric)
        tuning = self._judge(index, self.side.rows)
        built = self._built(index, self.side.rows, tuning, "rebuilt", reason)
        return replace(built, damage=damage)

    def _keep(self) -> Built:
        """Return the parent's index, rotated or reused, or raise _Rebuild."""
        previous = self._eligible()
        with self._timed("load"):
            index = _load(previous)
        moved = _moved(previous, self.side)
        self._reject_dead(index, moved)
        with self._timed("rotate"):
            same = _same(index, self.side, moved, previous)
            if not same:
                self._reject_hopeless(previous.report)
            labels = moved if same else _rotated(index, self.side, moved)
        # A rebuild would give the same index, so there is no cheaper one to compare its effort with.
        as_rebuilt = same and previous.report.rotations == 0
        tuning = self._judge(index, labels, None if as_rebuilt else previous)
        complaint = None if as_rebuilt else self._complaint(index, tuning, previous)
        if complaint is not None:
            raise _Rebuild(complaint)
        if same:
            return self._built(index, labels, tuning, "reused", "the index already holds these vectors")
        return self._built(index, labels, tuning, "rotated", _achieved(tuning))

    def _eligible(self) -> ParentIndex:
        """Return the parent's index if the configuration allows keeping it, or raise _Rebuild."""
        previous = self.previous
        if previous is None:
            raise _Rebuild("there is no previous index")
        if self.config.refresh == "rebuild":
            raise _Rebuild("index.refresh is rebuild")
        report = previous.report
        if report.factory != self.factory:
            raise _Rebuild(f"the factory changed from {report.factory} to {self.factory}")
        if report.metric != self.config.metric:
            raise _Rebuild(f"the metric changed from {report.metric} to {self.config.metric}")
        return previous

    def _reject_dead(self, index: Any, moved: Int64) -> None:
        """Raise _Rebuild if too many labels of a graph would be dead."""
        if not has_graph(index) or self.config.refresh == "rotate":
            return
        living = int(np.count_nonzero(moved >= 0))
        share = (moved.size - living) / (moved.size + self.side.count - living)
        if share > self.config.compact_dead_fraction:
            raise _Rebuild(f"{share:.3f} of the labels would be dead, more than {self.config.compact_dead_fraction}")

    def _reject_hopeless(self, last: IndexReport) -> None:
        """Raise _Rebuild if the last rebuilt index already missed the target: rotating it would gain nothing.

        If it reached its target, it may reach a higher one too: its recall was measured at the lowest effort.
        """
        reached = last.recall_at_10
        missed = reached is not None and reached < min(last.target_recall, self.config.target_recall)
        if last.rotations == 0 and missed:
            raise _Rebuild(
                f"the last rebuild missed recall {last.target_recall} with {reached:.3f}: "
                "a rotated index is unlikely to reach it"
            )

    def _judge(self, index: Any, labels: Int64, previous: ParentIndex | None = None) -> SearchTuning:
        with self._timed("gate"):
            if previous is None:
                return self.gate.judge(index, labels)
            return self.gate.judge(index, labels, self._most(index, previous))

    def _most(self, index: Any, previous: ParentIndex) -> float:
        """Return the largest effort allowed for a kept index."""
        last = previous.report.rebuilt_search or previous.report.search
        return self.config.max_search_cost_growth * effort(index, last, self.gate.ground_truth.shape[1])

    def _complaint(self, index: Any, tuning: SearchTuning, previous: ParentIndex) -> str | None:
        """Return why the kept index must not be published, or None."""
        if tuning.recall is None:
            return None if is_exact(index) else "there were no queries to measure a rotated index with"
        if not self.gate.reached(tuning):
            return (
                f"rotated, {_achieved(tuning)}, below {self.config.target_recall}, was the best within "
                f"{self.config.max_search_cost_growth:g} times the last rebuild's effort"
            )
        if tuning.effort > self._most(index, previous):
            return (
                f"rotated, {_achieved(tuning)} cost more than {self.config.max_search_cost_growth:g} times "
                "the last rebuild's effort"
            )
        return None

    def _built(self, index: Any, labels: Int64, tuning: SearchTuning, action: Action, reason: str) -> Built:
        last = self.previous.report if self.previous is not None and action != "rebuilt" else None
        as_rebuilt = last is None or (action == "reused" and last.rotations == 0)
        report = IndexReport(
            factory=self.factory,
            metric=self.config.metric,
            action=action,
            reason=reason,
            recall_at_10=tuning.recall,
            target_recall=self.config.target_recall,
            search=tuning.search,
            labels=int(index.ntotal),
            dead=int(np.count_nonzero(labels < 0)),
            faiss=str(faiss.__version__),
            build=densify(index),
            rebuilt_search=tuning.search if last is None or as_rebuilt else last.rebuilt_search or last.search,
            rotations=0 if last is None else last.rotations + (action == "rotated"),
            operating_points=self._points(index, labels, tuning),
        )
        return Built(labels, report, index, self.seconds)

    def _points(self, index: Any, labels: Int64, first: SearchTuning) -> list[OperatingPoint]:
        depths = _depths(self.side, self.config)
        if is_exact(index):  # the gate's result is the same at any depth
            return [OperatingPoint(depth, first.recall, first.search) for depth in depths]
        points = [OperatingPoint(depths[0], first.recall, first.search)]
        with self._timed("gate"):
            for depth in depths[1:]:
                tuning = _deeper_gate(self.side, self.queries, depth, self.config).judge(index, labels)
                points.append(OperatingPoint(depth, tuning.recall, tuning.search))
        return points

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


def _depths(side: LiveVectors, config: IndexConfig) -> list[int]:
    """Return each ``recall_at``, limited to the number of rows, ascending."""
    return sorted({min(depth, side.count) for depth in config.depths})


def _gate(side: LiveVectors, queries: Float32, ground_truth: Int64 | None, config: IndexConfig) -> RecallGate:
    """Return the gate at the first ``recall_at``, which decides whether an index is kept."""
    if queries.ndim != 2 or queries.shape[1] != side.width or queries.dtype != np.float32:
        raise UsageError(
            "queries have the wrong form",
            found=f"{queries.dtype} {queries.shape}",
            expected=f"float32 (queries, {side.width})",
        )
    k = _depths(side, config)[0]
    if ground_truth is None:
        ground_truth = exact_neighbours(side, queries, k, config.metric)
    elif ground_truth.shape[0] != queries.shape[0] or ground_truth.shape[1] < k:
        raise UsageError(
            "exact neighbours have the wrong form",
            found=ground_truth.shape,
            expected=f"({queries.shape[0]}, {k} or more)",
        )
    return RecallGate(side, np.ascontiguousarray(queries), ground_truth[:, :k], config.metric, config.target_recall)


def _deeper_gate(side: LiveVectors, queries: Float32, depth: int, config: IndexConfig) -> RecallGate:
    """Return the gate at a further ``recall_at``, which uses fewer queries."""
    some = np.ascontiguousarray(queries[:: max(1, len(queries) // _DEEPER_QUERIES)])
    ground_truth = exact_neighbours(side, some, depth, config.metric)
    return RecallGate(side, some, ground_truth, config.metric, config.target_recall)


def _load(previous: ParentIndex) -> Any:
    """Return the parent's index, verified and ready to grow, or raise _Rebuild."""
    try:
        if previous.damage is not None:
            raise previous.damage
        reject_newer_faiss(previous.report.faiss, previous.path)
        reject_damage(previous.path, previous.sha256)
        index = read_index(previous.path, mapped=False)
    except StoreError as error:
        raise _unusable(error) from None
    if index.ntotal != previous.labels.size:
        raise _unusable(
            StoreError(
                "labels and index differ in number",
                where=previous.path,
                found=index.ntotal,
                expected=previous.labels.size,
            )
        )
    reason = obstacle(index)
    if reason is not None:
        raise _Rebuild(reason)
    densify(index)
    return index


def _unusable(error: StoreError) -> _Rebuild:
    return _Rebuild(f"the previous index cannot be used: {error.what}", error)


def _moved(previous: ParentIndex, side: LiveVectors) -> Int64:
    """Return the live row of each label of the parent's index, -1 for a dead label."""
    living = np.flatnonzero(previous.labels >= 0)
    if living.size and int(previous.labels.max()) >= previous.row_map.size:
        raise _unusable(
            StoreError(
                "labels beyond the parent's rows",
                where=previous.path,
                found=int(previous.labels.max()),
                expected=f"below {previous.row_map.size}",
            )
        )
    moved = np.full(previous.labels.size, -1, np.int64)
    moved[living] = previous.row_map[previous.labels[living]]
    alive, taken = (np.zeros(side.vectors.shape[0], np.bool_) for _ in range(2))
    rows = moved[moved >= 0]
    if rows.size and int(rows.max()) >= alive.size:
        raise _unusable(
            StoreError(
                "rows beyond the version's", where=previous.path, found=int(rows.max()), expected=f"below {alive.size}"
            )
        )
    alive[side.rows] = True
    taken[rows] = True
    if int(np.count_nonzero(taken)) != rows.size or not alive[rows].all():
        raise _unusable(StoreError("two labels for one row, or a label of a row that is not live", where=previous.path))
    return moved


def _same(index: Any, side: LiveVectors, moved: Int64, previous: ParentIndex) -> bool:
    """Return whether the index already holds every live row with its current vector."""
    living = moved >= 0
    if int(np.count_nonzero(living)) != side.count or np.any((previous.labels >= 0) != living):
        return False
    if previous.vectors is None or previous.vectors.shape[1] != side.width:
        return unchanged(index, side, moved) or False
    old, new = previous.labels[living], moved[living]
    return all(
        np.array_equal(previous.vectors[old[start : start + side.step]], side.vectors[new[start : start + side.step]])
        for start in range(0, new.size, side.step)
    )


def _rotated(index: Any, side: LiveVectors, moved: Int64) -> Int64:
    try:
        return rotate(index, side, moved)
    except RuntimeError as error:
        raise _Rebuild(f"the previous index cannot be rotated: {faiss_sentence(error)}") from None


def _achieved(tuning: SearchTuning) -> str:
    """Return the figures of a tuning: ``recall 0.971 at efSearch 48``."""
    if tuning.recall is None:
        return "recall not measured"
    at = ", ".join(f"{name} {value}" for name, value in tuning.search.items())
    return f"recall {tuning.recall:.3f}" + (f" at {at}" if at else "")
