"""If at least k items may be found, k are returned, and most of them are the best."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from support.nights import Array, configured, night
from support.quick import quick_directory
from support.stores import sync

import embsync
from embsync.index.points import effort_at
from embsync.manifest import IndexReport, OperatingPoint
from embsync.reader import StoreReader, Version, search

ITEMS = 3000
LIVE = np.arange(ITEMS)


@pytest.fixture(scope="module", params=["HNSW4", "IVF64,Flat", "IVF2,Flat", "IVF32,SQ8,RFlat", "Flat"])
def reader(request: pytest.FixtureRequest) -> Iterator[StoreReader]:
    """One night with indexes that reach few items at the effort for ten: lists, small lists, refined, exact."""
    with quick_directory() as directory:
        sync(
            directory / "S",
            night(0, items=ITEMS, users=40, width=6),
            "n0",
            configured(index__factory=request.param, index__target_recall=0.8),
        )
        with embsync.open(directory / "S") as opened:
            yield opened


def best(version: Version, queries: Array, rows: Array, k: int) -> list[set[int]]:
    """Return the exact k best of some rows, for each query."""
    scores = queries @ np.asarray(version.items.vectors[rows]).T
    return [set(version.items.ids[rows[np.argsort(-line)[:k]]].tolist()) for line in scores]


@pytest.mark.parametrize("k", [1, 10, 11, 60, 100, 250, 1000, ITEMS - 1, ITEMS, ITEMS + 1, 10**9])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.3, 0.02, 0.001, 0.0])
def test_as_many_results_as_requested_are_returned(
    reader: StoreReader, monkeypatch: pytest.MonkeyPatch, k: int, share: float
) -> None:
    """None is missing, with or without filters; if fewer may be found, all of them are returned."""
    monkeypatch.setattr(search, "_SCANNED", 1)  # otherwise every filter here is a scan
    version = reader.current
    queries = np.asarray(version.users.vectors[:20])
    rows = np.flatnonzero(np.random.default_rng(3).random(ITEMS) < share) if share < 1 else LIVE
    filters = {} if share == 1 else {"allowed": version.items.ids[rows]}
    ids, scores = version.search(queries, k, **filters)
    wanted = min(k, len(rows))
    assert ids.shape == scores.shape == (20, wanted)
    assert np.isfinite(scores).all()
    assert all(len(set(line)) == wanted for line in ids.tolist())
    assert (np.diff(scores, axis=1) <= 0).all()
    found = sum(len(a & set(b)) for a, b in zip(best(version, queries, rows, k), ids.tolist(), strict=True))
    assert found >= 0.7 * 20 * wanted


@pytest.mark.parametrize("factory", ["HNSW32", "IVF128,Flat"])
def test_filters_do_not_lower_the_recall(factory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recall is kept by the index and by scanning, at every selectivity, for labels correlated with vectors or not."""
    with quick_directory() as directory:
        made = night(0, items=6000, users=200, width=16)
        sync(directory / "S", made, "n0", configured(index__factory=factory))
        with embsync.open(directory / "S") as opened:
            version = opened.current
            queries = np.asarray(version.users.vectors)
            unfiltered = shared(version, queries, np.arange(6000), {})
            assert unfiltered >= 0.95
            orders = np.random.default_rng(0).permutation(6000), np.argsort(version.items.vectors[:, 0])
            for scanned in (1, 10_000):
                monkeypatch.setattr(search, "_SCANNED", scanned)
                for share in (0.5, 0.1, 0.01, 0.001):
                    for order in orders:
                        rows = np.sort(order[: int(share * 6000)])
                        found = shared(version, queries, rows, {"allowed": version.items.ids[rows]})
                        assert found >= unfiltered - 0.005, (scanned, share)
                        assert scanned == 1 or found == 1.0


def shared(version: Version, queries: Array, rows: Array, filters: dict[str, Array]) -> float:
    """Return the share of the exact ten best that is found."""
    ids, _ = version.search(queries, 10, **filters)
    exact = best(version, queries, rows, 10)
    return sum(len(a & set(b)) for a, b in zip(exact, ids.tolist(), strict=True)) / sum(map(len, exact))


def test_blocking_one_item_returns_no_more_results(reader: StoreReader) -> None:
    """With one unrelated item blocked, the number of results is the same."""
    version = reader.current
    queries = np.asarray(version.users.vectors[:20])
    assert version.search(queries, 900, blocked=[version.items.ids[0]])[0].shape == (20, 900)
    ids, scores = version.search_by_item(version.items.ids[:20], 900)
    assert np.isfinite(scores).all()
    assert ids.shape == (20, 900)


def test_a_given_effort_is_used_and_short_results_are_filled(reader: StoreReader) -> None:
    """The least effort finds few results; a scan adds the others."""
    version = reader.current
    queries = np.asarray(version.users.vectors[:20])
    least = dict.fromkeys(version.record.index.search, 1)
    ids, scores = version.search(queries, 900, parameters=least)
    assert np.isfinite(scores).all()
    assert ids.shape == (20, 900)


def test_the_manifest_has_the_measurements_at_both_k(reader: StoreReader) -> None:
    """The first measurement decides, and the older fields have its values."""
    report = reader.current.record.index
    first, second = report.operating_points
    assert (first.k, second.k) == (10, 100)
    assert (first.recall, first.search) == (report.recall_at_10, report.search)
    assert first.recall is not None
    assert second.recall is not None
    assert first.recall >= 0.8
    assert second.recall >= 0.7  # the best recall of a graph with four links
    assert set(second.search) == set(first.search)


def test_effort_grows_with_k() -> None:
    """Effort never decreases with k; it is the manifest's up to the first point, and interpolated between points."""
    points = [OperatingPoint(10, 0.9, {"nprobe": 4}), OperatingPoint(100, 0.9, {"nprobe": 40})]
    efforts = [effort_at(points, k)["nprobe"] for k in range(1, 2000)]
    assert efforts[:10] == [4] * 10
    assert efforts[54] == 22
    assert (efforts[99], efforts[199], efforts[999]) == (40, 160, 800)
    assert efforts == sorted(efforts)


def test_a_manifest_of_an_earlier_release_applies_at_k_10() -> None:
    """The effort for other k is scaled from it."""
    report = IndexReport("HNSW32", "inner_product", "rebuilt", "", 0.96, 0.95, {"efSearch": 20}, 5, 0, "1.15.1")
    plain = msgspec.to_builtins(report)
    del plain["operating_points"]
    old = msgspec.convert(plain, IndexReport)
    assert effort_at(old.points, 10) == {"efSearch": 20}
    assert effort_at(old.points, 40) == {"efSearch": 160}
