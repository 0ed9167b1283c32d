"""Rotating the previous index to new vectors: what is kept, what is found, and when it is rebuilt instead."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from embsync.config import IndexConfig
from embsync.errors import StoreError
from embsync.index import Searcher
from embsync.index.ground_truth import exact_neighbours
from embsync.index.live_rows import live_vectors

ROTATABLE = [
    "Flat",
    "HNSW32",
    "HNSW32_SQ8",
    "IVF16,Flat",
    "IVF16,SQ8",
    "IVF16,PQ8x4",
    "IVF32_HNSW32,Flat",
    "PCA12,HNSW16,RFlat",
    "Flat,RFlat",
    "IDMap,Flat",
    "IDMap2,HNSW16",
    "OPQ4_16,IVF8,PQ4x4,RFlat",
    "SQ8",
]
LAX = {"target_recall": 0.5, "max_search_cost_growth": 100.0}


def search(built, side, k=10):
    """Return the search results of a reader of this version."""
    return Searcher(built.index, built.labels, built.report.metric, built.report.points).search(side.queries, k)


@pytest.mark.parametrize("factory", ROTATABLE)
def test_recall_is_kept_over_several_rotations(side, night, index_of, shelf, factory):
    """Over three nights every factory rotates, labels stay consistent, and only live rows are found."""
    config = IndexConfig(factory=factory, **LAX)
    built = index_of(side, config)
    for number in range(1, 4):
        side, row_map = night(side, seed=number)
        built = index_of(side, config, shelf.parent(built, row_map))
        report = built.report
        assert report.action == "rotated", report.reason
        assert report.rotations == number
        living = built.labels[built.labels >= 0]
        np.testing.assert_array_equal(np.sort(living), side.live)
        assert report.labels == built.labels.size == living.size + report.dead
        rows, _ = search(built, side, 50)
        assert np.isin(rows[rows >= 0], side.live).all()
        reopened = shelf.open(built)
        np.testing.assert_array_equal(reopened.search(side.queries, 50)[0], rows)
    assert (report.dead > 0) == ("HNSW" in factory and "IVF" not in factory)


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_rotation_equals_rebuild_for_flat(side, night, index_of, shelf, metric):
    """An exact index gives the same file, rotated or rebuilt."""
    config = IndexConfig(factory="Flat", metric=metric)
    built = index_of(side, config)
    side, row_map = night(side, seed=5, cosine=0.5)
    rotated = index_of(side, config, shelf.parent(built, row_map))
    rebuilt = index_of(side, config)
    assert (rotated.report.action, rebuilt.report.action) == ("rotated", "rebuilt")
    assert shelf.save(rotated, "rotated") == shelf.save(rebuilt, "rebuilt")
    np.testing.assert_array_equal(rotated.labels, rebuilt.labels)


@pytest.mark.parametrize("factory", ["HNSW32", "IVF16,Flat", "HNSW32_SQfp16"])
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_scores_are_those_of_the_new_vectors(side, night, index_of, shelf, factory, metric):
    """After a rotation the scores are those of the new vectors, and the target recall is reached."""
    config = IndexConfig(factory=factory, metric=metric)
    built = index_of(side, config)
    side, row_map = night(side, seed=3)
    built = index_of(side, config, shelf.parent(built, row_map))
    assert built.report.action == "rotated"
    rows, scores = search(built, side)
    truth = exact_neighbours(live_vectors(side.vectors, side.live, metric), side.queries, 10, metric)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(rows, truth, strict=True)]) >= 0.95
    items, users = side.vectors[rows].astype(np.float64), side.queries[:, None, :].astype(np.float64)
    if metric == "l2":
        expected = -np.square(items - users).sum(axis=2)
    else:
        expected = (items * users).sum(axis=2)
        if metric == "cosine":
            expected /= np.linalg.norm(items, axis=2) * np.linalg.norm(users, axis=2)
    np.testing.assert_allclose(scores, expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "HNSW32_SQ8", "IVF16,Flat"])
def test_ids_may_disappear_and_return(side, night, index_of, shelf, factory):
    """An id that leaves is not found, even by its own vector; when it returns it is found."""
    config = IndexConfig(factory=factory, metric="l2", **LAX)
    built = index_of(side, config)
    away = side.ids[side.live[:5]]

    def self_search(side, built, ids):
        searcher = Searcher(built.index, built.labels, "l2", built.report.search)
        rows = np.searchsorted(side.ids, ids)
        return rows, searcher.search(side.vectors[rows], 1, {n: 200 for n in built.report.search if n == "efSearch"})[0]

    row_map = np.full(side.ids.size, -1, np.int64)
    absent = replace(side, live=side.live[5:])
    row_map[absent.live] = absent.live
    built = index_of(absent, config, shelf.parent(built, row_map))
    assert built.report.action == "rotated"
    rows, found = self_search(absent, built, away)
    assert not np.isin(found, rows).any()
    returned, row_map = night(absent, seed=9, back=side.ids.size, gone=1, cosine=0.999)
    assert np.isin(away, returned.live_ids).all()
    built = index_of(returned, config, shelf.parent(built, row_map))
    rows, found = self_search(returned, built, away)
    assert built.report.action == "rotated"
    if "SQ8" not in factory:
        np.testing.assert_array_equal(found[:, 0], rows)
    else:
        assert np.isin(found, returned.live).all()


def test_dead_labels_do_not_cost_recall(side, night, index_of, shelf):
    """With a fifth of the labels dead, none is returned, and k results are found at the target recall."""
    config = IndexConfig(factory="HNSW32")
    built = index_of(side, config)
    side, row_map = night(side, seed=1, gone=250, new=1, back=0, cosine=0.999)
    built = index_of(side, config, shelf.parent(built, row_map))
    assert built.report.action == "rotated"
    assert built.report.dead == 250
    rows, _ = search(built, side, 100)
    assert (rows >= 0).all()
    assert np.isin(rows, side.live).all()
    assert built.report.recall_at_10 >= 0.95


def test_too_many_dead_labels_are_compacted(side, night, index_of, shelf):
    """Above compact_dead_fraction the index is rebuilt without dead labels."""
    config = IndexConfig(factory="HNSW16", compact_dead_fraction=0.1, **LAX)
    built = index_of(side, config)
    side, row_map = night(side, seed=1, gone=250, cosine=0.999)
    rebuilt = index_of(side, config, shelf.parent(built, row_map))
    assert rebuilt.report.action == "rebuilt"
    assert "dead" in rebuilt.report.reason
    assert rebuilt.report.dead == 0
    np.testing.assert_array_equal(rebuilt.labels, side.live)
    kept = index_of(
        side,
        IndexConfig(factory="HNSW16", compact_dead_fraction=0.1, refresh="rotate", **LAX),
        shelf.parent(built, row_map),
    )
    assert kept.report.action == "rotated"


@pytest.mark.parametrize("factory", ["HNSW32", "IVF64,Flat"])
def test_the_recall_is_never_below_the_target(make, night, index_of, shelf, factory):
    """For any drift the resulting index reaches the target; large drift leads to a rebuild with that reason."""
    config = IndexConfig(factory=factory, max_search_cost_growth=1.5)
    side = make(rows=4000)
    built = index_of(side, config)
    reasons = []
    for number in range(4):
        side, row_map = night(side, seed=number, cosine=(0.999, 0.3)[number % 2])
        built = index_of(side, config, shelf.parent(built, row_map))
        assert built.report.recall_at_10 >= 0.95
        assert built.report.dead == 0 or built.report.action == "rotated"
        reasons += [built.report.reason] if built.report.action == "rebuilt" else []
    assert reasons
    assert [reason for reason in reasons if "effort" not in reason] == []


def test_rotated_cost_is_relative_to_the_last_rebuild(side, night, index_of, shelf):
    """Reports pass on the effort of the last rebuild until the next rebuild replaces it."""
    config = IndexConfig(factory="HNSW16")
    built = index_of(side, config)
    first = built.report.search
    for number in range(2):
        side, row_map = night(side, seed=number)
        built = index_of(side, config, shelf.parent(built, row_map))
        assert built.report.action == "rotated"
        assert built.report.rebuilt_search == first
        assert built.report.search["efSearch"] <= 4 * first["efSearch"]
    rebuilt = index_of(side, IndexConfig(factory="HNSW16", refresh="rebuild"), shelf.parent(built, row_map))
    assert rebuilt.report.rebuilt_search == rebuilt.report.search
    assert "refresh" in rebuilt.report.reason


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "HNSW32_SQ8", "IVF16,PQ4x4"])
def test_an_unchanged_index_is_reused(side, same, index_of, shelf, factory):
    """If the vectors are bit-identical on the same live ids, the index is the parent's, byte for byte."""
    config = IndexConfig(factory=factory, **LAX)
    built = index_of(side, config)
    side, row_map = same(side)
    previous = replace(shelf.parent(built, row_map), vectors=side.vectors.copy())
    again = index_of(side, config, previous)
    assert again.report.action == "reused"
    assert shelf.save(again, "again") == previous.sha256
    np.testing.assert_array_equal(again.labels, built.labels)


def test_a_reused_index_reaches_a_raised_target(side, same, index_of, shelf):
    """With the same vectors and a higher target, the index is kept and searched with the effort a rebuilt one needs."""
    built = index_of(side, IndexConfig(factory="IVF64,Flat", target_recall=0.3))
    side, row_map = same(side)
    previous = replace(shelf.parent(built, row_map), vectors=side.vectors)
    strict = IndexConfig(factory="IVF64,Flat", target_recall=0.99, max_search_cost_growth=1.0)
    again = index_of(side, strict, previous)
    assert again.report.action == "reused"
    assert again.report.recall_at_10 >= 0.99
    assert again.report.search == again.report.rebuilt_search == index_of(side, strict).report.search


def test_the_recall_of_a_reused_index_is_measured(side, same, index_of, shelf):
    """Stored vectors replace missing parent vectors; a changed value, or codes without exact vectors, mean rotation."""
    side, row_map = same(side)
    for factory, action in (("Flat", "reused"), ("HNSW16", "reused"), ("HNSW16_SQ8", "rotated"), ("SQ8", "rotated")):
        config = IndexConfig(factory=factory, **LAX)
        built = index_of(side, config)
        assert index_of(side, config, shelf.parent(built, row_map)).report.action == action
        changed = replace(side, vectors=side.vectors.copy())
        changed.vectors[side.live[-1], -1] += 1e-6
        previous = replace(shelf.parent(built, row_map), vectors=side.vectors)
        assert index_of(changed, config, previous).report.action == "rotated"


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "foreign", "labels", "rows", "newer"])
def test_damage_of_the_parent_index_is_not_inherited(built_once, night, index_of, shelf, damage):
    """If the parent's index is damaged, a new one is built, and the report and the error name the damage."""
    config = IndexConfig(factory="HNSW16")
    side, built = built_once(config)
    side, row_map = night(side, seed=1)
    previous = shelf.parent(built, row_map)
    content = bytearray(previous.path.read_bytes())
    if damage == "missing":
        previous.path.unlink()
    elif damage == "truncated":
        previous.path.write_bytes(content[:-10])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        previous.path.write_bytes(content)
    elif damage == "foreign":
        previous.path.write_bytes(b"nonsense")
    elif damage == "labels":
        previous = replace(previous, labels=previous.labels[:-3])
    elif damage == "rows":
        previous = replace(previous, labels=np.where(previous.labels == side.live[3], 10**6, previous.labels))
        previous.labels[0] = 10**6
    else:
        previous = replace(previous, report=msgspec.structs.replace(previous.report, faiss="99.0"))
    rebuilt = index_of(side, config, previous)
    assert rebuilt.report.action == "rebuilt"
    assert "cannot be used" in rebuilt.report.reason
    assert isinstance(rebuilt.damage, StoreError)
    assert str(previous.path) in str(rebuilt.damage)
    if damage in ("truncated", "flipped", "foreign"):
        assert "hash mismatch" in rebuilt.report.reason
    clean = index_of(side, config)
    assert shelf.save(rebuilt, "rebuilt") == shelf.save(clean, "clean")
    assert clean.damage is None


def test_a_file_with_the_right_hash_that_is_not_an_index_is_damage(side, same, index_of, shelf):
    """A matching hash only proves what was written: a file that is not an index is detected when it is loaded."""
    import hashlib

    config = IndexConfig(factory="Flat")
    built = index_of(side, config)
    side, row_map = same(side)
    previous = shelf.parent(built, row_map)
    previous.path.write_bytes(b"nonsense")
    previous = replace(previous, sha256=hashlib.sha256(b"nonsense").hexdigest())
    rebuilt = index_of(side, config, previous)
    assert rebuilt.report.action == "rebuilt"
    assert rebuilt.damage is not None


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (IndexConfig(factory="Flat"), IndexConfig(factory="HNSW16"), "factory changed from Flat to HNSW16"),
        (IndexConfig(factory="Flat"), IndexConfig(factory="Flat", metric="l2"), "metric changed"),
        (IndexConfig(factory="NSG16"), IndexConfig(factory="NSG16"), "IndexNSGFlat cannot be rotated"),
    ],
)
def test_an_index_that_cannot_be_rotated_is_rebuilt(side, night, index_of, shelf, before, after, reason):
    """With another factory or metric, or an index that cannot be rotated, it is rebuilt, and the report says why."""
    built = index_of(side, before)
    side, row_map = night(side, seed=1)
    rebuilt = index_of(side, after, shelf.parent(built, row_map))
    assert rebuilt.report.action == "rebuilt"
    assert reason in rebuilt.report.reason
    assert rebuilt.damage is None


def test_a_target_that_a_rebuild_misses_is_reported(side, night, same, index_of, shelf):
    """If a rebuild misses the target, no rotation is tried until the target is one that it reaches."""
    config = IndexConfig(factory="PQ4x4", target_recall=0.99)
    built = index_of(side, config)
    assert built.report.recall_at_10 < 0.99
    unchanged, row_map = same(side)
    parent = replace(shelf.parent(built, row_map), vectors=side.vectors)
    assert index_of(unchanged, config, parent).report.action == "reused"
    later, row_map = night(side, seed=1)
    again = index_of(later, config, shelf.parent(built, row_map))
    assert again.report.action == "rebuilt"
    assert f"the last rebuild missed recall 0.99 with {built.report.recall_at_10:.3f}" in again.report.reason
    lower = IndexConfig(factory="PQ4x4", target_recall=0.9 * built.report.recall_at_10)
    assert index_of(later, lower, shelf.parent(built, row_map)).report.action == "rotated"


def test_a_target_raised_since_the_rebuild_is_reached(side, night, index_of, shelf):
    """An index that reached the lower target with little effort reaches the higher one with more, and is rotated."""
    built = index_of(side, IndexConfig(factory="IVF16,Flat", target_recall=0.5))
    assert built.report.recall_at_10 < 0.8
    later, row_map = night(side, seed=1)
    again = index_of(later, IndexConfig(factory="IVF16,Flat", target_recall=0.8), shelf.parent(built, row_map))
    assert again.report.action == "rotated", again.report.reason
    assert again.report.recall_at_10 >= 0.8


def test_a_graph_is_not_rotated_without_measuring_it(side, night, index_of, shelf):
    """Without queries a graph is rebuilt, as its recall cannot be measured; an exact index is rotated."""
    for factory, action in (("HNSW16", "rebuilt"), ("Flat", "rotated")):
        config = IndexConfig(factory=factory)
        built = index_of(side, config)
        later, row_map = night(replace(side, queries=side.queries[:0]), seed=1)
        assert index_of(later, config, shelf.parent(built, row_map)).report.action == action


def test_rotation_is_deterministic_and_does_not_change_its_input(side, night, index_of, shelf):
    """With one thread, two rotations give the same file, and the parent's file and arrays are unchanged."""
    config = IndexConfig(factory="HNSW32_SQ8")
    built = index_of(side, config)
    side, row_map = night(side, seed=2)
    previous = shelf.parent(built, row_map)
    before = previous.path.read_bytes(), previous.labels.copy(), row_map.copy(), side.vectors.copy()
    first, second = (index_of(side, config, previous) for _ in range(2))
    assert first.report.action == "rotated"
    assert shelf.save(first, "a") == shelf.save(second, "b")
    assert previous.path.read_bytes() == before[0]
    for now, then in zip((previous.labels, row_map, side.vectors), before[1:], strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF32_HNSW32,Flat"])
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_centroids_follow_the_vectors(side, night, index_of, shelf, factory, metric):
    """After a rotation centroids are closer to the vectors than the old ones, and normalized as trained.

    Except with l2, they have length one.
    """
    config = IndexConfig(factory=factory, metric=metric, **LAX)
    built = index_of(side, config)
    before = built.index.quantizer.reconstruct_n(0, built.index.nlist)
    side, row_map = night(side, seed=1, cosine=0.8)
    rotated = index_of(side, config, shelf.parent(built, row_map))
    assert rotated.report.action == "rotated"
    after = rotated.index.quantizer.reconstruct_n(0, rotated.index.nlist)
    vectors = live_vectors(side.vectors, side.live, metric).at(side.live)

    def nearness(centroids):
        if metric == "l2":
            return -np.square(vectors[:, None] - centroids[None]).sum(axis=2).min(axis=1).mean()
        return (vectors @ centroids.T).max(axis=1).mean()

    assert nearness(after) > nearness(before)
    if metric != "l2":
        np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1.0, rtol=1e-5)
