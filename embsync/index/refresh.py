"""Deciding, by measurement, what becomes of the index: rebuilt, rotated or reused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embsync.config import IndexConfig
from embsync.errors import UsageError
from embsync.index.build import build
from embsync.index.factory import EF_CONSTRUCTION, resolve_factory
from embsync.index.gate import RecallGate, Verdict
from embsync.index.library import faiss
from embsync.index.live import LiveVectors, live_vectors
from embsync.index.report import Built, IndexReport, Previous
from embsync.index.structure import layers
from embsync.index.threads import faiss_threads
from embsync.index.truth import exact_neighbours

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


def refresh(
    vectors: Float32,
    live: Int64,
    queries: Float32,
    truth: Int64 | None,
    config: IndexConfig,
    threads: int = 0,
    previous: Previous | None = None,
) -> Built:
    """Return the index of a version.

    Parameters
    ----------
    vectors : (rows, k) ndarray of float32, C order
        All rows of the items, possibly a read-only memory map.
    live : (n,) ndarray of int64
        Positions of the live rows, ascending.
    queries : (q, k) ndarray of float32
        Sampled queries for the recall gate.
    truth : (q, >= recall_at) ndarray of int64 or None
        Rows of their exact neighbours by the store's metric, best first; None: computed here, in blocks.
    config : IndexConfig
    threads : int
        0: all cores. With 1 the same input gives the same file.
    previous : Previous, optional
        The parent's index.

    Raises
    ------
    UsageError
        A factory string that FAISS rejects or cannot train on these vectors; arrays of the wrong form.
    """
    side = live_vectors(vectors, live, config.metric)
    if queries.ndim != 2 or queries.shape[1] != side.width or queries.dtype != np.float32:
        raise UsageError("queries have the wrong form", found=f"{queries.dtype} {queries.shape}",
                         expected=f"float32 (queries, {side.width})")
    seconds: dict[str, float] = {}
    with faiss_threads(threads):
        with _timed(seconds, "truth"):
            gate = _gate(side, queries, truth, config)
        factory = resolve_factory(config.factory, side.count)
        with _timed(seconds, "build"):
            index = build(factory, side, config.metric)
        with _timed(seconds, "gate"):
            verdict = gate.judge(index, side.rows)
    reason = "first version" if previous is None else "every version is rebuilt"
    return Built(side.rows, _report(config, factory, index, verdict, reason), index, seconds)


def _gate(side: LiveVectors, queries: Float32, truth: Int64 | None, config: IndexConfig) -> RecallGate:
    k = min(config.recall_at, side.count)
    if truth is None:
        truth = exact_neighbours(side, queries, k, config.metric)
    elif truth.shape[0] != queries.shape[0] or truth.shape[1] < k:
        raise UsageError("exact neighbours have the wrong form", found=truth.shape,
                         expected=f"({queries.shape[0]}, {k} or more)")
    return RecallGate(side, np.ascontiguousarray(queries), truth[:, :k], config.metric, config.target_recall)


def _report(config: IndexConfig, factory: str, index: Any, verdict: Verdict, reason: str) -> IndexReport:
    dense = any(isinstance(layer, faiss.IndexHNSW) for layer in layers(index))
    return IndexReport(
        factory=factory, metric=config.metric, action="rebuilt", reason=reason, recall_at_10=verdict.recall,
        target_recall=config.target_recall, search=verdict.search, labels=int(index.ntotal), dead=0,
        faiss=str(faiss.__version__), rebuilt_search=verdict.search, rotations=0,
        build={"efConstruction": EF_CONSTRUCTION, "keep_max_size_level0": 1} if dense else {},
    )


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - start
