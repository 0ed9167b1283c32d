"""Properties of the method that hold for every snapshot, checked with dense float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.laws import Pair, aligned, law, pairs, relative, score_error
from support.nights import Array, night, rotation

import embsync
from embsync.alignment.standardize import RANK_TOLERANCE

FLOAT32 = 2e-6


@law
@given(pairs())
def test_no_score_changes(pair: Pair) -> None:
    """The scores of a new space equal the raw ones for any rank, number of rows and number type."""
    found = embsync.stabilize(pair.items, pair.users)
    assert found.users is not None
    assert found.items.dtype == found.users.dtype == np.float32
    assert score_error((found.items, found.users), (pair.items, pair.users)) < FLOAT32
    assert found.rank == pair.rank
    assert found.preservation.score_error < 1e-6


@law
@given(pairs(), st.integers(0, 2**32 - 1), st.sampled_from((0, 1, 3)))
def test_no_score_changes_when_aligned_to_anchors(pair: Pair, seed: int, wider: int) -> None:
    """Alignment to unrelated anchors, in a space as wide or wider, changes no score."""
    random = np.random.default_rng(seed)
    k = pair.width + wider
    before = embsync.stabilize(random.standard_normal((50, k)), random.standard_normal((40, k)))
    found = aligned(pair.items, pair.users, anchors=before.anchors)
    assert found.users is not None
    assert found.items.shape[1] == k
    assert score_error((found.items, found.users), (pair.items, pair.users)) < FLOAT32


@law
@given(pairs(dtypes=("<f8",)))
def test_maps_change_scores_only_by_rounding(pair: Pair) -> None:
    """(T A_T)(W A_W)^T = T W^T in float64, before rounding to float32."""
    maps = embsync.stabilize(pair.items, pair.users).transform
    assert score_error((pair.items @ maps.items, pair.users @ maps.side("users")), (pair.items, pair.users)) < 1e-7


@law
@given(pairs())
def test_the_product_of_the_maps_is_a_projection_of_that_rank(pair: Pair) -> None:
    """A_W^T A_T = Q^T I_r Q: symmetric, idempotent, of trace r."""
    found = embsync.stabilize(pair.items, pair.users)
    product = found.transform.side("users").T @ found.transform.items
    # A small singular value is known to eps times the largest, and its map grows as its inverse square root.
    smallest = found.transform.singular_values[found.rank - 1] / found.transform.singular_values[0]
    tolerance = max(1e-11, 1e-14 / smallest)
    assert np.abs(product - product.T).max() < tolerance
    assert np.abs(product @ product - product).max() < tolerance
    assert np.trace(product) == pytest.approx(pair.rank, abs=10 * tolerance)
    assert found.preservation.map_error < tolerance


@law
@given(pairs(full_rank=True))
def test_the_inverse_of_one_map_is_the_transpose_of_the_other(pair: Pair) -> None:
    """A_T A_W^T = I at full rank, and the stored inverses bring the raw vectors back."""
    found = embsync.stabilize(pair.items, pair.users)
    maps = found.transform
    assert maps.invertible
    assert np.abs(maps.items @ maps.side("users").T - np.eye(pair.width)).max() < 1e-10
    assert relative(found.items.astype(np.float64) @ maps.inverse("items"), pair.items) < 1e-5
    assert found.users is not None
    assert relative(found.users.astype(np.float64) @ maps.inverse("users"), pair.users) < 1e-5


@law
@given(pairs(full_rank=True), pairs(full_rank=True))
def test_maps_of_two_versions_compose(first: Pair, second: Pair) -> None:
    """A raw vector mapped to the raw basis of another version has the same stable vector there."""
    assume(second.width <= first.width)
    one = embsync.stabilize(first.items, first.users)
    two = aligned(second.items, second.users, anchors=one.anchors)
    moved = second.items.astype(np.float64) @ two.transform.to(one.transform, "items")
    again = moved @ one.transform.items
    assert relative(again, second.items.astype(np.float64) @ two.transform.items) < 1e-8
    back = two.transform.to(one.transform, "users") @ one.transform.to(two.transform, "users")
    if second.width == first.width:
        assert np.abs(back - np.eye(second.width)).max() < 1e-8


def test_maps_of_spaces_of_different_width_do_not_compose() -> None:
    """The error for versions across a widening asks for padding."""
    first, second = night(0), night(0)
    one = embsync.stabilize(*first.both, dimension=8)
    two = embsync.stabilize(*second.both, dimension=10)
    with pytest.raises(embsync.EmbsyncError, match=r"found 8 dimensions; expected 10"):
        one.transform.to(two.transform, "items")
    np.testing.assert_allclose(one.transform.widened(10).to(two.transform, "users"), np.eye(8), atol=1e-10)


@law
@given(pairs(full_rank=True), st.integers(0, 9))
def test_a_rotation_of_the_axes_is_undone(pair: Pair, seed: int) -> None:
    """A model with rotated or mirrored axes gets the same stable vectors."""
    turn = rotation(pair.width, seed)
    first = embsync.stabilize(pair.items, pair.users)
    second = aligned(pair.items @ turn, pair.users @ turn, anchors=first.anchors)
    assert first.users is not None
    assert second.users is not None
    assert relative(second.items, first.items) < 1e-5
    assert relative(second.users, first.users) < 1e-5


@law
@given(pairs(full_rank=True), st.floats(0.01, 100.0))
def test_a_different_scale_of_the_two_sides_is_undone(pair: Pair, factor: float) -> None:
    """Items times c and users divided by c have the same scores, and get the same stable vectors."""
    first = embsync.stabilize(pair.items, pair.users)
    second = aligned(pair.items * factor, pair.users / factor, anchors=first.anchors)
    assert relative(second.items, first.items) < 1e-5


@law
@given(pairs(full_rank=True), st.integers(0, 99))
def test_any_score_preserving_change_of_basis_is_undone(pair: Pair, seed: int) -> None:
    """T C and W C^-T have the same scores, and get the same stable vectors, also if C is not a rotation."""
    random = np.random.default_rng(seed)
    C = rotation(pair.width, seed) * np.exp(random.uniform(-1, 1, pair.width))
    first = embsync.stabilize(pair.items, pair.users)
    second = aligned(
        pair.items.astype(np.float64) @ C, pair.users.astype(np.float64) @ np.linalg.inv(C).T, anchors=first.anchors
    )
    assert relative(second.items, first.items) < 1e-5


@law
@given(pairs(full_rank=True))
def test_both_sides_get_the_same_energy(pair: Pair) -> None:
    """In a new space, the Gram matrices of both stable sides are diag(S), with S the singular values of T W^T."""
    found = embsync.stabilize(pair.items, pair.users)
    S = np.linalg.svd(pair.scores, compute_uv=False)[: pair.width]
    np.testing.assert_allclose(found.transform.singular_values, S, rtol=1e-7)
    for name, raw in (("items", pair.items), ("users", pair.users)):
        rows = raw.astype(np.float64) @ found.transform.side("items" if name == "items" else "users")
        np.testing.assert_allclose(rows.T @ rows, np.diag(S), atol=1e-8 * S[0])


@law
@given(pairs(), st.booleans())
def test_a_single_side_keeps_its_inner_products(pair: Pair, anchored: bool) -> None:
    """Without users the map is orthonormal: item-item products, norms and distances are kept."""
    anchors = None
    if anchored:
        other = np.random.default_rng(pair.seed).standard_normal((60, pair.width + 1))
        anchors = embsync.stabilize(other).anchors
    found = aligned(pair.items, anchors=anchors)
    assert found.users is None
    assert found.transform.users is None
    assert score_error((found.items, found.items), (pair.items, pair.items)) < FLOAT32
    A = found.transform.items
    np.testing.assert_allclose(A @ A.T, np.eye(pair.width), atol=1e-12)


@law
@given(pairs(full_rank=True))
def test_without_standardizing_both_sides_share_one_orthonormal_map(pair: Pair) -> None:
    """``standardize=False`` keeps norms on both sides, and so the neighbours by cosine and l2."""
    found = embsync.stabilize(pair.items, pair.users, standardize=False)
    np.testing.assert_array_equal(found.transform.items, found.transform.side("users"))
    A = found.transform.items
    np.testing.assert_allclose(A.T @ A, np.eye(pair.width), atol=1e-12)
    assert found.users is not None
    assert score_error((found.items, found.users), (pair.items, pair.users)) < FLOAT32


@law
@given(pairs(full_rank=True), st.integers(1, 4))
def test_a_wider_space_loses_nothing(pair: Pair, extra: int) -> None:
    """With e < k in a new space, the extra axes are zero, and nothing is lost."""
    found = embsync.stabilize(pair.items, pair.users, dimension=pair.width + extra)
    assert not found.items[:, pair.width :].any()
    assert found.truncation_loss == 0.0
    narrow = embsync.stabilize(pair.items, pair.users)
    np.testing.assert_array_equal(found.items[:, : pair.width], narrow.items)


@law
@given(pairs(full_rank=True), st.integers(1, 6), st.booleans())
def test_the_loss_of_a_narrower_space_is_known_exactly(pair: Pair, less: int, anchored: bool) -> None:
    """With e > k the k leading directions are kept, which is optimal, and the reported loss is exact."""
    assume(less < pair.width)
    k = pair.width - less
    anchors = None
    if anchored:
        random = np.random.default_rng(pair.seed)
        anchors = embsync.stabilize(random.standard_normal((60, k)), random.standard_normal((50, k))).anchors
    found = aligned(pair.items, pair.users, dimension=None if anchored else k, anchors=anchors)
    S = np.linalg.svd(pair.scores, compute_uv=False)
    best = float(np.sqrt(np.sum(S[k:] ** 2) / np.sum(S**2)))
    assert found.users is not None
    assert found.items.shape[1] == k
    assert found.truncation_loss == pytest.approx(best, rel=1e-9)
    assert score_error((found.items, found.users), (pair.items, pair.users)) == pytest.approx(best, rel=1e-5)
    assert found.preservation.score_error == pytest.approx(best, rel=1e-5)


@law
@given(pairs(full_rank=True), st.integers(1, 6), st.booleans())
def test_the_loss_is_also_exact_without_standardizing(pair: Pair, less: int, two: bool) -> None:
    """The reported loss of the orthonormal map to fewer axes is exact for one side and for two."""
    assume(less < pair.width)
    users = pair.users if two else None
    found = embsync.stabilize(pair.items, users, dimension=pair.width - less, standardize=False)
    stable = (found.items, found.items if found.users is None else found.users)
    error = score_error(stable, (pair.items, pair.items if users is None else users))
    assert found.truncation_loss == pytest.approx(error, rel=1e-5)
    assert found.preservation.score_error == pytest.approx(error, rel=1e-5)


@law
@given(pairs(full_rank=True))
def test_directions_below_the_tolerance_do_not_count_as_loss(pair: Pair) -> None:
    """A duplicated column needs no axis of its own: a space narrower by one keeps every score."""
    T, W = (np.column_stack([side, side[:, 0]]) for side in (pair.items, pair.users))
    found = embsync.stabilize(T, W, dimension=pair.width)
    assert found.truncation_loss == 0.0
    assert found.rank == pair.width
    assert found.users is not None
    assert score_error((found.items, found.users), (T, W)) < FLOAT32
    assert np.abs(found.transform.items).max() < 1e3 * np.sqrt(1 / RANK_TOLERANCE)


@law
@given(pairs(full_rank=True), st.integers(0, 99))
def test_the_row_order_only_affects_rounding(pair: Pair, seed: int) -> None:
    """The same rows in another order get the same stable vectors within 1e-6, in a new space and an aligned one."""
    random = np.random.default_rng(seed)
    first, second = random.permutation(len(pair.items)), random.permutation(len(pair.users))
    plain = embsync.stabilize(pair.items, pair.users)
    mixed = embsync.stabilize(pair.items[first], pair.users[second], item_ids=first, user_ids=second)
    assert np.abs(mixed.items - plain.items[first]).max() < 1e-6 * np.abs(plain.items).max()
    turn = rotation(pair.width, seed)
    T, W = pair.items @ turn, pair.users @ turn
    after = aligned(T, W, anchors=plain.anchors)
    other = aligned(T[first], W[second], item_ids=first, user_ids=second, anchors=mixed.anchors)
    assert np.abs(other.items - after.items[first]).max() < 2e-6 * np.abs(after.items).max()
    np.testing.assert_array_equal(mixed.anchors.items.ids, plain.anchors.items.ids)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_same_input_gives_the_same_bytes(threads: int) -> None:
    """Neither repetition nor the number of workers changes a bit, with several blocks per side."""
    random = np.random.default_rng(11)
    T, W = (random.standard_normal((rows, 64)).astype(np.float32) for rows in (9000, 5000))
    first = embsync.stabilize(T, W, threads=2)
    again = embsync.stabilize(T, W, threads=threads)
    assert first.items.tobytes() == again.items.tobytes()
    assert first.preservation == again.preservation


@law
@given(pairs(full_rank=True), st.integers(0, 99), st.integers(1, 3))
def test_axes_without_anchors_keep_the_standardized_order_and_sign(pair: Pair, seed: int, extra: int) -> None:
    """If the space is wider than the anchors span, new directions fill the new axes by falling energy, signs fixed."""
    random = np.random.default_rng(seed)
    narrow = embsync.stabilize(pair.items, pair.users, dimension=pair.width + extra)
    wide_items = np.column_stack([pair.items, 0.3 * random.standard_normal((len(pair.items), extra))])
    wide_users = np.column_stack([pair.users, 0.3 * random.standard_normal((len(pair.users), extra))])
    found = aligned(wide_items, wide_users, anchors=narrow.anchors)
    assert found.users is not None
    assert score_error((found.items, found.users), (wide_items, wide_users)) < FLOAT32
    new = found.items[:, pair.width :].astype(np.float64)
    energy = np.linalg.norm(new, axis=0)
    assert (np.diff(energy) <= 1e-5 * energy[0]).all()
    first, second = random.permutation(len(wide_items)), random.permutation(len(wide_users))
    again = aligned(wide_items[first], wide_users[second], item_ids=first, user_ids=second, anchors=narrow.anchors)
    gaps = np.diff(found.transform.singular_values) / found.transform.singular_values[0]
    if np.abs(gaps).min(initial=1.0) > 1e-2:  # equal energies have no order
        assert relative(again.items, found.items[first]) < 1e-5


@law
@given(pairs(full_rank=True))
def test_the_first_version_does_not_depend_on_the_axes(pair: Pair) -> None:
    """The sign rule makes a new space unique: a rotated model starts the same space."""
    S = np.linalg.svd(pair.scores, compute_uv=False)[: pair.width]
    assume((np.abs(np.diff(S)) > 0.02 * S[0]).all())
    first = embsync.stabilize(pair.items, pair.users)
    second = embsync.stabilize(pair.items, pair.users)
    assert first.items.tobytes() == second.items.tobytes()
    scaled = embsync.stabilize(3.0 * pair.items, pair.users / 3.0)
    np.testing.assert_allclose(np.abs(scaled.items), np.abs(first.items), atol=1e-4 * np.abs(first.items).max())


def _shuffled(count: int, seed: int) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    return random.standard_normal((count, 32)), random.standard_normal((count, 32))


@pytest.mark.parametrize("count", [128, 256, 1024])
def test_the_fit_is_not_optimistic_for_wrong_ids(count: int) -> None:
    """With few anchors a rotation fits shuffled ids in sample, but not out of sample."""
    T, W = _shuffled(count, 1)
    first = embsync.stabilize(T, W)
    random = np.random.default_rng(2)
    wrong = aligned(T, W, item_ids=random.permutation(count), user_ids=random.permutation(count), anchors=first.anchors)
    assert wrong.fit_items is not None
    assert wrong.fit_users is not None
    assert wrong.fit_items.cosine == pytest.approx(0.0, abs=0.08)
    assert wrong.fit_users.cosine == pytest.approx(0.0, abs=0.08)
    right = aligned(T, W, anchors=first.anchors)
    assert right.fit_items is not None
    assert right.fit_items.cosine == pytest.approx(1.0, abs=1e-5)
    assert right.fit_items.share_below_half == 0.0
