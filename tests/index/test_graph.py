"""Redirecting links past dead labels: properties of the link table, and the effect on searches."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.goodbooks import needs_goodbooks, read_day
from support.laws import law

import embsync
from embsync.index import Searcher
from embsync.index.build import build
from embsync.index.ground_truth import exact_neighbours
from embsync.index.hnsw_links import bypass
from embsync.index.live_rows import live_vectors
from embsync.index.rotate import rotate
from embsync.index.threads import faiss_threads

ROWS = 3000


def graph_of(vectors: np.ndarray, metric: str = "inner_product") -> faiss.IndexHNSWFlat:
    with faiss_threads(1):
        return build("HNSW16", live_vectors(vectors, np.arange(len(vectors)), metric), metric)


@pytest.fixture(scope="module")
def vectors():
    """Seeded rows with a decaying spectrum."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((ROWS, 16)) * np.linspace(1.5, 0.3, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def graph(vectors):
    """A graph that no test modifies."""
    return graph_of(vectors)


def table(index) -> tuple[np.ndarray, np.ndarray]:
    """Return all links of a graph, and those of its lowest level, one row per node."""
    links = faiss.vector_to_array(index.hnsw.neighbors)
    starts = faiss.vector_to_array(index.hnsw.offsets).astype(np.int64)[:-1]
    places = starts[:, None] + np.arange(index.hnsw.nb_neighbors(0))
    above = np.delete(links, places.ravel())
    return above, links[places]


@law
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.001, 0.05, 0.3, 0.9, 1.0]))
def test_only_links_to_dead_labels_change(graph, seed, share):
    """Only links to dead labels change; the new target is live, not the node itself, and was not linked before."""
    dead = np.random.default_rng(seed).random(ROWS) < share
    index = faiss.clone_index(graph)
    bypass(index, dead)
    (above, before), (above_now, now) = table(graph), table(index)
    np.testing.assert_array_equal(above_now, above)
    changed = now != before
    node, _ = np.nonzero(changed)
    assert dead[before[changed]].all()
    assert (before[changed] >= 0).all()
    assert (now[changed] >= 0).all()
    assert not dead[now[changed]].any()
    assert (now[changed] != node).all()
    assert (before[node] != now[changed][:, None]).all()
    for links in now[np.unique(node)]:
        living = links[(links >= 0) & ~dead[links]]
        assert np.unique(living).size == living.size
    if 0.05 <= share <= 0.3:
        assert changed.sum() > 0.4 * np.count_nonzero(dead[before] & (before >= 0))


def test_a_new_link_goes_to_a_neighbour_of_the_dead_label(vectors):
    """A new link leads to a neighbour of the dead label, so its region remains reachable."""
    index = graph_of(vectors)
    dead = np.zeros(ROWS, np.bool_)
    dead[index.hnsw.entry_point] = True
    _, before = table(index)
    bypass(index, dead)
    _, now = table(index)
    changed = now != before
    assert changed.any()
    assert np.isin(now[changed], before[index.hnsw.entry_point]).all()


@pytest.mark.parametrize("worst", [False, True])
def test_bypassing_dead_labels_raises_recall(vectors, worst):
    """With a fifth of the labels dead, few links lead to one, recall rises, and no more nodes are unreachable."""
    index = graph_of(vectors)
    rng = np.random.default_rng(1)
    dead = np.zeros(ROWS, np.bool_)
    order = np.argsort(-np.linalg.norm(vectors, axis=1)) if worst else rng.permutation(ROWS)
    dead[order[: ROWS // 5]] = True
    labels = np.where(dead, -1, np.arange(ROWS))
    queries = (rng.standard_normal((500, 16)) * np.linspace(1.5, 0.3, 16)).astype(np.float32)
    living = live_vectors(vectors, np.flatnonzero(~dead), "inner_product")
    truth = exact_neighbours(living, queries, 10, "inner_product")

    def recall() -> float:
        found, _ = Searcher(index, labels, "inner_product", {"efSearch": 12}).search(queries, 10)
        return float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]))

    def hidden() -> int:
        _, links = table(index)
        return int(np.setdiff1d(np.flatnonzero(~dead), links[~dead]).size)

    def leading() -> float:
        _, links = table(index)
        return float(dead[links[~dead]].mean())

    before = recall(), hidden(), leading()
    bypass(index, dead)
    assert recall() > before[0]
    assert hidden() <= before[1]
    assert leading() < 0.06 * before[2]


@needs_goodbooks
def test_a_graph_keeps_its_recall_over_ten_real_nights():
    """After ten real retrainings, the recall of a rotated graph at the least effort is that of a rebuilt one."""
    anchors, index, ids = None, None, np.empty(0, np.int64)
    with faiss_threads(1):
        for day in (1, 2, 3, 4, 5, 4, 3, 2, 1, 2, 3):
            night = read_day(day)
            stable = embsync.stabilize(
                night.items, night.users, item_ids=night.item_ids, user_ids=night.user_ids, anchors=anchors
            )
            anchors = stable.anchors
            live = live_vectors(np.array(stable.items), np.arange(len(night.items)), "inner_product")
            if index is None:
                index, ids = build("HNSW32", live, "inner_product"), night.item_ids
                continue
            places = np.minimum(np.searchsorted(night.item_ids, ids), len(night.item_ids) - 1)
            labels = rotate(index, live, np.where(night.item_ids[places] == ids, places, -1))
            ids = np.where(labels >= 0, night.item_ids[labels], -1)
        rebuilt = build("HNSW32", live, "inner_product")
    queries = np.array(stable.users[:1000])
    truth = exact_neighbours(live, queries, 10, "inner_product")

    def recall(graph, rows) -> float:
        found, _ = Searcher(graph, rows, "inner_product", {"efSearch": 10}).search(queries, 10)
        return float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]))

    assert np.count_nonzero(labels < 0) > 500
    assert recall(index, labels) > recall(rebuilt, live.rows) - 0.005
