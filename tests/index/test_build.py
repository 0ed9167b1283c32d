"""Factories, the recall gate, files, sizes."""

from __future__ import annotations

import faiss
import msgspec
import numpy as np
import pytest

from embsync.config import IndexConfig
from embsync.errors import UsageError
from embsync.index import Built, Searcher, check_factory, estimate_bytes, refresh, rotate_or_rebuild
from embsync.index.factory import resolve_factory
from embsync.index.gate import RecallGate
from embsync.index.ground_truth import exact_neighbours
from embsync.index.live_rows import live_vectors
from embsync.manifest import IndexReport

COMPOSITES = [
    "Flat",
    "HNSW32",
    "HNSW32_SQ8",
    "HNSW32_SQfp16",
    "IVF16,Flat",
    "IVF16,SQ8",
    "IVF16,PQ8x4",
    "IVF64_HNSW32,Flat",
    "OPQ4_8,IVF8,PQ4x4",
    "PCA8,Flat",
    "PCA8,HNSW16,RFlat",
    "Flat,RFlat",
    "IVF16,PQ4x4,RFlat",
    "IDMap,Flat",
    "IDMap2,HNSW16",
    "SQ8",
    "L2norm,Flat",
    "IVF16,PQ8x4fs",
    "NSG16",
]


@pytest.mark.parametrize("factory", COMPOSITES)
def test_any_factory_string_can_be_built(side, shelf, index_of, factory):
    """Built, written, mapped and searched, an index returns live rows only, ordered, and as many as asked."""
    config = IndexConfig(factory=factory)
    check_factory(config, 16)
    built = index_of(side, config)
    assert built.report.factory == factory
    assert built.report.action == "rebuilt"
    np.testing.assert_array_equal(built.labels, side.live)
    searcher = shelf.open(built)
    rows, scores = searcher.search(side.queries, 10)
    assert rows.shape == (60, 10)
    assert np.isin(rows[rows >= 0], side.live).all()
    assert (np.diff(np.where(rows >= 0, scores, -3.4e38), axis=1) <= 0).all()
    size = (shelf.path / "index.faiss").stat().st_size
    assert size <= estimate_bytes(side.live.size, 16, factory)


@pytest.mark.parametrize(
    ("factory", "knob", "least"),
    [
        ("HNSW32", None, 10),
        ("HNSW8", "efSearch", 10),
        ("HNSW8_SQ8", "efSearch", 10),
        ("IVF16,Flat", "nprobe", 1),
        ("IVF16,PQ4x4,RFlat", None, 1),
        ("IVF64_HNSW32,Flat", "nprobe", 1),
    ],
)
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_the_gate_finds_the_cheapest_parameters(side, index_of, factory, knob, least, metric):
    """The reported parameters reach the target as a reader measures it, and one step less effort does not."""
    config = IndexConfig(factory=factory, metric=metric)
    built = index_of(side, config)
    truth = exact_neighbours(live_vectors(side.vectors, side.live, metric), side.queries, 10, metric)
    searcher = Searcher(built.index, built.labels, metric, built.report.search)

    def recall(search):
        rows, _ = searcher.search(side.queries, 10, search)
        return np.mean([np.isin(a, b).mean() for a, b in zip(rows, truth, strict=True)])

    assert recall(built.report.search) == pytest.approx(built.report.recall_at_10, abs=1e-9)
    assert built.report.recall_at_10 >= 0.95
    if "HNSW" in factory and knob == "nprobe":
        assert built.report.search["quantizer_efSearch"] == max(16, 2 * built.report.search[knob])
    if knob is not None:
        assert built.report.search[knob] > least
        assert recall({**built.report.search, knob: built.report.search[knob] - 1}) < 0.95


@pytest.mark.parametrize("threads", [1, 3])
def test_an_index_is_built_with_the_configured_threads(side, monkeypatch, threads):
    """``threads`` applies to the build; later searches use as many threads as before."""
    used, build = [], rotate_or_rebuild.build

    def noted(*arguments):
        used.append(faiss.omp_get_max_threads())
        return build(*arguments)

    monkeypatch.setattr(rotate_or_rebuild, "build", noted)
    before = faiss.omp_get_max_threads()
    refresh(side.vectors, side.live, side.queries, None, IndexConfig(factory="HNSW16"), threads)
    assert used == [threads]
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize(
    ("rows", "factory"), [(3_900, "Flat"), (4_100, "HNSW32"), (5_000, "HNSW32"), (6_000, "HNSW32")]
)
def test_the_estimate_is_that_of_the_larger_possible_index(rows, factory):
    """Near its limit, ``auto`` keeps the kind of index of the previous version."""
    assert resolve_factory("auto", rows, "HNSW32") == factory
    assert estimate_bytes(rows, 16, "auto") == estimate_bytes(rows, 16, factory)


def test_the_search_continues_past_a_plateau_of_recall():
    """If some of the ten neighbours are far from the others, all are found, even after a plateau of recall."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((3000, 16)).astype(np.float32)
    side, live = live_vectors(vectors, np.arange(3000), "l2"), np.arange(3000)
    index = refresh(vectors, live, vectors[:0], None, IndexConfig(factory="IVF256,Flat", metric="l2"), 1).index
    for _ in range(30):
        queries = np.repeat(random.standard_normal((1, 16)), 20, axis=0).astype(np.float32)
        gate = RecallGate(side, queries, exact_neighbours(side, queries, 10, "l2"), "l2", 1.0)
        assert gate.judge(index, live).recall == 1.0


def test_an_unreachable_target_is_reported(side, index_of):
    """With codes too coarse for the target, the report has the recall reached and the parameters, without an error."""
    built = index_of(side, IndexConfig(factory="IVF16,PQ2x4", on_missed_recall="refuse"))
    assert built.report.recall_at_10 < built.report.target_recall == 0.95
    assert 1 <= built.report.search["nprobe"] <= 16


def test_given_ground_truth_equals_computed_ground_truth(side):
    """Exact neighbours from the caller, even more of them than needed, give the same report."""
    config = IndexConfig(factory="HNSW16")
    truth = exact_neighbours(live_vectors(side.vectors, side.live, "inner_product"), side.queries, 25, "inner_product")
    given = refresh(side.vectors, side.live, side.queries, truth, config, 1)
    computed = refresh(side.vectors, side.live, side.queries, None, config, 1)
    assert given.report == computed.report
    with pytest.raises(UsageError, match="exact neighbours"):
        refresh(side.vectors, side.live, side.queries, truth[:, :4], config, 1)


def test_without_queries_no_recall_is_reported(side):
    """Without queries, recall is None and the search parameters are generous."""
    built = refresh(side.vectors, side.live, side.queries[:0], None, IndexConfig(factory="HNSW16"), 1)
    assert built.report.recall_at_10 is None
    assert built.report.search == {"efSearch": 64}


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "HNSW32_SQ8", "IVF16,PQ4x4", "PCA8,HNSW16,RFlat"])
def test_with_one_thread_the_file_is_reproducible(side, shelf, index_of, factory):
    """With the same input and one thread, files are byte-identical and reports equal."""
    first, second = (index_of(side, IndexConfig(factory=factory)) for _ in range(2))
    assert shelf.save(first, "a") == shelf.save(second, "b")
    assert first.report == second.report


def test_vectors_are_not_modified_and_may_be_read_only(side, tmp_path):
    """A read-only memory map is used directly, for every metric."""
    np.save(tmp_path / "vectors.npy", side.vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    for metric in ("inner_product", "cosine", "l2"):
        for factory in ("Flat", "HNSW16", "IVF8,Flat"):
            config = IndexConfig(factory=factory, metric=metric)
            from_map = refresh(mapped, side.live, side.queries, None, config, 1)
            from_memory = refresh(side.vectors, side.live, side.queries, None, config, 1)
            assert from_map.report == from_memory.report


def test_an_error_of_the_writer_is_raised(side, index_of):
    """A full disk stops the writing immediately, with the writer's own error."""
    built = index_of(side, IndexConfig(factory="Flat"))
    calls = []

    def full(chunk):
        calls.append(len(chunk))
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        built.write(full)
    assert len(calls) == 1


def test_the_index_is_written_as_a_stream(make, index_of):
    """No chunk is larger than a mebibyte, and together the chunks are the index."""
    built = index_of(make(rows=20_000, width=32), IndexConfig(factory="Flat"))
    sizes = []
    built.write(lambda chunk: sizes.append(len(chunk)))
    assert max(sizes) <= 1 << 20
    assert sum(sizes) >= 19_900 * 32 * 4


@pytest.mark.parametrize(
    ("factory", "metric", "width"),
    [
        ("Bogus", "l2", 16),
        ("", "l2", 16),
        ("IVF16,PQ5", "l2", 16),
        ("HNSW32_PQ4", "inner_product", 16),
        ("LSH", "l2", 16),
        ("PCA64,Flat", "l2", 16),
        ("IVF,Flat", "l2", 16),
        ("Flat,Bogus", "cosine", 16),
        ("ITQ16,LSHt", "inner_product", 16),
        ("NSG0", "l2", 16),
        ("HNSW0", "l2", 16),
        ("HNSW1", "l2", 16),
        ("IVF0,Flat", "l2", 16),
        ("IVF16_HNSW0,Flat", "l2", 16),
        ("PCA0,Flat", "l2", 16),
        ("OPQ5,Flat", "l2", 16),
        ("IDMap,IDMap,Flat", "l2", 16),
        ("PCA8,IDMap,Flat", "l2", 16),
        ("MinMaxFP16,Flat", "l2", 16),
    ],
)
def test_invalid_factory_strings_are_refused(factory, metric, width):
    """A string that FAISS rejects, or that does not support the metric, is a configuration error before any work."""
    with pytest.raises(UsageError, match=r"index\.factory") as caught:
        check_factory(IndexConfig(factory=factory, metric=metric), width)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert "std::" not in str(caught.value)


@pytest.mark.parametrize(
    ("factory", "least"),
    [
        ("Flat", 1),
        ("HNSW32", 1),
        ("SQ8", 1),
        ("IVF300,Flat", 300),
        ("IVF16,PQ4", 256),
        ("PQ4x4fs", 16),
        ("HNSW8_PQ4x5", 32),
        ("PCA8,IVF300,PQ4x4", 300),
        ("OPQ4,PQ4x4", 256),
        ("Flat,Refine(PQ4x5)", 32),
        ("IVF16,RQ2x6", 64),
        ("PRQ2x2x4", 16),
        ("IMI2x4,Flat", 16),
        ("NSG16", 256),
        ("NSG150", 300),
    ],
)
def test_the_minimum_number_of_rows_is_known_without_training(make, index_of, factory, least):
    """The minimum number of rows of a factory is enough to build it, and one fewer is refused before any work."""
    config = IndexConfig(factory=factory, metric="l2")
    check_factory(config, 16, least)
    if least > 1:
        with pytest.raises(UsageError, match=rf"expected {least} or more") as caught:
            check_factory(config, 16, least - 1)
        assert caught.value.exit_code == 2
    enough = max(least, 16)  # PCA and ranges need few rows, and fewer rows than dimensions are never published
    assert index_of(make(rows=enough + 10, carried=10), config).report.labels == enough


def test_more_lists_than_rows_are_refused(make, index_of):
    """A factory that needs more rows than exist is a configuration error."""
    with pytest.raises(UsageError, match="too few rows to train"):
        index_of(make(rows=200), IndexConfig(factory="IVF1024,Flat"))


def test_ill_formed_arrays_are_refused(side):
    """Types, order, live rows and queries, which FAISS does not check, are validated."""
    config = IndexConfig(factory="Flat")
    for vectors in (side.vectors.astype(np.float64), np.asfortranarray(side.vectors), side.vectors[:, 0]):
        with pytest.raises(UsageError, match="vectors have the wrong form"):
            refresh(vectors, side.live, side.queries, None, config)
    for live in (side.live[::-1], np.array([0, 5000]), np.array([-1, 3]), np.empty(0, np.int64)):
        with pytest.raises(UsageError, match="live rows must ascend"):
            refresh(side.vectors, live.astype(np.int64), side.queries, None, config)
    with pytest.raises(UsageError, match="queries"):
        refresh(side.vectors, side.live, side.queries[:, :3].copy(), None, config)


def test_auto_depends_on_the_number_of_items():
    """The kind is exact for few rows, a graph for more, lists for very many; near a limit it does not change back."""
    assert resolve_factory("auto", 1000) == "Flat"
    assert resolve_factory("auto", 100_000) == "HNSW32"
    assert resolve_factory("auto", 20_000_000).startswith("IVF")
    assert resolve_factory("IVF8,Flat", 1000) == "IVF8,Flat"
    assert resolve_factory("auto", 5_100, "Flat") == "Flat"
    assert resolve_factory("auto", 4_900, "HNSW32") == "HNSW32"
    assert resolve_factory("auto", 7_000, "Flat") == "HNSW32"
    assert resolve_factory("auto", 3_000, "HNSW32") == "Flat"
    check_factory(IndexConfig(), 16)


def test_the_report_is_stored_unchanged_in_the_manifest(side, index_of):
    """The report has the keys of the manifest's index object, in its order, and further ones after them."""
    built = index_of(side, IndexConfig(factory="HNSW16"))
    assert isinstance(built, Built)
    plain = msgspec.to_builtins(built.report)
    assert list(plain)[:10] == [
        "factory",
        "metric",
        "action",
        "reason",
        "recall_at_10",
        "target_recall",
        "search",
        "labels",
        "dead",
        "faiss",
    ]
    assert plain["build"] == {"efConstruction": 80, "keep_max_size_level0": 1}
    assert msgspec.convert(plain, IndexReport) == built.report
    old = {key: plain[key] for key in list(plain)[:10]}
    assert msgspec.convert(old, IndexReport).rotations == 0


def test_a_single_row_is_indexed(index_of, make, shelf):
    """A side with a single live row can be indexed."""
    side = make(rows=3, carried=2)
    for factory in ("auto", "HNSW16"):
        rows, _ = shelf.open(index_of(side, IndexConfig(factory=factory))).search(side.queries, 10)
        assert (rows == side.live[0]).all()
