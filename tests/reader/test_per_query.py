"""Filters for each query, and unknown ids in a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.nights import Array, configured, night
from support.quick import quick_directory
from support.stores import sync

import embsync
from embsync.cli.main import run
from embsync.errors import NotFoundError, UsageError
from embsync.reader import StoreReader, Version


@pytest.fixture(scope="module", params=["Flat", "HNSW16", "strings"])
def reader(request: pytest.FixtureRequest) -> Iterator[StoreReader]:
    """Three nights with churn, with an exact index or a graph, and integer or string ids."""
    with quick_directory() as directory:
        for number in range(3):
            made = night(number, items=300, users=80, width=6)
            factory = "Flat" if request.param == "strings" else request.param
            given = made.named() if request.param == "strings" else made
            sync(directory / "S", given, f"n{number}", configured(index__factory=factory))
        with embsync.open(directory / "S") as opened:
            yield opened


@pytest.fixture
def version(reader: StoreReader) -> Version:
    return reader.current


@pytest.fixture
def users(version: Version) -> Array:
    return version.side("users").names(np.arange(30))


def one_by_one(version: Version, users: Array, k: int, **filters: list[Array]) -> tuple[list[object], list[object]]:
    """Return the results of each user alone, without missing hits."""
    found = [
        version.search_by_user(users[[place]], k, **{name: lists[place] for name, lists in filters.items()})
        for place in range(len(users))
    ]
    return [ids[0].tolist() for ids, _ in found], [scores[0].tolist() for _, scores in found]


@pytest.mark.parametrize("k", [1, 10, 290, 400])
@pytest.mark.parametrize("names", [("allowed",), ("blocked",), ("allowed", "blocked")])
def test_each_query_has_its_own_list(version: Version, users: Array, k: int, names: tuple[str, ...]) -> None:
    """A query gets the same results in a batch as alone: the best blocked, unknown ids, no list, empty, repeated."""
    best, _ = version.search_by_user(users, 300)
    unknown = np.array(["nobody"] if best.dtype.kind == "U" else [-5])
    lists: dict[str, list[Array]] = {}
    for name in names:
        lists[name] = [np.concatenate([line[: 7 * place], line[:2], unknown]) for place, line in enumerate(best)]
        lists[name][4] = None
        lists[name][5] = lists[name][5][:0]
    ids, scores = version.search_by_user(users, k, **lists)
    expected, their_scores = one_by_one(version, users, k, **lists)
    for place in range(len(users)):
        there = np.isfinite(scores[place])
        assert ids[place][there].tolist() == expected[place]
        np.testing.assert_allclose(scores[place][there], their_scores[place], rtol=1e-5, atol=1e-6)
        assert set(ids[place][~there].tolist()) <= {-1, ""}


def test_a_common_list_combines_with_lists_per_query(version: Version, users: Array) -> None:
    """Both lists apply, also given as a matrix, and together with the exclusion of the item itself."""
    best, _ = version.search_by_user(users, 12)
    ids, _ = version.search_by_user(users, 5, allowed=best[0], blocked=best)
    assert not any(set(mine) & set(theirs) - {-1, ""} for mine, theirs in zip(ids.tolist(), best.tolist(), strict=True))
    assert set(ids.ravel().tolist()) - {-1, ""} <= set(best[0].tolist())
    ids, _ = version.search_by_item(best[:, 0], 5, blocked=best[:, 1:])
    assert not any(set(mine) & set(theirs) for mine, theirs in zip(ids.tolist(), best.tolist(), strict=True))


@pytest.mark.parametrize("name", ["allowed", "blocked"])
def test_lists_of_another_length_are_refused(version: Version, users: Array, name: str) -> None:
    """Another number of lists than queries, lists for some queries only, and another type are refused."""
    one = version.items.names(np.arange(2)).tolist()
    with pytest.raises(UsageError, match=f"{name} and queries differ in number; found 2 lists; expected 30"):
        version.search_by_user(users, 5, **{name: [one, one]})
    with pytest.raises(UsageError, match=f"{name} has a list for some queries only"):
        version.search_by_user(users[:2], 5, **{name: [one, one[0]]})
    with pytest.raises(UsageError, match="ids of the wrong type"):
        version.search_by_user(users[:2], 5, **{name: [one, [1.5]]})


def test_unknown_ids_do_not_fail_a_batch(version: Version, users: Array) -> None:
    """They get no results, or those of the mean; the other queries get the results they get alone."""
    unknown = "nobody" if users.dtype.kind == "U" else -5
    asked = [users[0], unknown, users[1]]
    alone, _ = version.search_by_user(users[:2], 5)
    ids, scores = version.search_by_user(asked, 5, missing="nan")
    assert ids[[0, 2]].tolist() == alone.tolist()
    assert np.isneginf(scores[1]).all()
    assert set(ids[1].tolist()) <= {-1, ""}
    ids, _ = version.search_by_user(asked, 5, missing="mean")
    assert ids[1].tolist() == version.search(version.side("users").mean, 5)[0][0].tolist()
    items = version.items.names(np.arange(2)).tolist()
    ids, _ = version.search_by_item([items[0], unknown], 5, missing="mean")
    assert ids[0].tolist() == version.search_by_item(items[:1], 5)[0][0].tolist()
    assert ids[1].tolist() == version.search(version.items.mean, 5)[0][0].tolist()
    side = version.side("users")
    assert side.age(asked, "nan").tolist() == [*side.age(asked[:1]).tolist(), -1, *side.age(asked[2:]).tolist()]
    assert side.origin([unknown], "nan").tolist() == [-1]
    with pytest.raises(NotFoundError, match="missing=nan to get -1"):
        side.age(asked)
    with pytest.raises(UsageError, match="expected raise or nan"):
        side.age(asked, "mean")
    with pytest.raises(UsageError, match="expected raise, nan or mean"):
        version.search_by_user(asked, missing="none")


def test_filters_can_be_read_from_files(
    reader: StoreReader, users: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON may have lists of different lengths, .npy a matrix; anything else is an error of one line."""
    best, _ = reader.current.search_by_user(users[:2], 6)
    ragged = [best[0, :3].tolist(), None]
    (tmp_path / "seen.json").write_text(json.dumps(ragged))
    (tmp_path / "wrong.json").write_text('{"a": 1}')
    np.save(tmp_path / "seen.npy", best[:, :3])
    base = [
        "search",
        "--store",
        str(reader.root),
        "--json",
        "-k",
        "3",
        "--user",
        str(users[0]),
        "--user",
        str(users[1]),
    ]
    for name, given in (("seen.json", ragged), ("seen.npy", best[:, :3])):
        assert run([*base, "--block-file", str(tmp_path / name)]) == 0
        found = [[hit["id"] for hit in hits] for hits in json.loads(capsys.readouterr().out)["results"]]
        assert found == reader.current.search_by_user(users[:2], 3, blocked=given)[0].tolist()
    assert run([*base, "--block-file", str(tmp_path / "wrong.json")]) == 2
    assert "not a filter" in capsys.readouterr().err
    (tmp_path / "three.json").write_text(json.dumps([ragged[0]] * 3))
    assert run([*base, "--block-file", str(tmp_path / "three.json")]) == 2
    assert "blocked and queries differ in number; found 3 lists; expected 2" in capsys.readouterr().err
    assert run([*base, "--user", "-77", "--missing", "nan"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][2] == []


def test_a_side_behaves_as_a_collection_of_ids(version: Version) -> None:
    """Live and carried ids are contained, other values are not; blocks give each row once, in order."""
    side = version.items
    names = side.names(np.arange(len(side)))
    assert len(side) == len(side.ids) == 300 + version.record.items.carried
    assert all(name in side for name in names.tolist())
    assert not any(other in side for other in ("nobody", -5, 1.5, None, [1], 2**70))
    for step in (None, 1, 7, len(side), 10**6):
        blocks = list(side.blocks(step))
        np.testing.assert_array_equal(np.concatenate([ids for ids, _ in blocks]), names)
        np.testing.assert_array_equal(np.concatenate([vectors for _, vectors in blocks]), side.vectors)
    with pytest.raises(UsageError, match="at least one row"):
        next(side.blocks(0))
