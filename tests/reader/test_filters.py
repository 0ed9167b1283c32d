"""Searches by user, by item, with filters, with raw vectors, and with every metric."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from support.nights import Array, Night, configured, night
from support.quick import quick_directory
from support.stores import sync

import embsync
from embsync.errors import NotFoundError, UsageError
from embsync.reader import StoreReader, Version, search
from embsync.store import Store

SIZES = {"items": 300, "users": 80, "width": 6}


@pytest.fixture(scope="module", params=["Flat", "HNSW16", "strings"])
def reader(request: pytest.FixtureRequest) -> Iterator[StoreReader]:
    """Three nights with churn, with an exact index or a graph, and integer or string ids."""
    factory = "Flat" if request.param == "strings" else request.param
    with quick_directory() as directory:
        for number in range(3):
            made = night(number, **SIZES)
            sync(
                directory / "S",
                made.named() if request.param == "strings" else made,
                f"n{number}",
                configured(index__factory=factory),
            )
        with embsync.open(directory / "S") as opened:
            yield opened


@pytest.fixture
def version(reader: StoreReader) -> Version:
    return reader.current


def expected(version: Version, queries: Array, mask: Array, k: int) -> list[list[object]]:
    """Return the exact ids by inner product, by brute force."""
    rows = np.flatnonzero(mask & version.items.live)
    scores = queries.astype(np.float64) @ version.items.vectors[rows].T.astype(np.float64)
    return version.items.names(rows[np.argsort(-scores, axis=1, kind="stable")[:, :k]].astype(np.int64)).tolist()


@pytest.mark.parametrize("scanned", [0, 10_000])
def test_filters_are_respected_exactly(version: Version, monkeypatch: pytest.MonkeyPatch, scanned: int) -> None:
    """The results are exactly the best allowed items, by scanning and through the index; unknown ids match nothing."""
    monkeypatch.setattr(search, "_SCANNED", scanned)
    assert version.users is not None
    queries = np.asarray(version.users.vectors[:20])
    chosen = np.arange(len(version.items.ids)) % 3 == 0
    ids = version.items.names(np.flatnonzero(chosen))
    unknown = ["nobody"] if ids.dtype.kind == "U" else [-5]
    effort = version.record.index.search and {"efSearch": 400}
    allowed, _ = version.search(queries, 7, allowed=[*ids.tolist(), *unknown], parameters=effort)
    assert allowed.tolist() == expected(version, queries, chosen, 7)
    blocked, _ = version.search(queries, 7, blocked=ids, parameters=effort)
    assert blocked.tolist() == expected(version, queries, ~chosen, 7)
    both, scores = version.search(queries, 7, allowed=ids[:4], blocked=ids[:2])
    alive = version.items.live[version.items.rows(ids[:4])]
    assert both.shape == scores.shape == (20, int(alive[2:].sum()))
    assert version.search(queries, 7, allowed=unknown)[0].shape == (20, 0)
    assert version.search(queries, 7, allowed=[])[0].shape == (20, 0)


def test_k_is_limited_to_the_number_of_matches(version: Version) -> None:
    """A billion neighbours of a few hundred items are limited to all of them."""
    queries = np.asarray(version.items.vectors[:2])
    assert version.search(queries, 10**9)[0].shape == (2, 300)
    assert version.search(queries, 10**9, blocked=version.items.names(np.arange(len(version.items.ids))))[0].shape == (
        2,
        0,
    )


def test_search_by_user_equals_search_with_its_vector(version: Version) -> None:
    """The user may be live or carried; an unknown user is an error."""
    assert version.users is not None
    ids = version.users.names(np.arange(len(version.users.ids)))
    by_id, scores = version.search_by_user(ids, k=4)
    by_vector, same = version.search(version.users.vectors, k=4)
    assert by_id.tolist() == by_vector.tolist()
    np.testing.assert_array_equal(scores, same)
    with pytest.raises(NotFoundError):
        version.search_by_user(["nobody"] if ids.dtype.kind == "U" else [-5])


def test_search_by_item_excludes_the_item_itself(version: Version) -> None:
    """The other items have the same order; a carried item can be given too; a large k returns all other items."""
    ids = version.items.names(np.arange(len(version.items.ids)))
    found, scores = version.search_by_item(ids, k=4)
    assert found.shape == scores.shape == (len(ids), 4)
    assert not (found == ids[:, None]).any()
    assert np.isfinite(scores).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    one = ids[np.flatnonzero(version.items.live)[0]]
    every, scores = version.search_by_item([one], k=10**6)
    assert every.shape == (1, 300)
    others = set(ids[version.items.live].tolist()) - {one}
    found = set(every[0][np.isfinite(scores[0])].tolist())
    assert found == others
    assert every[0, 299] in {"", -1}
    assert scores[0, 299] == -np.inf
    assert one not in version.search_by_item([one], k=3, blocked=[one])[0].tolist()[0]


def test_raw_queries_are_mapped_by_their_own_version(reader: StoreReader) -> None:
    """Raw users give the same results as their stable vectors; those of an older version use that version's maps."""
    made = night(2, **SIZES)
    raw = made.both[1]
    version = reader.current
    stable = version.transform.users(raw)
    assert version.search(raw, 5, space="snapshot")[0].tolist() == version.search(stable, 5)[0].tolist()
    with reader.version(1) as old:
        raw = night(0, **SIZES).both[1]
        found = version.search(raw, 5, space="snapshot", snapshot=old)[0]
        assert found.tolist() == version.search(old.transform.users(raw), 5)[0].tolist()
        with pytest.raises(UsageError, match="found version 1; expected pass space='snapshot' too"):
            version.search(raw, 5, snapshot=old)
    with pytest.raises(UsageError, match="unknown space"):
        version.search(raw, space="raw")
    with pytest.raises(UsageError, match="wrong width"):
        version.search(raw[:, :4], space="snapshot")


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_filtered_scores_are_those_of_the_metric(metric: str) -> None:
    """Scores by scanning and from the index agree up to rounding."""
    with quick_directory() as directory:
        config = configured(index__metric=metric, space__standardize=False)
        sync(directory / "S", night(0, **SIZES), "n0", config)
        with embsync.open(directory / "S") as reader:
            version = reader.current
            queries = version.users.vectors[:9]
            ids, scores = version.search(queries, 6)
            same, again = version.search(queries, 6, allowed=version.items.ids)
            assert ids.tolist() == same.tolist()
            np.testing.assert_allclose(scores, again, atol=1e-5)


def test_raw_queries_of_a_narrower_version_are_padded() -> None:
    """After ``widen``, raw vectors of the older version can still be used."""
    from embsync.pipeline.widen import widen

    with quick_directory() as directory:
        made: Night = night(0, **SIZES)
        sync(directory / "S", made, "n0")
        widen(Store(directory / "S"), 8, configured())
        with embsync.open(directory / "S") as reader, reader.version(1) as old:
            assert reader.current.record.dimension == 8
            found, _ = reader.current.search(made.both[1], 3, space="snapshot", snapshot=old)
            assert found.tolist() == old.search(made.both[1], 3, space="snapshot")[0].tolist()
