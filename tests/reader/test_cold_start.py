"""Vectors of missing ids: carried up to a maximum age, or folded in from interactions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
from support.nights import night
from support.quick import quick_directory
from support.stores import sync

import embsync
from embsync.errors import NotFoundError, UsageError
from embsync.reader import StoreReader, Version

SIZES = {"items": 100, "users": 80, "width": 6}


@pytest.fixture(scope="module")
def reader() -> Iterator[StoreReader]:
    with quick_directory() as directory:
        for number in range(3):
            sync(directory / "S", night(number, **SIZES), f"n{number}")
        with embsync.open(directory / "S") as opened:
            yield opened


@pytest.fixture
def version(reader: StoreReader) -> Version:
    return reader.current


@pytest.fixture
def gone() -> list[int]:
    """Items of the first night only."""
    return [int(id_) for id_ in np.setdiff1d(night(0, **SIZES).item_ids, night(1, **SIZES).item_ids)]


def test_the_version_of_a_vector_is_known(version: Version, gone: list[int]) -> None:
    """The version is the last one in which the id was live."""
    live = int(version.items.ids[version.items.live][0])
    assert version.items.origin([gone[0], live]).tolist() == [1, 3]
    with pytest.raises(NotFoundError):
        version.items.origin([-1])


def test_vectors_older_than_the_limit_count_as_missing(version: Version, gone: list[int]) -> None:
    """Ids whose age exceeds ``max_age`` are handled as ``missing`` specifies."""
    live = int(version.items.ids[version.items.live][0])
    assert np.isfinite(version.items.lookup(gone, max_age=2)).all()
    with pytest.raises(NotFoundError, match=str(gone[0])):
        version.items.lookup([live, *gone], max_age=1)
    rows = version.items.lookup([live, *gone], "nan", max_age=0)
    assert np.isnan(rows).all(axis=1).tolist() == [False] + [True] * len(gone)


def test_query_ids_older_than_the_limit_count_as_missing(version: Version, gone: list[int]) -> None:
    """Searches by users or items apply ``max_age`` as ``lookup`` does, and ``missing`` determines the results."""
    assert version.users is not None
    live, old = int(version.users.ids[version.users.live][0]), version.users.ids[~version.users.live][:2].tolist()
    age = int(version.users.age(old).min())
    for side, ids, search, limit in (
        (version.users, [live, *old], version.search_by_user, age - 1),
        (version.items, [int(version.items.ids[version.items.live][0]), *gone], version.search_by_item, 1),
    ):
        own, _ = search(ids, 3, max_age=limit + 5)
        np.testing.assert_array_equal(own, search(ids, 3)[0])
        with pytest.raises(NotFoundError, match=str(ids[1])):
            search(ids, 3, max_age=limit)
        found, scores = search(ids, 3, max_age=limit, missing="nan")
        assert (found < 0).all(axis=1).tolist() == [False] + [True] * (len(ids) - 1)
        assert np.isneginf(scores[1:]).all()
        np.testing.assert_array_equal(found[0], own[0])
        if side is version.users:
            mean = version.search(side.mean, 3)[0]
            np.testing.assert_array_equal(search(ids, 3, max_age=limit, missing="mean")[0][1:], np.repeat(mean, 2, 0))


def test_ridge_solves_the_normal_equations(version: Version) -> None:
    """For few and many interactions, with weights, the gradient of the documented objective is zero."""
    assert version.users is not None
    random = np.random.default_rng(0)
    energy = float((version.items.vectors[version.items.live].astype(np.float64) ** 2).sum(axis=1).mean())
    for count in (1, 3, 40):
        ids = random.choice(version.items.ids, count, replace=False)
        weights = random.uniform(0.5, 3, count)
        user = version.users.fold_in(ids, weights, regularization=0.7).astype(np.float64)
        rows = version.items.lookup(ids).astype(np.float64)
        gradient = (weights * (rows @ user - 1)) @ rows + 0.7 * energy * user
        assert np.abs(gradient).max() < 1e-4
        assert user.shape == (6,)


def test_the_mean_is_the_mean_of_unit_vectors(version: Version) -> None:
    """The mean is weighted, and an item given twice counts twice."""
    assert version.users is not None
    ids = version.items.ids[:3].tolist()
    rows = version.items.lookup(ids).astype(np.float64)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(version.users.fold_in(ids, method="mean"), units.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        version.users.fold_in([*ids, ids[0]], method="mean"),
        version.users.fold_in(ids, [2, 1, 1], method="mean"),
        atol=1e-6,
    )
    np.testing.assert_allclose(version.users.fold_in([*ids, ids[0]]), version.users.fold_in(ids, [2, 1, 1]), atol=1e-6)


def test_the_nearest_are_the_live_rows_with_the_highest_cosine(version: Version) -> None:
    """The mean of thirty rows, on either side; a batch of lists gives the same as single calls."""
    assert version.users is not None
    for side, other in ((version.users, version.items), (version.items, version.users)):
        lists = [other.ids[:3].tolist(), other.ids[7:12].tolist()]
        live = np.asarray(side.vectors[side.live], np.float64)
        units = live / np.linalg.norm(live, axis=1, keepdims=True)
        expected = [live[np.argsort(-(units @ row))[:30]].mean(axis=0) for row in side.fold_in(lists)]
        found = side.fold_in(lists, method="nearest")
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(side.fold_in(lists[1], method="nearest"), found[1], atol=1e-6)
    strangers = version.users.fold_in([[], version.items.ids[:2].tolist()], method="nearest", missing="nan")
    assert np.isnan(strangers).all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize("method", ["ridge", "mean", "nearest"])
def test_a_negative_weight_is_a_dislike(version: Version, method: Literal["ridge", "mean", "nearest"]) -> None:
    """The item's score is lower than without it; ratings are used as weights; the ridge solves its own equations."""
    assert version.users is not None
    ids = version.items.ids[:6]
    row = version.items.lookup(ids[5:])[0]
    without = version.users.fold_in(ids[:5], [5, 4, 3, 4.5, 0.5], method=method)
    disliked = version.users.fold_in(ids, [5, 4, 3, 4.5, 0.5, -4], method=method)
    assert float(row @ disliked) < float(row @ without)
    if method == "ridge":
        rows, user = version.items.lookup(ids).astype(np.float64), disliked.astype(np.float64)
        signs, sizes = np.array([1, 1, 1, 1, 1, -1.0]), np.array([5, 4, 3, 4.5, 0.5, 4])
        energy = float((version.items.vectors[version.items.live].astype(np.float64) ** 2).sum(axis=1).mean())
        assert np.abs((sizes * (rows @ user - signs)) @ rows + energy * user).max() < 1e-4
    assert version.users.fold_in(ids[:2], [-1, -1], method=method).shape == (6,)


def test_a_batch_equals_single_calls(version: Version) -> None:
    """Lists of different lengths with weights give the same as single calls; an item is folded in from users."""
    assert version.users is not None
    lists = [version.items.ids[:3].tolist(), version.items.ids[5:6].tolist(), version.items.ids[10:30].tolist()]
    weights = [[1.0] * len(one) for one in lists]
    batch = version.users.fold_in(lists, weights)
    assert batch.shape == (3, 6)
    assert batch.dtype == np.float32
    for one, row in zip(lists, batch, strict=True):
        np.testing.assert_allclose(version.users.fold_in(one), row, atol=1e-7)
    assert version.users.fold_in([[]], missing="mean").shape == (1, 6)
    assert version.items.fold_in(version.users.ids[:4]).shape == (6,)


@pytest.mark.parametrize("regularization", [5e-324, 1e-20, 1.0, 1e300])
@pytest.mark.parametrize("largest", [1.0, 1e18, 1e308])
def test_extreme_weights_and_regularizations_give_finite_vectors(
    version: Version, regularization: float, largest: float
) -> None:
    """Singular systems and repeated ids give finite vectors; the ridge's limit is minimum-norm least squares."""
    assert version.users is not None
    ids = version.items.ids[[0, 0, 1, 2]].tolist()
    user = version.users.fold_in(ids, [1, largest, 1e-300, 1], regularization=regularization)
    assert np.isfinite(user).all()
    assert np.isfinite(version.users.fold_in(ids, [1, largest, largest, 1], method="mean")).all()
    if regularization < 1e-10 and largest == 1:
        rows = version.items.lookup(ids)[[0, 3]].astype(np.float64)
        np.testing.assert_allclose(rows @ user, [1, 1], atol=1e-5)
        kernel = np.linalg.svd(version.items.lookup(ids).astype(np.float64))[2][3:]
        np.testing.assert_allclose(kernel @ user, 0, atol=1e-5)


def test_folding_in_a_trained_user_approximates_its_vector(version: Version) -> None:
    """A user folded in from its own ten best items is closer to its vector than to another user's."""
    assert version.users is not None
    users = version.users.vectors[version.users.live]
    liked, _ = version.search(users, k=10)
    folded = version.users.fold_in(liked)
    cosines = (folded * users).sum(axis=1) / np.linalg.norm(folded, axis=1) / np.linalg.norm(users, axis=1)
    assert cosines.mean() > 0.8


def test_unknown_ids_are_handled_as_requested(version: Version) -> None:
    """They raise an error that names them, or are omitted; a list without known ids gives NaN or the mean."""
    assert version.users is not None
    known = version.items.ids[:2].tolist()
    with pytest.raises(NotFoundError, match="unknown items ids; found -9"):
        version.users.fold_in([*known, -9])
    for missing in ("nan", "mean"):
        np.testing.assert_allclose(
            version.users.fold_in([*known, -9], [1, 1, 5], missing=missing), version.users.fold_in(known), atol=1e-7
        )
    assert np.isnan(version.users.fold_in([[-9], known], missing="nan")[0]).all()
    np.testing.assert_array_equal(version.users.fold_in([-9], missing="mean"), version.users.mean)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([], {}, "nothing to fold in"),
        ([[1007], []], {}, None),
        ([1007], {"weights": [1, 2]}, "weights and ids differ in number"),
        ([1007], {"weights": [0]}, "must be finite and nonzero"),
        ([1007], {"weights": [float("nan")]}, "must be finite and nonzero"),
        ([1007], {"method": "median"}, "unknown fold-in method"),
        ([1007], {"regularization": 0}, "regularization"),
        ([1007], {"regularization": 1.7e308}, "regularization is too large; found 1.7e"),
        (1007, {}, "not lists of ids; found 1007"),
        (None, {}, "not lists of ids; found None"),
        (np.array(1007), {}, "not lists of ids"),
        ([1007], {"missing": "zero"}, "unknown option for missing"),
        ([1.5], {}, "wrong type"),
        ([[1007], 5], {}, "list 1: not a list of ids; found 5"),
        ([1007], {"weights": ["a"]}, "weights are not numbers"),
        ([[1007]], {"weights": 3}, "weights are not numbers"),
    ],
)
def test_invalid_arguments_are_refused(version: Version, ids: Any, options: dict[str, Any], message: str) -> None:
    """The message has the value found and the expected one."""
    assert version.users is not None
    if isinstance(ids, list) and 1007 in ids:
        ids = version.items.ids[:1].tolist()
    with pytest.raises((UsageError, NotFoundError), match=message):
        version.users.fold_in(ids, **options)


def test_a_store_of_items_folds_in_items() -> None:
    """A new item or a basket is folded in from related items."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, **SIZES).one_sided(), "n0")
        with embsync.open(directory / "S") as reader:
            items = reader.current.items
            assert items.fold_in(items.ids[:3]).shape == (6,)


@pytest.mark.parametrize("ids", [["1_007"], [" 1007"], ["१२"], ["\ud800"], [2**70], [None], [""]])
def test_ids_of_other_types_are_refused_or_unknown(version: Version, ids: list[Any]) -> None:
    """They are never taken for another id, and raise no other kind of error."""
    with pytest.raises((UsageError, NotFoundError)):
        version.items.lookup(ids)
