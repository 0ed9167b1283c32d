"""Search results, compared with an exact scan of all live rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embsync.config import IndexConfig
from embsync.errors import StoreError, UsageError
from embsync.index import Searcher, refresh
from embsync.index.build import build
from embsync.index.live_rows import live_vectors

METRICS = ["inner_product", "cosine", "l2"]


def brute_force(vectors, live, queries, k, metric):
    """Return rows and scores of an exact scan of all live rows, ties by ascending row."""
    rows, asked = vectors[live].astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        scores = -np.square(asked[:, None, :] - rows[None]).sum(axis=2)
    else:
        if metric == "cosine":
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
            asked = asked / np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-30)
        scores = asked @ rows.T
    order = np.lexsort((np.broadcast_to(live, scores.shape), -scores), axis=1)[:, :k]
    return live[order], np.take_along_axis(scores, order, axis=1)


def searcher_of(vectors, live, metric, factory="Flat"):
    """Return a searcher over the live vectors."""
    built = refresh(vectors, live, vectors[:0], None, IndexConfig(factory=factory, metric=metric), 1)
    return Searcher(built.index, built.labels, metric, built.report.search)


@pytest.mark.parametrize("metric", METRICS)
def test_flat_equals_brute_force(side, shelf, index_of, metric):
    """A Flat index returns exactly the best live rows with their scores."""
    built = index_of(side, IndexConfig(factory="Flat", metric=metric))
    rows, scores = shelf.open(built).search(side.queries, 10)
    expected_rows, expected = brute_force(side.vectors, side.live, side.queries, 10, metric)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    assert built.report.recall_at_10 == 1.0


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF8,Flat", "PCA4,Flat"])
@pytest.mark.parametrize("metric", METRICS)
def test_queries_in_any_order_of_memory_find_the_same(side, factory, metric):
    """Column-major, strided and reversed queries give the same results, although FAISS needs contiguous rows."""
    searcher = searcher_of(side.vectors, side.live, metric, factory)
    queries = np.ascontiguousarray(side.queries[:20])
    rows, scores = searcher.search(queries, 10)
    for given_ in (np.asfortranarray(queries), np.repeat(queries, 2, axis=0)[::2], queries[::-1].copy()[::-1]):
        assert not given_.flags.c_contiguous
        found, its_scores = searcher.search(given_, 10)
        np.testing.assert_array_equal(found, rows)
        np.testing.assert_array_equal(its_scores, scores)


@settings(max_examples=60)
@given(
    metric=st.sampled_from(["inner_product", "l2"]),
    k=st.integers(1, 40),
    queries=st.integers(1, 30),
    seed=st.integers(0, 2**16),
    values=st.integers(1, 3),
    rows=st.integers(1, 300),
    factory=st.sampled_from(["Flat", "IDMap,Flat"]),
    filtered=st.booleans(),
)
def test_ties_are_ordered_by_row(metric, k, queries, seed, values, rows, factory, filtered):
    """With integer vectors, whose scores often tie, results equal those of brute force row by row."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-values, values + 1, (rows, 3)).astype(np.float32)
    live = np.sort(rng.choice(rows, rng.integers(1, rows + 1), replace=False)).astype(np.int64)
    asked = rng.integers(-values, values + 1, (queries, 3)).astype(np.float32)
    allowed = rng.random(rows) < 0.5 if filtered else np.ones(rows, bool)
    found, scores = searcher_of(vectors, live, metric, factory).search(asked, k, None, allowed if filtered else None)
    expected, exact = brute_force(vectors, live[allowed[live]], asked, k, metric)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scores, exact.astype(np.float32))


@pytest.mark.parametrize("metric", METRICS)
def test_zero_queries_and_zero_rows_are_searched(metric):
    """A zero query ties with all rows: the lowest live rows are returned, and no score is NaN."""
    vectors = np.zeros((500, 4), np.float32)
    vectors[250:] = 1.0
    live = np.arange(100, 500, dtype=np.int64)
    rows, scores = searcher_of(vectors, live, metric).search(np.zeros((2, 4), np.float32), 5)
    np.testing.assert_array_equal(rows, [[100, 101, 102, 103, 104]] * 2)
    np.testing.assert_array_equal(scores, np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF8,Flat"])
def test_k_is_limited_to_the_number_of_live_rows(make, index_of, shelf, factory):
    """A larger k returns all live rows; a missing hit has row -1 and score -inf."""
    side = make(rows=60, carried=20)
    searcher = shelf.open(index_of(side, IndexConfig(factory=factory)))
    rows, scores = searcher.search(side.queries, 1000)
    assert rows.shape == scores.shape == (60, 40)
    np.testing.assert_array_equal(rows == -1, np.isneginf(scores))
    assert np.isin(rows[rows >= 0], side.live).all()


def test_missing_hits_are_last(make, index_of):
    """If one probed list has fewer than 40 rows, the found ones come first, then -1 with -inf."""
    side = make(rows=400)
    built = index_of(side, IndexConfig(factory="IVF16,Flat"))
    searcher = Searcher(built.index, built.labels, "inner_product", built.report.search)
    rows, scores = searcher.search(side.queries, 40, {"nprobe": 1})
    missing = rows == -1
    assert missing.any()
    assert (np.diff(missing.astype(int), axis=1) >= 0).all()
    assert np.isneginf(scores[missing]).all()
    found = np.where(missing, -np.inf, scores)
    assert (found[:, 1:] <= found[:, :-1]).all()


def test_parameters_override_the_manifest(side, index_of):
    """A larger efSearch finds at least as much; an unknown parameter is an error that names the known ones."""
    built = index_of(side, IndexConfig(factory="HNSW8", target_recall=0.5))
    searcher = Searcher(built.index, built.labels, "inner_product", built.report.search)
    exact, _ = brute_force(side.vectors, side.live, side.queries, 10, "inner_product")

    def found(parameters):
        rows, _ = searcher.search(side.queries, 10, parameters)
        return sum(np.isin(a, b).sum() for a, b in zip(rows, exact, strict=True))

    assert found({"efSearch": 400}) >= found({"efSearch": 10})
    with pytest.raises(UsageError, match="efSearch"):
        searcher.search(side.queries, 10, {"nprobe": 3})


@pytest.mark.parametrize("factory", ["HNSW8", "IVF8,Flat", "IVF8,PQ4x4,RFlat"])
def test_the_largest_effort_searches_everything(side, index_of, factory):
    """Numbers beyond every machine word cost no more than that; other values are refused before the search."""
    built = index_of(side, IndexConfig(factory=factory, target_recall=0.5))
    searcher = Searcher(built.index, built.labels, "inner_product", built.report.search)
    everything = dict.fromkeys(built.report.search, built.index.ntotal)
    expected, _ = searcher.search(side.queries, 10, everything)
    for number in (2**31 - 1, 2**31, 2**63, 2**70):
        rows, _ = searcher.search(side.queries, 10, dict.fromkeys(everything, number))
        np.testing.assert_array_equal(rows, expected)
    for name in everything:
        for strange in (0, -1, 2.5, "5", None, True):
            with pytest.raises(UsageError, match="not a search parameter; found"):
                searcher.search(side.queries, 10, {name: strange})


@pytest.mark.parametrize(
    "queries",
    [np.zeros((2, 5), np.float32), np.zeros((2, 16)), np.zeros(16, np.float32)],
    ids=["width", "dtype", "1-D"],
)
def test_ill_formed_queries_are_refused(side, index_of, queries):
    """Queries of another width, type or shape are refused with the value found and the expected one."""
    built = index_of(side, IndexConfig(factory="Flat"))
    searcher = Searcher(built.index, built.labels, "inner_product", {})
    with pytest.raises(UsageError, match=r"float32 \(queries, 16\)"):
        searcher.search(queries, 3)


def test_an_invalid_k_is_refused_and_no_queries_are_answered(side, index_of):
    """No queries give no rows; k below 1 is an error."""
    built = index_of(side, IndexConfig(factory="Flat"))
    searcher = Searcher(built.index, built.labels, "inner_product", {})
    rows, scores = searcher.search(np.empty((0, 16), np.float32), 7)
    assert rows.shape == scores.shape == (0, 7)
    with pytest.raises(UsageError):
        searcher.search(side.queries, 0)


def test_files_that_do_not_belong_together_are_refused(side, shelf, index_of):
    """Labels of another version, a newer FAISS and a wrong count of live rows are refused with exit code 5."""
    import msgspec

    built = index_of(side, IndexConfig(factory="Flat"))
    shelf.save(built)
    path = shelf.path / "index.faiss"
    with pytest.raises(StoreError, match="labels"):
        Searcher.open(path, built.labels[:-1], built.report)
    with pytest.raises(StoreError, match="live rows"):
        Searcher.open(path, built.labels, built.report, 7)
    newer = msgspec.structs.replace(built.report, faiss="99.1.0")
    with pytest.raises(StoreError, match=r"newer FAISS.*99\.1\.0") as caught:
        Searcher.open(path, built.labels, newer)
    assert caught.value.exit_code == 5
    other = msgspec.structs.replace(built.report, metric="l2")
    with pytest.raises(StoreError, match="metric"):
        Searcher.open(path, built.labels, other)
    shelf.save(index_of(replace(side, live=side.live[:-1]), IndexConfig(factory="Flat")))
    with pytest.raises(StoreError, match="labels"):
        Searcher.open(path, built.labels, built.report)


def test_missing_files_and_other_formats_are_refused(side, shelf, index_of):
    """A file that is missing, or is not an index, is a StoreError that names it."""
    built = index_of(side, IndexConfig(factory="Flat"))
    with pytest.raises(StoreError, match=r"nowhere\.faiss: the index is missing"):
        Searcher.open(shelf.path / "nowhere.faiss", built.labels, built.report)
    (shelf.path / "text.faiss").write_bytes(b"not an index" * 100)
    with pytest.raises(StoreError, match=r"text\.faiss"):
        Searcher.open(shelf.path / "text.faiss", built.labels, built.report)


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF16,PQ4x4", "HNSW16_SQ8"])
def test_truncated_files_are_refused(side, shelf, index_of, factory):
    """Opening a truncated file is a StoreError, wherever it ends."""
    built = index_of(side, IndexConfig(factory=factory))
    shelf.save(built)
    whole = (shelf.path / "index.faiss").read_bytes()
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999):
        short = shelf.path / f"short-{share}.faiss"
        short.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(StoreError):
            Searcher.open(short, built.labels, built.report)


def test_an_open_searcher_survives_deletion_of_its_file(side, shelf, index_of):
    """A version that is deleted while it is open can still be searched."""
    built = index_of(side, IndexConfig(factory="HNSW16"))
    searcher = shelf.open(built)
    before, _ = searcher.search(side.queries, 10)
    (shelf.path / "index.faiss").unlink()
    after, _ = searcher.search(side.queries, 10)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("metric", METRICS)
def test_a_selector_is_used_only_for_queries_that_meet_many_dead_labels(metric, monkeypatch):
    """For any dead labels, hits are those of a search with a selector of live rows; few queries need the selector."""
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((2000, 8)).astype(np.float32)
    index = build("HNSW16", live_vectors(vectors, np.arange(2000), metric), metric)
    labels = np.arange(2000)
    labels[np.argsort(((vectors - vectors[7]) ** 2).sum(axis=1))[:30]] = -1  # all around row 7
    labels[::50] = -1
    searcher = Searcher(index, labels, metric, {"efSearch": 200})
    queries = np.concatenate([vectors[7:8], rng.standard_normal((60, 8)).astype(np.float32)])
    asked = {"with a selector": 0, "without": 0}
    search = index.search_c

    def watched(count, queries, k, scores, labels, params):
        asked["without" if params.sel is None else "with a selector"] += count
        search(count, queries, k, scores, labels, params)

    for parameters in (None, {"efSearch": 150}):
        expected, exact = searcher.search(queries, 10, parameters or {"efSearch": 200}, allowed=np.ones(2000, bool))
        asked.update(dict.fromkeys(asked, 0))
        with monkeypatch.context() as patch:
            patch.setattr(index, "search_c", watched)
            found, scores = searcher.search(queries, 10, parameters)
        assert asked["without"] == len(queries)
        assert 1 <= asked["with a selector"] < len(queries) / 3
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(scores, exact)
        assert np.isin(found, np.flatnonzero(labels >= 0)).all()
