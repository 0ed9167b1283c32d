"""The sampled users' ten nearest items, in the space and in the snapshot: both from one scan of the stable rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embsync.alignment.two_pass import Alignment
from embsync.dtypes import Array, Float32, Float64, Int64, RowNumbers
from embsync.similarity import TOP_K, Candidates, Metric, RunningTopK, TopK, agreeing, agreement, reaching

#: Unit roundoff of float32 and float64, and the smallest positive float32.
_U32, _U64, _TINY = 2.0**-24, 2.0**-53, 2.0**-149
#: Length of a row up to which no product with a query of length 2 overflows, nor a sum of such products.
_LARGEST = 1e37
#: Terms left out of the bound, such as squares of roundoff, are below a hundredth of it.
_SLACK = 1.01
#: If the maps change scores by at most this share of a query's length times a typical vector's, few rows are within the
#: bound. It is the tolerance of equal scores (:class:`embsync.similarity.TopK`); goodbooks has 1.4e-11.
_NEGLIGIBLE = 4e-6
#: Pairs whose raw scores are computed at once, some 16 MiB at 128 values.
_PAIRS = 8192


@dataclass(frozen=True)
class ScoreBound:
    """How far a score in the space, computed in float32, can be from the raw score of the same pair.

    For a raw query q and a raw item t with the maps A_W and A_T, let q' and t' be the float32 rows of k values that are
    written, and s the float32 product q' t'. Then

        |s - q t| <= relative |q'| |t'| + absolute,

    with the unit roundoffs u = 2^-24 and v = 2^-53, E = A_W A_T^T - I and ``raw`` >= |t|, as the sum of four parts
    (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1, for the first):

    - the product in float32, in any order of the sum: k u |q'| |t'|, and k times the smallest float32 by underflow;
    - the rounding of both rows to float32, by at most u of the length each, and of the comparison: 4 u |q'| |t'|;
    - the maps: q A_W A_T^T t - q t = q E t, at most |q E| |t|;
    - the mapping in float64: at most e v |q| |A_W|_F |t'| and e v |q'| |t| |A_T|_F, and e v |q| |t| of the raw score.

    Where the product could overflow float32, the bound is infinite.

    Attributes
    ----------
    relative : float
    absolute : (q,) float64
    """

    relative: float
    absolute: Float64

    @classmethod
    def of(cls, queries: Array, found: Alignment) -> ScoreBound:
        """Return the bound for raw queries (q, e) and the items of an alignment."""
        items, asking = found.items, found.queries
        e, k = items.map.shape
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite bound proves nothing
            q = queries.astype(np.float64)
            stable = np.linalg.norm(q @ asking.map, axis=1)
            lengths = np.linalg.norm(q, axis=1)
            raw = np.sqrt(np.trace(items.sums.gram))  # at least the length of the longest row
            longest = np.sqrt(max(np.trace(items.map.T @ items.sums.gram @ items.map), 0.0))
            maps = np.linalg.norm((q @ asking.map) @ items.map.T - q, axis=1) * raw
            mapping = np.linalg.norm(asking.map) * lengths * longest + np.linalg.norm(items.map) * stable * raw
            underflow = np.sqrt(k) * _TINY * (stable + longest)
            absolute = maps + e * _U64 * (mapping + lengths * raw) + underflow
            absolute[~(np.abs(absolute) < np.inf) | (longest > _LARGEST)] = np.inf
        return cls(_SLACK * (k + 4) * _U32, _SLACK * absolute)

    def negligible(self, lengths: Float64, typical: float) -> bool:
        """Whether the maps change no score of queries of these lengths beyond rounding."""
        return bool((self.absolute <= _NEGLIGIBLE * lengths * typical).all())


class CertifiedTopK(RunningTopK):
    """The k best stable rows of each query, and the ten best raw ones of the first queries, from a scan of stable rows.

    A row among the ten best by raw score has a computed score of at least the k-th best one, k >= 10, less twice the
    bound: otherwise k rows would have a higher raw score. Only rows that reach this score are scored again with the raw
    vectors, in float64, so the ten best of them are the exact ten best of all rows.

    Parameters
    ----------
    queries : (q, d) ndarray
        Stable vectors.
    raw : (r, e) ndarray
        Raw vectors of the first r queries.
    bound : ScoreBound
        The bound for the raw queries.
    k : int
        10 or more.
    """

    def __init__(self, queries: Array, raw: Array, bound: ScoreBound, k: int) -> None:
        super().__init__(queries, k)
        self._raw = raw.astype(np.float64)
        self._bound = bound
        self._exact = Candidates(len(raw), TOP_K)
        self._refuted = np.zeros(len(raw), np.bool_)

    def observe_mapped(self, rows: RowNumbers, block: Array, stable: Float32) -> None:
        """Add raw rows (b, e) and their stable rows (b, d), whose row numbers are ``rows`` (b,)."""
        for part, columns, scores in self._scored(stable):
            floor = self._floor_of(scores, self._found.floor[part])
            bound = self._bounds(part)  # after the floor, so that it holds for the rows that the floor comes from
            query, column = reaching(scores, floor - np.float32(2.0) * bound)
            score, numbers = scores[query, column], rows[columns][column]
            found = score >= floor[query]
            self._found.raise_floor(part, floor)
            self._found.add(part.start + query[found], numbers[found], score[found])
            sampled = slice(int(np.searchsorted(query, len(self._raw) - part.start)))
            query, column, score = query[sampled], column[sampled], score[sampled]
            self._rescore(part.start + query, numbers[sampled], block[columns], column, score, bound[query])

    def agreement(self) -> float | None:
        """Return the share of the first queries whose ten best rows are the same raw and stable, up to ties.

        A query also disagrees if one of its scores changed by more than the bound, which indicates a fault.
        """
        count = len(self._raw)
        if count == 0:
            return None
        return float((agreeing(self.raw(), self.result().part(0, count, TOP_K)) & ~self._refuted).mean())

    def raw(self) -> TopK:
        """Return the ten best raw rows of the first queries."""
        rows, scores = self._exact.best()
        return TopK(rows, scores * self._scale[: len(rows), None], np.zeros(len(rows)))

    def _rescore(
        self, query: Int64, rows: RowNumbers, block: Array, column: Int64, score: Float32, bound: Float32
    ) -> None:
        """Add the raw scores of pairs, and compare them with those in the space."""
        for start in range(0, len(query), _PAIRS):
            part = slice(start, start + _PAIRS)
            asked = query[part]
            exact = np.einsum("ij,ij->i", self._raw[asked], block[column[part]].astype(np.float64)) / self._scale[asked]
            changed = ~(np.abs(score[part] - exact) <= bound[part])
            self._refuted[asked[changed]] = True
            here = np.flatnonzero(exact >= self._exact.floor[asked])
            self._exact.add(asked[here], rows[part][here], exact[here].astype(np.float32))

    def _bounds(self, part: slice) -> Float32:
        """Return the bound of each query for the rows so far, on the scale of its scores; 0 without a raw vector."""
        absolute = self._bound.absolute[part]
        lengths, scale = self._lengths[part], self._scale[part]
        bound = np.zeros(len(lengths), np.float32)
        known = slice(len(absolute))
        largest = self._bound.relative * lengths[known] * np.sqrt(self._largest)
        bound[known] = (largest + absolute) / scale[known] + _SLACK * self._queries.shape[1] * _TINY
        return np.nextafter(bound, np.float32(np.inf))


class SampledNeighbours:
    """The nearest items of sampled users, raw and stable, collected while the items are read.

    One scan of the stable rows finds both (:class:`CertifiedTopK`) if the scores are inner products and the maps keep
    them within rounding. Otherwise, as when a space is narrower than the model, the raw rows are scanned, too.

    Parameters
    ----------
    found : Alignment
    stable : (s, d) ndarray
        Stable vectors of the sampled users.
    others : (n, d) ndarray
        Further stable vectors whose neighbours are wanted.
    others_raw : (m, e) ndarray
        Raw vectors whose neighbours among the raw items are wanted.
    k : int
        Stable neighbours, 10 or more.
    metric : {"inner_product", "cosine", "l2"}
    """

    def __init__(
        self, found: Alignment, stable: Array, others: Array, others_raw: Array, k: int, metric: Metric
    ) -> None:
        raw = found.queries.sums.sample
        self._counts = len(raw), len(raw) + len(others)
        bound = ScoreBound.of(raw, found)
        self._raw: RunningTopK | None = None
        self._found: RunningTopK
        lengths = np.linalg.norm(stable.astype(np.float64), axis=1)
        if metric == "inner_product" and bound.negligible(lengths, found.items.typical_length):
            mapped = others_raw.astype(np.float64) @ found.queries.map
            self._found = CertifiedTopK(np.concatenate([stable, others, mapped]), raw, bound, k)
        else:
            self._found = RunningTopK(np.concatenate([stable, others]), k, metric)
            self._raw = RunningTopK(np.concatenate([raw, others_raw]), TOP_K, metric)

    def observe(self, rows: RowNumbers, block: Array, stable: Float32) -> None:
        """Add item rows, raw (b, e) and stable (b, d), with row numbers ``rows``; called by worker threads."""
        if isinstance(self._found, CertifiedTopK):
            self._found.observe_mapped(rows, block, stable)
        else:
            self._found.observe(rows, stable)
        if self._raw is not None:
            self._raw.observe(rows, block)

    def sampled(self) -> TopK:
        """Return the stable neighbours of the sampled users."""
        return self._found.result().part(0, self._counts[0])

    def others(self) -> TopK:
        """Return the stable neighbours of the further vectors."""
        return self._found.result().part(*self._counts)

    def others_raw(self) -> TopK:
        """Return the raw neighbours of the further raw vectors, the ten best of each."""
        if self._raw is not None:
            return self._raw.result().part(self._counts[0], len(self._raw))
        return self._found.result().part(self._counts[1], len(self._found), TOP_K)

    def agreement(self) -> float | None:
        """Return the share of sampled users whose ten best items are the same, raw and stable; None without users."""
        if isinstance(self._found, CertifiedTopK):
            return self._found.agreement()
        assert self._raw is not None
        count = self._counts[0]
        return agreement(self._raw.result().part(0, count), self._found.result().part(0, count, TOP_K))
