"""How the recall gate counts results, which parameters it tries, and the allowed cost of a kept index."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from embsync.config import IndexConfig
from embsync.index import estimate_bytes
from embsync.index.gate import RecallGate
from embsync.index.ground_truth import exact_neighbours
from embsync.index.layers import effort
from embsync.index.live_rows import live_vectors
from embsync.index.searcher import Searcher


def gate_of(side, metric="inner_product", k=10, target=0.95):
    """The gate of a side."""
    live = live_vectors(side.vectors, side.live, metric)
    return RecallGate(live, side.queries, exact_neighbours(live, side.queries, k, metric), metric, target)


# how results are counted


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_a_row_as_good_as_the_last_one_is_found(make, metric):
    """If every vector occurs ten times, any of the ten copies counts as found."""
    side = make(rows=400, carried=0)
    side = replace(side, vectors=np.ascontiguousarray(np.repeat(side.vectors[:40], 10, axis=0)))
    gate = gate_of(side, metric, k=15)
    mirrored = 9 - gate.ground_truth % 10 + gate.ground_truth // 10 * 10
    assert not np.array_equal(np.sort(mirrored), np.sort(gate.ground_truth))
    assert gate.recall(mirrored) == 1.0
    assert gate.recall(gate.ground_truth[:, ::-1]) == 1.0


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_a_row_that_is_worse_is_missed(make, metric):
    """The next best row instead of one of ten, a missing hit, and the same row twice each cost a tenth."""
    side = make(rows=300, carried=0)
    gate = gate_of(side, metric)
    more = gate_of(side, metric, k=11).ground_truth
    worse = np.hstack([more[:, :9], more[:, 10:]])
    assert gate.recall(worse) == pytest.approx(0.9)
    missing = gate.ground_truth.copy()
    missing[:, -1] = -1
    assert gate.recall(missing) == pytest.approx(0.9)
    assert gate.recall(np.full_like(gate.ground_truth, -1)) == 0.0


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "HNSW32"])
def test_a_catalogue_of_equal_rows_reaches_any_target(make, index_of, factory):
    """With tied scores there is no warning, and no further search effort."""
    side = make(rows=600, carried=0)
    side = replace(side, vectors=np.ascontiguousarray(np.repeat(side.vectors[:20], 30, axis=0)))
    built = index_of(side, IndexConfig(factory=factory, target_recall=0.99))
    assert built.report.recall_at_10 >= 0.99
    assert built.report.search.get("efSearch", 0) < 300


def test_fewer_rows_than_k_can_all_be_found(make):
    """With seven rows, all seven are found."""
    side = make(rows=9, carried=2)
    gate = gate_of(side, k=7)
    assert gate.recall(gate.ground_truth) == 1.0


# which parameters are tried


@pytest.fixture
def tried(monkeypatch):
    """The parameters of every search."""
    seen: list[dict[str, int]] = []
    real = Searcher.search

    def search(self, queries, k, parameters=None, allowed=None):
        seen.append(dict(parameters or {}))
        return real(self, queries, k, parameters, allowed)

    monkeypatch.setattr(Searcher, "search", search)
    return seen


@pytest.mark.parametrize("factory", ["HNSW16", "IVF64,Flat", "PCA6,IVF32,Flat,RFlat"])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.7])
def test_no_search_effort_above_the_allowed_cost_is_tried(built_once, tried, factory, share):
    """``max_search_cost_growth`` also limits the search for parameters, however far the recall is from the target."""
    side, built = built_once(IndexConfig(factory=factory), rows=3000)
    gate = gate_of(side, target=1.1)  # never reached
    dearest = {"efSearch": 3000, "nprobe": 64, "k_factor_rf": 64}
    most = share * effort(built.index, {name: dearest[name] for name in built.report.search}, 10)
    tried.clear()
    verdict = gate.judge(built.index, built.labels, most)
    assert len(tried) > 1
    assert max(effort(built.index, values, 10) for values in tried if set(values) >= set(verdict.search)) <= most
    assert verdict.effort <= most


@pytest.mark.parametrize("factory", ["Flat", "IDMap,Flat"])
def test_an_exact_index_is_not_measured(make, index_of, tried, factory):
    """The recall of an exact index is 1.0 at every depth, without a search."""
    built = index_of(make(rows=500), IndexConfig(factory=factory, recall_at=(10, 100)))
    assert tried == []
    assert [point.recall for point in built.report.points] == [1.0, 1.0]


def test_the_least_effort_is_tried_even_if_it_costs_too_much(make, index_of, tried):
    """Its recall is reported; the cost determines whether the index is kept."""
    side = make(rows=2000)
    built = index_of(side, IndexConfig(factory="HNSW16"))
    tried.clear()
    verdict = gate_of(side).judge(built.index, built.labels, 1.0)
    assert {values["efSearch"] for values in tried} == {10}
    assert verdict.effort > 1.0


# the allowed cost of a kept index


@pytest.mark.parametrize("factory", ["HNSW16", "IVF64,Flat"])
def test_cost_growth_is_relative_to_the_last_rebuild(make, night, index_of, shelf, factory):
    """The effort of the last rebuild limits all nights after it; otherwise effort might double each night."""
    side = make(rows=3000)
    config = IndexConfig(factory=factory, max_search_cost_growth=1.5)
    built = index_of(side, config)
    first = built.report.rebuilt_search
    later, row_map = night(side, seed=2, cosine=0.4)
    parent = shelf.parent(built, row_map)
    reached = index_of(later, IndexConfig(factory=factory, max_search_cost_growth=100.0), parent).report
    needed = effort(built.index, reached.search, 10)
    assert (reached.action, reached.rebuilt_search) == ("rotated", first)
    assert needed > 1.5 * effort(built.index, first, 10)
    # as if the night before had already needed this effort
    risen = replace(parent, report=msgspec.structs.replace(built.report, search=reached.search, rotations=1))
    assert index_of(later, config, risen).report.action == "rebuilt"
    # and as if the rebuild itself had needed it
    dear = msgspec.structs.replace(risen.report, rebuilt_search=reached.search)
    assert index_of(later, config, replace(parent, report=dear)).report.action == "rotated"


def test_an_index_above_the_allowed_cost_is_not_kept(side, night, index_of, shelf):
    """An index whose least effort exceeds the allowed cost is not kept, whatever its recall."""
    config = IndexConfig(factory="HNSW16", max_search_cost_growth=1.0)
    built = index_of(side, config)
    later, row_map = night(side, seed=4, cosine=0.9999)
    parent = shelf.parent(built, row_map)
    assert index_of(later, IndexConfig(factory="HNSW16"), parent).report.action == "rotated"
    cheap = msgspec.structs.replace(built.report, search={"efSearch": 5}, rebuilt_search={"efSearch": 5}, rotations=1)
    again = index_of(later, config, replace(parent, report=cheap))
    assert again.report.action == "rebuilt"
    assert "cost more than 1 times the last rebuild's effort" in again.report.reason


@pytest.mark.parametrize("growth", [1.0, 1.3, 2.0, 4.0])
def test_a_kept_index_never_exceeds_the_allowed_growth(side, night, index_of, shelf, growth):
    """At any drift, the cost of a kept index stays within the bound on every night."""
    config = IndexConfig(factory="IVF32,Flat", max_search_cost_growth=growth)
    built = index_of(side, config)
    for number in range(6):
        side, row_map = night(side, seed=number, cosine=(0.95, 0.7)[number % 2])
        built = index_of(side, config, shelf.parent(built, row_map))
        spent, base = (effort(built.index, search, 10) for search in (built.report.search, built.report.rebuilt_search))
        assert spent <= growth * base


# memory


@pytest.mark.parametrize("factory", ["HNSW8", "HNSW16_SQ8", "IDMap2,HNSW16"])
@pytest.mark.parametrize("dead", [0.2, 0.5, 0.75])
def test_the_estimate_includes_dead_labels(built_once, index_of, shelf, factory, dead):
    """The estimate of a graph with dead labels is that of one in which they are live."""
    config = IndexConfig(factory=factory, target_recall=0.1, refresh="rotate")
    side, built = built_once(config, rows=8000, width=8, carried=0)
    kept = side.live[: round((1 - dead) * len(side.live))]
    row_map = np.full(side.ids.size, -1, np.int64)
    row_map[kept] = kept
    rotated = index_of(replace(side, live=kept), config, shelf.parent(built, row_map))
    assert rotated.report.dead == len(side.live) - len(kept)
    shelf.save(rotated, "rotated")
    assert (shelf.path / "rotated").stat().st_size <= estimate_bytes(len(kept), 8, factory, dead)
