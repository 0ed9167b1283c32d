"""``embsync.stabilize`` refuses invalid input and reports what it measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.laws import aligned
from support.nights import night, rotation

import embsync
from embsync.alignment import gram, two_pass
from embsync.alignment.drift import DriftMeter
from embsync.alignment.gram import Pairing, sum_side
from embsync.alignment.procrustes import Axes
from embsync.alignment.two_pass import SideFit, SideInput, transform_rows
from embsync.errors import SnapshotError, UsageError
from embsync.measurements import Moved
from embsync.rows import ArrayRows, block_rows
from embsync.sides import Sides

T, W = night(0).both


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (T[0], {}, r"items: vectors are not a matrix; found shape \(8,\)"),
        (T[:0], {}, r"found shape \(0, 8\)"),
        (T[:, :0], {}, r"found shape \(240, 0\)"),
        (T.astype(np.int64), {}, "items: vectors are not floats; found int64"),
        (T[:, :7], {}, "sides of different widths; found 7 and 8"),
        (T, {"item_ids": np.arange(239)}, "item_ids: ids and vectors differ in number; found 239 ids; expected 240"),
        (T, {"item_ids": np.arange(240.0)}, "item_ids: ids of an unusable type; found float64"),
        (T, {"item_ids": np.r_[0, np.arange(239)]}, "item_ids: repeated ids; found 1 repeated rows, among them 0"),
        (
            T,
            {"user_ids": np.array(["a", "a", *map(str, range(158))])},
            "user_ids: repeated ids; found 1 repeated rows, among them a",
        ),
        (T, {"item_ids": np.array(["", *map(str, range(239))])}, "item_ids: an empty id or an id with a NUL"),
        (T, {"item_ids": np.array([b"\xff", *[b"%d" % i for i in range(239)]])}, "item_ids: an id that is not UTF-8"),
        (T, {"item_ids": np.arange(240, dtype=np.uint64) + 2**63}, "item_ids: an id beyond 64-bit signed integers"),
        (T, {"item_weights": np.ones(3)}, "item_weights: weights and vectors differ in number; found 3 weights"),
        (T, {"item_weights": np.full(240, -1.0)}, "item_weights: invalid weight; found -1.0 in row 0"),
        (T * 0, {}, "no scores"),
    ],
)
def test_invalid_input_is_refused_by_name(items: Any, options: dict[str, Any], message: str) -> None:
    """The message for a wrong shape, type, id or weight has what was found and what was expected."""
    with pytest.raises(SnapshotError, match=message):
        embsync.stabilize(items, W, **options)


def test_sides_must_match_the_anchors() -> None:
    """A side may neither be added nor removed."""
    both, one = embsync.stabilize(T, W), embsync.stabilize(T)
    with pytest.raises(UsageError, match="sides differ from the anchors'; found no users"):
        aligned(T, anchors=both.anchors)
    with pytest.raises(UsageError, match="sides differ from the anchors'; found users"):
        aligned(T, W, anchors=one.anchors)


def test_the_type_of_ids_must_match_the_anchors() -> None:
    """String ids are never compared with integer anchors, nor mixed with integers."""
    first = embsync.stabilize(T, W)
    with pytest.raises(UsageError):
        aligned(T, W, item_ids=np.array([f"i{n}" for n in range(240)]), anchors=first.anchors)


@pytest.mark.parametrize(
    "options",
    [
        {"dimension": 0},
        {"dimension": -1},
        {"policy": "nope"},
        {"weight": 2.0},
        {"item_weights": np.full(240, np.nan)},
        {"item_weights": np.full(240, -1.0)},
    ],
)
def test_invalid_options_are_refused_by_name(options: dict[str, Any]) -> None:
    """Invalid options raise an error of embsync, not of NumPy, and are never ignored."""
    first = embsync.stabilize(T, W)
    anchors = None if "dimension" in options else first.anchors
    with pytest.raises(embsync.EmbsyncError):
        aligned(T, W, anchors=anchors, **options)


def test_ids_beyond_64_bits_signed_are_refused() -> None:
    """An unsigned id that does not fit int64 never becomes another id."""
    with pytest.raises(SnapshotError):
        embsync.stabilize(T, W, item_ids=np.arange(240, dtype=np.uint64) + np.uint64(2**63))


def test_values_that_do_not_fit_float32_are_refused() -> None:
    """Stable vectors beyond the range of float32 are an error of the snapshot, without a warning."""
    wide = [side.astype(np.float64) * 1e39 for side in (T, W)]
    with pytest.raises(SnapshotError, match="do not fit float32; found overflow near row 0"):
        embsync.stabilize(*wide)


def test_an_overflow_is_reported_with_its_row() -> None:
    """The row number is that in the entire side, exact to within a block."""
    far = 2 * block_rows(4)
    rows = np.ones((far + 1, 4))
    rows[far] = 1e39
    side = SideFit(sum_side(ArrayRows(rows)), np.eye(4), 0, None, 1.0, Axes(), None)
    with pytest.raises(SnapshotError, match=f"found overflow near row {far}"):
        transform_rows(ArrayRows(rows), side, [])


def test_all_rows_with_an_anchor_count_as_common(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of known ids counts the rows that the fit uses."""
    monkeypatch.setattr(gram, "JUDGED", 50)
    monkeypatch.setattr(gram, "JUDGED_A_DIMENSION", 1)
    ids = np.arange(len(T))
    pairing = Pairing.of(ids, T.astype(np.float32), ids)
    found = two_pass.fit(Sides(SideInput(ArrayRows(T), pairing), SideInput(ArrayRows(W))), dimension=T.shape[1])
    assert (found.common, found.items.judged) == (len(T), 50)


@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1e6, 1e10])
def test_scores_of_any_size_are_certified(scale: float) -> None:
    """Neither very small nor very large embeddings reduce the precision of the certificate."""
    found = embsync.stabilize(T.astype(np.float64) * scale, W.astype(np.float64) * scale)
    assert 1e-9 < found.preservation.score_error < 1e-6
    assert found.preservation.top_k_agreement == 1.0


def test_the_input_is_unchanged_and_the_output_read_only() -> None:
    """No array of the caller is written to; the returned arrays are read-only."""
    items, users = T.copy(), W.copy()
    for array in (items, users):
        array.flags.writeable = False
    found = embsync.stabilize(items, users)
    np.testing.assert_array_equal(items, T)
    assert found.users is not None
    assert not found.items.flags.writeable
    assert not found.users.flags.writeable


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_every_float_type_is_accepted(dtype: str) -> None:
    """Half precision is accepted too, and the scores are those of its exact values."""
    items, users = T.astype(dtype), W.astype(dtype)
    found = embsync.stabilize(items, users)
    assert found.users is not None
    raw = items.astype(np.float64) @ users.astype(np.float64).T
    assert np.linalg.norm(found.items.astype(np.float64) @ found.users.T - raw) < 1e-6 * np.linalg.norm(raw)


def test_string_ids_give_the_same_result_as_integers() -> None:
    """The type of the ids has no effect in a new space and little in an aligned one."""
    first, second = night(0), night(1)
    runs = []
    for one, two in ((first, second), (first.named(), second.named())):
        start = embsync.stabilize(*one.both, item_ids=one.item_ids, user_ids=one.user_ids)
        runs.append(aligned(*two.both, item_ids=two.item_ids, user_ids=two.user_ids, anchors=start.anchors))
    assert np.abs(runs[0].items - runs[1].items).max() < 1e-5
    assert runs[1].anchors.items.ids.dtype.kind == "S"


def test_a_side_too_small_to_be_judged_has_no_figures() -> None:
    """Below 4e common rows, fit and disagreement are None, but the vectors are returned."""
    first = embsync.stabilize(T, W)
    few = aligned(T, W[:31], user_ids=np.arange(31), anchors=first.anchors)
    assert few.fit_items is not None
    assert few.fit_users is None
    assert few.rotation_disagreement is None
    enough = aligned(T, W[:32], user_ids=np.arange(32), anchors=first.anchors)
    assert enough.fit_users is not None
    assert enough.rotation_disagreement is not None
    assert enough.rotation_disagreement < 0.1


def test_items_and_users_of_different_runs_disagree() -> None:
    """Each side alone fits its anchors, but the two rotations are unrelated."""
    anchors = embsync.stabilize(*night(0, churn=0.0).both).anchors
    mixed = aligned(T @ rotation(8, 1).astype(np.float32), W @ rotation(8, 3).astype(np.float32), anchors=anchors)
    assert mixed.rotation_disagreement is not None
    assert mixed.rotation_disagreement > 0.7


def test_the_drift_equals_that_of_all_rows() -> None:
    """Cosines, displacement, norms and the rows that moved most, raw and stable, equal those by plain NumPy."""
    random = np.random.default_rng(3)
    old = random.standard_normal((300, 5)).astype(np.float32)
    new = (old[:250] + 0.3 * random.standard_normal((250, 5))).astype(np.float32)
    new[7] = -5.0 * old[17]
    back = rotation(5, 2)
    raw = (2.0 * new).astype(np.float32)
    rows = np.r_[np.arange(10, 210), np.full(50, -1)]
    meter = DriftMeter(rows, old, back)
    for start in (100, 0, 200):
        meter.observe(start, raw[start : start + 100], new[start : start + 100])
    found, change = meter.result()
    a, b, c = (side.astype(np.float64) for side in (new[:200], old[10:210], raw[:200]))
    before = b @ back

    def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)

    assert found.cosine == pytest.approx(cosines(a, b).mean(), abs=1e-6)
    assert found.cosine_p05 == pytest.approx(np.percentile(cosines(a, b), 5), abs=1e-6)
    assert found.cosine_raw == pytest.approx(cosines(c, before).mean(), abs=1e-6)
    assert found.displacement == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-5)
    assert found.displacement_raw == pytest.approx(np.linalg.norm(c - before) / np.linalg.norm(b), rel=1e-5)
    ratio = np.median(np.linalg.norm(a, axis=1)) / np.median(np.linalg.norm(b, axis=1))
    assert change.norm_ratio == pytest.approx(ratio, rel=1e-5)
    assert found.moved_most[0] == Moved(7, pytest.approx(-1.0, abs=1e-6))
    assert len(found.moved_most) == 10
    assert [one.cosine for one in found.moved_most] == sorted(one.cosine for one in found.moved_most)


def test_zero_rows_are_left_out_of_fit_and_drift() -> None:
    """A zero row has no direction: it is mapped to zeros and not used to judge the fit."""
    first = embsync.stabilize(T, W)
    holed = T.copy()
    holed[:20] = 0.0
    found = aligned(holed, W, anchors=first.anchors)
    assert not found.items[:20].any()
    assert found.fit_items is not None
    assert found.fit_items.common == 220
    assert found.fit_items.share_below_half == 0.0


def test_zero_rows_are_left_out_of_every_drift_figure() -> None:
    """If most rows of either night are zero, every figure is that of the other rows."""
    random = np.random.default_rng(6)
    old = random.standard_normal((400, 5)).astype(np.float32)
    new = (1.5 * old + 0.2 * random.standard_normal(old.shape)).astype(np.float32)
    new[:150], old[100:300] = 0.0, 0.0
    meter = DriftMeter(np.arange(400), old, np.eye(5))
    meter.observe(0, new, new)
    found, change = meter.result()
    a, b = new[300:].astype(np.float64), old[300:].astype(np.float64)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.cosine == found.cosine_raw == pytest.approx(cosines.mean(), abs=1e-6)
    assert found.cosine_p05 == pytest.approx(np.percentile(cosines, 5), abs=1e-6)
    ratio = np.median(np.linalg.norm(a, axis=1)) / np.median(np.linalg.norm(b, axis=1))
    assert change.norm_ratio == pytest.approx(ratio, rel=1e-5)
    assert change.unchanged == 0.0
    assert sorted(int(one.id) for one in found.moved_most) == sorted(300 + np.argsort(cosines)[:10])


def test_mismatched_rows_have_a_low_cosine() -> None:
    """The mismatched cosine is that of unrelated rows, whichever block has the anchors."""
    anchors = embsync.stabilize(T, W).anchors
    again = aligned(T, W, anchors=anchors)
    for fit in (again.fit_items, again.fit_users):
        assert fit is not None
        assert fit.cosine == pytest.approx(1.0, abs=1e-5)
        assert fit.cosine_mismatched is not None
        assert abs(fit.cosine_mismatched) < 0.3
        assert fit.share_below_half == 0.0


def test_a_sampled_fit_is_within_its_sampling_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth of the ids shuffled, figures of a quarter of the rows are those of all within the sampling error."""
    random = np.random.default_rng(5)
    items, users = random.standard_normal((4000, 8)), random.standard_normal((500, 8))
    ids: dict[str, Any] = {"item_ids": np.arange(4000), "user_ids": np.arange(500)}
    anchors = embsync.stabilize(items, users, **ids).anchors
    moved = items + 0.4 * random.standard_normal(items.shape)
    moved[:400] = random.permutation(moved[:400])
    whole = embsync.stabilize(moved, users, **ids, anchors=anchors, check=False).fit_items
    monkeypatch.setattr(gram, "JUDGED", 1000)
    part = embsync.stabilize(moved, users, **ids, anchors=anchors, check=False).fit_items
    assert whole is not None
    assert part is not None
    assert (whole.common, part.common) == (4000, 1000)
    assert part.lost == pytest.approx(whole.lost, abs=4 * 2 * np.sqrt(0.05 * 0.95 / 1000))
    assert part.share_below_half == pytest.approx(whole.share_below_half, abs=4 * np.sqrt(0.1 * 0.9 / 1000))
    assert part.cosine == pytest.approx(whole.cosine, abs=4 * 0.3 / np.sqrt(1000))
    assert whole.lost == pytest.approx(0.1, abs=0.03)
