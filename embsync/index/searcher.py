"""Search for readers: returns rows and scores, and hides labels and dead vectors."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embsync.dtypes import Bool, Float32, Int64
from embsync.errors import StoreError, UsageError
from embsync.index.factory import metric_of
from embsync.index.files import read_index, reject_newer_faiss
from embsync.index.layers import completed, effort, is_exact, search_parameters
from embsync.index.library import faiss
from embsync.index.points import effort_at
from embsync.invocation import command, store_of
from embsync.manifest import IndexReport, OperatingPoint
from embsync.similarity import unit_rows

#: Relative difference between two float32 scores of one vector computed by different code paths of FAISS.
_ROUNDING = 1e-6
#: Hits fetched beyond ``k`` to replace dead ones: their expected number plus this many standard deviations; for 10 hits
#: and 5 % dead labels, 2 more. A query that finds more dead labels is repeated with a selector.
_SPARE_DEVIATIONS = 2
#: Factor by which a comparison is cheaper in a scan for many queries: 1.5 ns, in a graph 12 ns (32 dimensions).
_SHARED = 8
#: A search filtered to a share of the rows uses the effort for ``k / share**reach`` of all rows. Recall without a
#: filter, and filtered to half of 6,000 rows by their first value, at reach 1, 2 and 3: graph 0.985, 0.969, 0.987 and
#: 0.996; lists 0.952, 0.909, 0.926 and 0.951.
_REACH = {"graph": 2, "lists": 3}

# The parent's OpenMP threads do not exist in a forked child, where the first batch search would wait for them forever
# (observed with libgomp); so a forked child searches with one thread.
os.register_at_fork(after_in_child=lambda: faiss.omp_set_num_threads(1))


class Searcher:
    """A version's index, open for search; safe for use by several threads.

    Parameters
    ----------
    index : faiss.Index
    labels : (n,) ndarray of int64
        Label to row, -1 for a dead label.
    metric : str
        ``inner_product``, ``cosine`` or ``l2``.
    search : mapping, or sequence of OperatingPoint
        Default search parameters: fixed, or derived from the number of neighbours requested.
    """

    def __init__(
        self, index: Any, labels: Int64, metric: str, search: Mapping[str, int] | Sequence[OperatingPoint]
    ) -> None:
        self._index = index
        self._width = int(index.d)
        # FAISS returns label -1 for a missing hit; as an index, -1 is the last position, which holds row -1.
        self._rows = np.append(labels, np.int64(-1))
        self._metric = metric
        self._similarity = metric_of(metric) == faiss.METRIC_INNER_PRODUCT
        self._exact = is_exact(index)
        fixed = [OperatingPoint(int(index.ntotal), None, dict(search))] if isinstance(search, Mapping) else search
        self._points = fixed
        self._defaults = fixed[0].search
        living = labels >= 0
        self.live = int(np.count_nonzero(living))
        self._selector = None if self.live == labels.size else _only(living)
        self._dead_share = 1.0 - self.live / max(labels.size, 1)
        self._parameters = search_parameters(index, self._defaults)

    @classmethod
    def open(cls, path: str | Path, labels: Int64, report: IndexReport, rows_live: int | None = None) -> Searcher:
        """Open the index at ``path`` by mapping it, which takes milliseconds at any size.

        Parameters
        ----------
        path : path
            ``index.faiss`` of a version; the caller verifies its hash.
        labels : (n,) ndarray of int64
            ``index_rows.npy`` of the same version.
        report : IndexReport
            The manifest's ``index`` object of the same version.
        rows_live : int, optional
            Live rows of the version, checked against the labels.

        Raises
        ------
        StoreError
            The index is missing or damaged, was written by a newer FAISS, or does not match the labels and the report.
        """
        reject_newer_faiss(report.faiss, Path(path))
        index = read_index(Path(path), mapped=True)
        _reject_mismatch(Path(path), "labels", int(index.ntotal), labels.size)
        _reject_mismatch(Path(path), "labels", report.labels, labels.size)
        _reject_mismatch(Path(path), "FAISS metric", int(index.metric_type), metric_of(report.metric))
        searcher = cls(index, labels, report.metric, report.points)
        if rows_live is not None:
            _reject_mismatch(Path(path), "live rows", searcher.live, rows_live)
        return searcher

    @property
    def width(self) -> int:
        """Values in a query, k."""
        return self._width

    def comparisons(self, k: int) -> float:
        """Return about how many vectors a search for ``k`` compares with each query; infinity beyond what was measured.

        This is for searches without a filter, with the version's search parameters.
        """
        return next((cost for most, cost in self._costs if k <= most), math.inf)

    @cached_property
    def _costs(self) -> list[tuple[int, float]]:
        return [(point.k, effort(self._index, point.search, point.k)) for point in self._points]

    def search(
        self,
        queries: Float32,
        k: int,
        parameters: Mapping[str, int] | None = None,
        allowed: Bool | None = None,
    ) -> tuple[Int64, Float32]:
        """Return rows and scores of the best ``k`` live rows of each query.

        Parameters
        ----------
        queries : (q, width) ndarray of float32
        k : int
            Number of neighbours, limited to the number of live rows.
        parameters : mapping, optional
            Override the version's search parameters, such as ``{"efSearch": 200}``; limited to the size of the index.
            By default, effort depends on ``k`` and on the share of the live rows that may be found.
        allowed : (rows,) ndarray of bool, optional
            Rows of the version that may be found.

        Returns
        -------
        rows : (q, min(k, live)) ndarray of int64
            Best first, equal scores by ascending row; -1 for a hit that the index did not find.
        scores : (q, min(k, live)) ndarray of float32
            Inner product, cosine, or minus the squared distance; -inf for a missing hit.

        Raises
        ------
        UsageError
            Queries have another width or dtype, k is below 1, or the index does not take a parameter.
        """
        if queries.ndim != 2 or queries.shape[1] != self._width or queries.dtype != np.float32:
            raise UsageError(
                "queries have the wrong form",
                found=f"{queries.dtype} {queries.shape}",
                expected=f"float32 (queries, {self._width})",
            )
        if k < 1:
            raise UsageError("k must be at least 1", found=k)
        labels = None if allowed is None else self._allowed_labels(allowed)
        findable = self.live if labels is None else int(np.count_nonzero(labels))
        k = min(k, findable)
        if k == 0 or queries.shape[0] == 0:
            return np.empty((queries.shape[0], k), np.int64), np.empty((queries.shape[0], k), np.float32)
        asked = unit_rows(queries) if self._metric == "cosine" else queries
        given = parameters or {}
        if labels is not None or (self._exact and self._selector is not None):
            selector = self._selector if labels is None else _only(labels)
            return self._find(asked, k, self._override(given, selector, k, findable), findable)
        default = parameters is None and k <= self._points[0].k
        chosen = self._parameters if default else self._override(given, None, k, findable)
        if self._selector is None:
            return self._find(asked, k, chosen, findable)
        return self._find_live(asked, k, chosen, given)

    def _allowed_labels(self, allowed: Bool) -> Bool:
        return np.append(allowed, False)[self._rows[:-1]]  # row -1, of a dead label, is the last

    def _find(self, asked: Float32, k: int, parameters: Any, findable: int) -> tuple[Int64, Float32]:
        # One more hit than requested shows whether a tie continues beyond the last one.
        rows, scores, _ = self._hits(asked, min(k + 1, findable) if self._exact else k, parameters)
        if np.count_nonzero(scores[:, 1:] == scores[:, :-1]):
            return self._order_ties(asked, rows, scores, k, parameters)
        return rows[:, :k], scores[:, :k]

    def _find_live(self, asked: Float32, k: int, chosen: Any, parameters: Mapping[str, int]) -> tuple[Int64, Float32]:
        """Return what a search with a selector of the live labels finds, which costs 8 to 23 % more in a graph.

        A few more hits than ``k`` are fetched, and dead ones dropped: a selector does not change which nodes of a graph
        are visited. Only queries left with fewer than ``k`` hits are repeated with the selector.
        """
        dead = k * self._dead_share
        fetched = min(k + math.ceil(dead + _SPARE_DEVIATIONS * math.sqrt(dead)), int(self._index.ntotal))
        rows, scores, labels = self._hits(asked, fetched, chosen)
        missing = rows < 0
        if np.count_nonzero(missing):
            holed = np.flatnonzero(missing[:, :k].any(axis=1))
            order = np.argsort(missing[holed], axis=1, kind="stable")
            rows[holed], scores[holed] = rows[holed[:, None], order], scores[holed[:, None], order]
            short = holed[(rows[holed, k - 1] < 0) & (labels[holed, -1] >= 0)]  # -1: the index has no more
            if short.size:
                again = self._override(parameters, self._selector, k, self.live)
                rows[short, :k], scores[short, :k], _ = self._hits(asked[short], k, again)
        if np.count_nonzero(scores[:, 1:] == scores[:, :-1]):
            rows, scores = _by_row(rows, scores)
        return rows[:, :k], scores[:, :k]

    def _hits(self, asked: Float32, fetched: int, parameters: Any) -> tuple[Int64, Float32, Int64]:
        """Return rows, scores and labels as the index finds them; row -1 and -inf for a missing hit or a dead label."""
        shape = len(asked), fetched
        scores, labels = np.empty(shape, np.float32), np.empty(shape, np.int64)
        queries = np.ascontiguousarray(asked)
        to = faiss.swig_ptr
        # FAISS's function itself: its wrapper in Python takes 4 µs more, for checks that were made above.
        self._index.search_c(shape[0], to(queries), fetched, to(scores), to(labels), parameters)
        if not self._similarity:
            np.negative(scores, out=scores)
        rows = self._rows[labels]
        missing = rows < 0
        if np.count_nonzero(missing):  # for one query, a microsecond faster than any() or min()
            scores[missing] = -np.inf
        return rows, scores, labels

    def _order_ties(
        self, asked: Float32, rows: Int64, scores: Float32, k: int, parameters: Any
    ) -> tuple[Int64, Float32]:
        """Order equal scores by row; if a tie of an exact index extends beyond the last hit, fetch all of it."""
        rows, scores = _by_row(rows, scores)
        if rows.shape[1] > k:
            open_ended = (scores[:, k - 1] == scores[:, k]) & (rows[:, k] >= 0)
            for query in np.flatnonzero(open_ended):
                all_rows, all_scores = self._all_ties(asked[query : query + 1], k, parameters)
                rows[query, : all_rows.size], scores[query, : all_rows.size] = all_rows, all_scores
        return rows[:, :k], scores[:, :k]

    def _all_ties(self, asked: Float32, k: int, parameters: Any) -> tuple[Int64, Float32]:
        found, _ = self._index.search(asked, k, params=parameters)
        last = float(found[0, -1])
        slack = _ROUNDING * max(abs(last), float(np.abs(asked).max()), 1e-30)
        radius = last - slack if self._similarity else last + slack
        _, found, labels = self._index.range_search(asked, radius, params=parameters)
        scores = found if self._similarity else -found
        rows = self._rows[labels]
        best = np.lexsort((rows, -scores))[:k]
        return rows[best], scores[best]

    def _override(self, parameters: Mapping[str, int], selector: Any, k: int, findable: int) -> Any:
        unknown = set(parameters) - set(self._defaults)
        if unknown:
            raise UsageError(
                "unknown search parameter",
                found=", ".join(sorted(unknown)),
                expected=", ".join(self._defaults) or "none: this index is exact",
            )
        given = {name: self._useful(name, value, k) for name, value in parameters.items()}
        return search_parameters(self._index, {**self._effort(k, findable), **given}, selector)

    def _effort(self, k: int, findable: int) -> dict[str, int]:
        """Return the search parameters for ``k`` of ``findable`` rows.

        The best ``k`` of a random share of the rows are about as far away as the best ``k / share`` of all rows; those
        of a share that is correlated with the vectors are farther away: see ``_REACH``.
        """
        share, reach = findable / self.live, _REACH["lists" if "nprobe" in self._defaults else "graph"]
        chosen = effort_at(self._points, k if share == 1.0 else math.ceil(k / share**reach))
        if chosen is self._defaults:
            return chosen
        return completed(self._index, {name: self._useful(name, value, k) for name, value in chosen.items()})

    def costs_a_scan(self, k: int, findable: int, queries: int = 1) -> bool:
        """Return whether a search for ``k`` of ``findable`` rows costs as much as scanning all of them.

        A single query costs as much if it compares as many vectors. For many queries, a scan reads them once, in order.
        """
        if not self._defaults or (findable == self.live and k <= self._points[0].k):
            return False
        return effort(self._index, self._effort(k, findable), k) * min(queries, _SHARED) >= findable

    def _useful(self, name: str, value: object, k: int) -> int:
        """Return a search parameter, limited to a full search: FAISS allocates memory for any value."""
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise UsageError("not a search parameter", found=f"{name} {value!r}", expected="an integer of 1 or more")
        total = int(self._index.ntotal)
        return min(int(value), -(-total // k) if name == "k_factor_rf" else total)


def _by_row(rows: Int64, scores: Float32) -> tuple[Int64, Float32]:
    """Return hits of each query, best first, equal scores by ascending row."""
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _only(allowed: Bool) -> Any:
    """Return a selector of the labels where ``allowed`` is true, one bit per label."""
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _reject_mismatch(path: Path, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise StoreError(
            f"the index does not belong to this version: {what}",
            where=path,
            found=found,
            expected=expected,
            hint=command("verify", purpose="to see what is damaged", store=store_of(path)),
        )
