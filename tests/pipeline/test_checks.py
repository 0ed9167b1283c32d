"""Every check passes, warns and refuses; and the effect of accepting a refusal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.nights import Array, Night, configured, night, rotation
from support.quick import quick_directory
from support.stores import assert_at_rest, snapshot_of, sync

from embsync.checks import CHECKS
from embsync.config import DEFAULT_LIMITS
from embsync.errors import SnapshotError, UsageError
from embsync.manifest import CheckRecord, encode
from embsync.pipeline import CheckRefusedError
from embsync.pipeline.checks import Measured, judge, reject_unknown, remarks
from embsync.store import Store, layout


@pytest.fixture(scope="module")
def published() -> Iterator[Path]:
    """A directory with a store of one healthy version, to be copied."""
    with quick_directory() as directory:
        sync(directory / "S", night(0), "n0")
        yield directory


@pytest.fixture
def root(published: Path) -> Iterator[Path]:
    """A store with one healthy version."""
    with quick_directory() as directory:
        shutil.copytree(published, directory, symlinks=True, dirs_exist_ok=True)
        yield directory / "S"


@pytest.fixture(scope="module")
def healthy(published: Path) -> dict[str, CheckRecord]:
    """Return the checks of a healthy second night, by name."""
    with quick_directory() as directory:
        shutil.copytree(published, directory, symlinks=True, dirs_exist_ok=True)
        return _checks(directory / "S", night(1))


def _checks(root: Path, made: Night, options: dict[str, object] | None = None) -> dict[str, CheckRecord]:
    """Return the checks of a snapshot by name, whether it was published or refused."""
    message = ""
    try:
        records = sync(root, made, "tonight", configured(**(options or {}))).checks
    except CheckRefusedError as refusal:
        records, message = refusal.records, str(refusal)
    assert all(f"{record.name} " in message for record in records if record.outcome == "refuse")
    assert len({record.name for record in records}) == len(records)
    return {record.name: record for record in records}


def _wrong(made: Night, side: str, share: float) -> Night:
    """Assign a share of a side's ids to wrong rows."""
    ids = getattr(made, f"{side[:-1]}_ids").copy()
    rows = np.arange(round(share * len(ids)))
    ids[rows] = np.roll(ids[rows], 1)
    return replace(made, **{f"{side[:-1]}_ids": ids})


def _one_row(by: float) -> Callable[[Array], Array]:
    """Return a function that scales the eighth row."""

    def change(rows: Array) -> Array:
        made = rows.copy()
        made[7] *= by
        return made

    return change


def _only(made: Night, items: int | None = None, users: int | None = None) -> Night:
    assert made.users is not None
    assert made.user_ids is not None
    order = [np.argsort(ids) for ids in (made.item_ids, made.user_ids)]
    first, second = order[0][:items], order[1][:users]
    return Night(made.items[first], made.item_ids[first], made.users[second], made.user_ids[second])


def _mixed() -> Night:
    made = night(1)
    assert made.users is not None
    return replace(made, users=(made.users @ rotation(8, 4)).astype(np.float32))


def _new_items(kept: int) -> Night:
    """Share only this many items, and no users, with the previous night."""
    made = night(1, churn=0.0)
    assert made.user_ids is not None
    ids = made.item_ids.copy()
    ids[np.argsort(ids)[kept:]] += 10**6
    return replace(made, item_ids=ids, user_ids=made.user_ids + 10**6)


def _renamed(made: Night, side: str, share: float) -> Night:
    """Replace a share of a side's ids with unknown numbers."""
    ids = getattr(made, f"{side[:-1]}_ids").copy()
    ids[np.argsort(ids)[: round(share * len(ids))]] += 10**6
    return replace(made, **{f"{side[:-1]}_ids": ids})


def _changed(made: Night, side: str, change: Callable[[Any], Any]) -> Night:
    return replace(made, **{side: change(getattr(made, side)).astype(np.float32)})


def _column(column: int, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def changed(rows: Any) -> Any:
        made = rows.copy()
        made[:, column] = change(rows[:, column])
        return made

    return changed


def _some(share: float, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def changed(rows: Any) -> Any:
        chosen = np.random.default_rng(3).permutation(len(rows)) < round(share * len(rows))
        return np.where(chosen[:, None], change(rows), rows)

    return changed


def _alike(share: float) -> Callable[[Any], Any]:
    """Return a function that gives a share of the rows the same vector."""
    return lambda rows: np.where(np.arange(len(rows))[:, None] < share * len(rows), rows[:1], rows)


def _noise_column() -> Night:
    return night(1).with_vectors(_column(5, np.random.default_rng(8).permutation))


def _untouched(side: str, share: float) -> Night:
    """Keep a share of a side as it was on the previous night, in the axes of that night."""
    before, made = night(0, churn=0.0), night(0, churn=0.0)
    key = f"{side[:-1]}_ids"
    old = getattr(before, side)
    new = old + np.float32(0.1) * np.random.default_rng(2).standard_normal(old.shape).astype(np.float32)
    kept = np.arange(len(old)) < share * len(old)
    return replace(made, **{side: np.where(kept[:, None], old, new), key: getattr(before, key)})


def _unzipped(made: Night, column: int) -> Night:
    return made.with_vectors(lambda rows: np.where(np.arange(8) == column, rows[:, :1], rows))


#: Noise relative to a signal of about 1.2, which puts the figure between its two limits, and beyond the second.
NOISY = {"cosine": {"warn": 1.25, "refuse": 2.6}, "cosine_margin": {"warn": 2.6, "refuse": 4.0}}
CASES: list[tuple[str, str, Callable[[], Night], dict[str, object]]] = [
    ("live_items", "warn", lambda: _only(night(1, churn=0.0), items=200), {}),
    ("live_items", "refuse", lambda: _only(night(1, churn=0.0), items=110), {}),
    ("live_users", "warn", lambda: _only(night(1, churn=0.0), users=140), {}),
    ("live_users", "refuse", lambda: _only(night(1, churn=0.0), users=75), {}),
    ("common", "warn", lambda: _new_items(100), {}),
    ("common", "refuse", lambda: _new_items(15), {}),
    *(
        (f"{name}_{side}", outcome, lambda noise=noise: night(1, noise=noise, churn=0.0), {})
        for name, noises in NOISY.items()
        for outcome, noise in noises.items()
        for side in ("items", "users")
    ),
    *(
        (f"share_below_half_{side}", "warn", lambda side=side: _wrong(night(1), side, 0.08), {})
        for side in ("items", "users")
    ),
    *(
        (f"lost_{side}", outcome, lambda side=side, share=share: _wrong(night(1), side, share), {})
        for side, outcome, share in (
            ("items", "warn", 0.02),
            ("items", "refuse", 0.05),
            ("users", "warn", 0.05),
            ("users", "refuse", 0.15),
        )
    ),
    *(
        (f"coverage_{side}", outcome, lambda side=side, share=share: _renamed(night(1, churn=0.0), side, share), {})
        for outcome, share in (("warn", 0.6), ("refuse", 0.75))
        for side in ("items", "users")
    ),
    *(
        (
            f"zero_rows_{side}",
            outcome,
            lambda side=side, share=share: _changed(night(1), side, _some(share, np.zeros_like)),
            {},
        )
        for outcome, share in (("warn", 0.008), ("refuse", 0.02))
        for side in ("items", "users")
    ),
    *(
        (
            f"saturation_{side}",
            outcome,
            lambda side=side, to=to: _changed(night(1), side, lambda rows: np.clip(rows, -to, to)),
            {},
        )
        for outcome, to in (("warn", 2.9), ("refuse", 2.2))
        for side in ("items", "users")
    ),
    *(
        (
            f"zero_values_{side}",
            outcome,
            lambda side=side, below=below: _changed(
                night(1), side, lambda rows: np.where(np.abs(rows) < below, 0.0, rows)
            ),
            {},
        )
        for outcome, below in (("warn", 0.15), ("refuse", 0.5))
        for side in ("items", "users")
    ),
    *(
        (f"repeated_{side}", outcome, lambda side=side, share=share: _changed(night(1), side, _alike(share)), {})
        for outcome, share in (("warn", 0.025), ("refuse", 0.05))
        for side in ("items", "users")
    ),
    *((f"unexplained_columns_{side}", "warn", _noise_column, {}) for side in ("items", "users")),
    *(
        (
            f"lone_scale_{side}",
            "warn",
            lambda side=side: _changed(night(1), side, lambda rows: rows * np.float32(3)),
            {},
        )
        for side in ("items", "users")
    ),
    *(
        (f"magnitude_{side}", outcome, lambda by=by: night(1).with_vectors(lambda rows: rows * np.float32(by)), {})
        for outcome, by in (("warn", 1e-10), ("refuse", 1e-14))
        for side in ("items", "users")
    ),
    # The side with less energy along the flipped axis shows it, whichever side was flipped.
    *(
        (
            f"axis_agreement_{side}",
            outcome,
            lambda made=made: _changed(made, "items", _column(3, np.negative)),
            {f"checks__axis_agreement_{side}__refuse": refuse},
        )
        for side, made in (("items", _only(night(1), items=130)), ("users", night(1)))
        for outcome, refuse in (("refuse", -0.15), ("warn", -1.0))
    ),
    *(
        (
            f"column_fit_{side}",
            outcome,
            lambda side=side: _changed(night(1), side, _column(3, np.random.default_rng(6).permutation)),
            {f"checks__column_fit_{side}__refuse": refuse},
        )
        for side in ("items", "users")
        for outcome, refuse in (("refuse", 0.05), ("warn", -1.0))
    ),
    *(
        (
            f"axis_scale_{side}",
            outcome,
            lambda by=by: _changed(night(1), "users", _column(3, lambda column: column * np.float32(by))),
            {},
        )
        for outcome, by in (("warn", 0.01), ("refuse", 0.001))
        for side in ("items", "users")
    ),
    *(
        (
            f"column_scale_{side}",
            "warn",
            lambda side=side: _changed(night(1), side, _column(3, lambda column: column * np.float32(10))),
            {},
        )
        for side in ("items", "users")
    ),
    *(
        (
            f"norm_outliers_{side}",
            outcome,
            lambda side=side, share=share: _changed(night(1), side, _some(share, lambda rows: rows * np.float32(5))),
            {},
        )
        for outcome, share in (("warn", 0.02), ("refuse", 0.08))
        for side in ("items", "users")
    ),
    *(
        (
            f"longest_{side}",
            outcome,
            lambda side=side, by=by: _changed(night(1), side, _one_row(by)),
            {},
        )
        for outcome, by in (("warn", 20), ("refuse", 200))
        for side in ("items", "users")
    ),
    *(
        (
            f"mean_shift_{side}",
            outcome,
            lambda side=side, by=by: _changed(night(1), side, lambda rows: rows + np.float32(by)),
            {},
        )
        for outcome, by in (("warn", 0.4), ("refuse", 1.5))
        for side in ("items", "users")
    ),
    *((f"unchanged_{side}", "warn", lambda side=side: _untouched(side, 0.2), {}) for side in ("items", "users")),
    ("rotation_disagreement", "refuse", _mixed, {}),
    ("rotation_disagreement", "warn", lambda: night(1, noise=3.0, churn=0.0), {}),
    *(
        (f"norm_ratio_{side}", outcome, lambda by=by: night(1).with_vectors(lambda rows: rows * np.float32(by)), {})
        for outcome, by in (("warn", 2.4), ("warn", 0.4), ("refuse", 3.5), ("refuse", 0.3))
        for side in ("items", "users")
    ),
    ("same_snapshot", "warn", lambda: night(0), {}),
    ("rank", "warn", lambda: _unzipped(night(1), 7), {}),
    ("rank", "refuse", lambda: replace(night(1), users=np.zeros((160, 8), np.float32)), {}),
    ("truncation_loss", "refuse", lambda: night(1, width=9), {}),
    ("score_error", "warn", lambda: night(1), {"checks__score_error__warn": 1e-9}),
    ("score_error", "refuse", lambda: night(1), {"checks__score_error__refuse": 1e-9}),
    ("recall", "warn", lambda: night(1), {"index__factory": "PQ2x4"}),
    ("recall", "refuse", lambda: night(1), {"index__factory": "PQ2x4", "index__on_missed_recall": "refuse"}),
    ("rows_items", "warn", lambda: _only(night(1), items=25), {}),
    ("rows_items", "refuse", lambda: _only(night(1), items=7), {}),
    ("rows_users", "warn", lambda: _only(night(1), users=30), {}),
    ("rows_users", "refuse", lambda: _only(night(1), users=7), {}),
    (
        "finite",
        "warn",
        lambda: night(1).with_vectors(
            lambda rows: np.where(np.arange(len(rows))[:, None], rows, 0.0).astype(np.float32)
        ),
        {},
    ),
]


@pytest.mark.parametrize(("name", "outcome", "make", "options"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_every_check_warns_and_refuses(
    root: Path,
    healthy: dict[str, CheckRecord],
    name: str,
    outcome: str,
    make: Callable[[], Night],
    options: dict[str, object],
) -> None:
    """Each outcome occurs at the documented limits, on a snapshot with one fault; a healthy one passes."""
    found = _checks(root, make(), options)[name]
    assert found.outcome == outcome
    assert not found.accepted
    assert healthy[name].outcome == "pass"


def test_every_check_is_covered() -> None:
    """Each check has a case for every outcome that it can have."""
    shown = {(name, outcome) for name, outcome, _, _ in CASES}
    only_one = {
        "same_snapshot": "warn",
        "truncation_loss": "refuse",
        "share_below_half_items": "warn",
        "share_below_half_users": "warn",
        "unchanged_items": "warn",
        "unchanged_users": "warn",
        "column_scale_items": "warn",
        "column_scale_users": "warn",
        "unexplained_columns_items": "warn",
        "unexplained_columns_users": "warn",
        "lone_scale_items": "warn",
        "lone_scale_users": "warn",
    }
    for name in DEFAULT_LIMITS:
        for outcome in ("warn", "refuse"):
            assert (name, outcome) in shown or only_one.get(name, outcome) != outcome, (name, outcome)


def test_a_healthy_night_passes_everything(root: Path) -> None:
    """An ordinary retraining has no warnings, and every check of the table is recorded."""
    found = _checks(root, night(1))
    assert {name: record.outcome for name, record in found.items() if record.outcome != "pass"} == {}
    assert set(found) == set(DEFAULT_LIMITS) | {"finite", "unique_ids", "widths"}


def test_a_check_of_a_recorded_figure_is_one_row_of_the_table(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that needs only the rows of the first pass; here one for the number of items with an anchor."""
    row = replace(CHECKS["magnitude_items"], name="common_items", kind="floor", warn=1e6, refuse=None)
    monkeypatch.setitem(CHECKS, row.name, row)
    found = _checks(root, night(1))["common_items"]
    assert (found.warn, found.outcome) == (1e6, "warn")


def test_a_repeated_snapshot_is_reported_once(root: Path) -> None:
    """Its unchanged rows are not reported in addition to the repeated snapshot."""
    found = _checks(root, night(0))
    assert {name for name, record in found.items() if record.outcome != "pass"} == {"same_snapshot"}
    assert not [name for name in found if name.startswith(("unchanged", "lone_scale"))]


def test_a_first_version_has_no_checks_against_anchors(root: Path) -> None:
    """It has only checks of the snapshot itself."""
    with quick_directory() as directory:
        found = _checks(directory / "S", night(0))
    alone = {
        f"{name}_{side}"
        for name in ("rows", "zero_rows", "saturation", "zero_values", "repeated", "magnitude")
        for side in ("items", "users")
    }
    assert set(found) == {"finite", "unique_ids", "widths", "score_error", "truncation_loss", "rank", "recall", *alone}


def test_a_side_too_small_to_be_judged_warns(root: Path) -> None:
    """Below four common rows per dimension, figures are null, and null warns."""
    del root
    with quick_directory() as directory:
        sync(directory / "S", _only(night(0, churn=0.0), users=31), "n0")
        found = _checks(directory / "S", _only(night(1, churn=0.0), users=31))
    assert "refuse" not in {record.outcome for record in found.values()}
    for name in (
        "cosine_users",
        "cosine_margin_users",
        "share_below_half_users",
        "lost_users",
        "axis_agreement_users",
        "axis_scale_users",
        "column_fit_users",
        "column_scale_users",
        "rotation_disagreement",
    ):
        assert (found[name].value, found[name].outcome) == (None, "warn"), name
    assert found["cosine_items"].outcome == "pass"


@pytest.mark.parametrize("side", ["items", "users"])
@pytest.mark.parametrize("by", [1, 10**6])
def test_renumbered_ids_are_refused(root: Path, side: str, by: int) -> None:
    """If hardly any id of a side is known, the snapshot is refused, even if the other side fits."""
    made = night(1, churn=0.0)
    key = f"{side[:-1]}_ids"
    found = _checks(root, replace(made, **{key: getattr(made, key) + by}))
    assert found[f"coverage_{side}"].outcome == "refuse"


@pytest.mark.parametrize("side", ["items", "users"])
def test_few_common_rows_because_ids_changed_are_refused(root: Path, side: str) -> None:
    """A side that cannot be compared is refused if less than half of its ids are known."""
    made = _only(night(1, churn=0.0), **{side: 70})
    found = _checks(root, _renamed(made, side, 0.58))[f"coverage_{side}"]
    assert found.value == pytest.approx(29 / 70)
    assert (found.outcome, found.refuse) == ("refuse", 0.5)
    enough = _only(night(1, churn=0.0), **{side: 90})
    assert _checks(root, _renamed(enough, side, 0.58))[f"coverage_{side}"].outcome == "warn"


def test_alternating_cohorts_are_recognised(root: Path) -> None:
    """Carried users count as known if one half is trained on even nights and the other on odd nights."""
    halves = [
        replace(made, users=made.users[kept], user_ids=made.user_ids[kept])
        for made, kept in (
            (night(number, churn=0.0), night(number, churn=0.0).user_ids % 2 == number % 2) for number in range(4)
        )
    ]
    del root
    with quick_directory() as directory:
        sync(directory / "S", halves[0], "n0")
        sync(directory / "S", halves[1], "n1", accepted=("coverage_users",))
        for number in (2, 3):
            found = _checks(directory / "S", halves[number])
            assert found["coverage_users"].value == 1.0
            assert not [name for name, record in found.items() if record.outcome == "refuse"]


def test_unchanged_numbers_of_zero_rows_only_warn(root: Path) -> None:
    """An increase refuses, since models have zero rows for ids without interactions every night."""
    sync(root, _changed(night(1), "items", _some(0.2, np.zeros_like)), "n1", accepted=("zero_rows_items",))
    same = _checks(root, _changed(night(2), "items", _some(0.2, np.zeros_like)))["zero_rows_items"]
    assert (same.outcome, same.value) == ("warn", 0.2)
    assert same.refuse == pytest.approx(0.21)
    assert _checks(root, _changed(night(3), "items", _some(0.22, np.zeros_like)))["zero_rows_items"].outcome == "refuse"


def test_zero_rows_of_a_version_of_an_earlier_release_are_counted(root: Path) -> None:
    """If the manifest lacks the number of zero rows, it is counted in the live rows."""
    config = configured(checks={"zero_rows_items": {"refuse": None}})
    manifest = sync(root, _changed(night(1), "items", _some(0.2, np.zeros_like)), "n1", config)
    folder = root / "versions" / layout.version_name(manifest.version)
    older = msgspec.structs.replace(manifest, items=msgspec.structs.replace(manifest.items, zero=None))
    (folder / layout.MANIFEST_HASH).unlink()
    (folder / layout.MANIFEST).write_bytes(encode(older))
    same = _checks(root, _changed(night(2), "items", _some(0.2, np.zeros_like)))["zero_rows_items"]
    assert (same.outcome, same.value) == ("warn", 0.2)
    assert same.refuse == pytest.approx(0.21)
    (record, said), *others = remarks(sync(root, _changed(night(3), "users", _some(1 / 160, np.zeros_like)), "n3"))
    assert (record.name, said, others) == ("finite", "1 all-zero user row", [])


@pytest.mark.parametrize("by", [1e-40, 1e-30, 1e-22, 1e22])
def test_a_value_that_cannot_be_measured_never_passes(root: Path, by: float) -> None:
    """Checks of values that underflow makes unmeasurable refuse, and the record has null."""
    refused = {
        name
        for name, record in _checks(root, night(1).with_vectors(lambda rows: (rows * by).astype(np.float32))).items()
        if record.outcome == "refuse"
    }
    assert {"magnitude_items", "magnitude_users"} <= refused
    accepted = tuple(sorted(refused))
    with pytest.raises(CheckRefusedError) as raised:
        sync(root, night(1).with_vectors(lambda rows: (rows * by).astype(np.float32)), "again", accepted=accepted)
    unmeasured = {record.name: record.outcome for record in raised.value.records if record.value is None}
    assert all(outcome == "refuse" or DEFAULT_LIMITS[name][1] is None for name, outcome in unmeasured.items())


def test_an_allowed_truncation_is_published(root: Path) -> None:
    """``max_truncation_loss`` limits the loss, and the certificate shows the actual loss."""
    made = night(1)
    assert made.users is not None
    random = np.random.default_rng(5)
    wide = replace(
        made,
        **{
            name: np.column_stack([rows, 0.3 * random.standard_normal(len(rows))]).astype(np.float32)
            for name, rows in (("items", made.items), ("users", made.users))
        },
    )
    manifest = sync(root, wide, "wide", configured(space__max_truncation_loss=0.1))
    assert 0 < manifest.alignment.truncation_loss < 0.1
    assert manifest.preservation.score_error == pytest.approx(manifest.alignment.truncation_loss, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.items.__setitem__((17, 3), np.nan), r"items\.npy: NaN or infinity; found in row 17 "),
        (lambda made: made.users.__setitem__((0, 0), np.inf), r"users\.npy: NaN or infinity; found in row 0 "),
        (lambda made: made.item_ids.__setitem__(5, made.item_ids[9]), r"item_ids\.npy"),
    ],
)
def test_an_ill_formed_snapshot_cannot_be_accepted(root: Path, change: Callable[[Night], None], message: str) -> None:
    """The error has exit code 3, and nothing changes, not even the journal."""
    made = night(1)
    change(made)
    before = snapshot_of(root)
    with pytest.raises(SnapshotError, match=message) as raised:
        sync(root, made, "bad", accepted=tuple(DEFAULT_LIMITS))
    assert raised.value.exit_code == 3
    assert snapshot_of(root) == before
    for name in ("finite", "unique_ids", "widths"):
        with pytest.raises(UsageError, match=f"cannot be accepted; found {name}"):
            reject_unknown([name])
    with pytest.raises(UsageError, match="no such check; found cosine; expected one of rows_items"):
        reject_unknown(["cosine"])


def test_accepting_the_named_checks_publishes(root: Path) -> None:
    """The manifest and the journal record the accepted checks; a refusing check that was not named still refuses."""
    made = _changed(_wrong(night(1), "items", 0.2), "users", _some(0.08, lambda rows: rows * np.float32(5)))
    with pytest.raises(CheckRefusedError) as raised:
        sync(root, made, "bad")
    refused = [record.name for record in raised.value.records if record.outcome == "refuse"]
    assert len(refused) > 1
    assert all(f"--check {name}" in str(raised.value) for name in refused)
    with pytest.raises(CheckRefusedError) as again:
        sync(root, made, "bad", accepted=tuple(refused[1:]))
    assert str(again.value).startswith(f"{root.parent}/snapshots/bad: most likely ")
    assert f"; refused by {refused[0]} " in str(again.value)
    manifest = sync(root, made, "bad", accepted=tuple(refused))
    assert sorted(check.name for check in manifest.checks if check.accepted) == sorted(refused)
    events = list(Store(root).journal.events())
    assert [event.event for event in events] == ["published", "refused", "refused", "published"]
    assert events[-1].accepted == refused
    assert events[-1].seconds == manifest.seconds.total
    assert_at_rest(root)


def test_accepting_a_check_that_passes_changes_nothing(root: Path) -> None:
    """A passing check is not marked as accepted."""
    manifest = sync(root, night(1), "n1", accepted=("cosine_items",))
    assert not any(check.accepted for check in manifest.checks)


def test_limits_are_configurable() -> None:
    """Configured limits replace the defaults one by one; null disables a limit; NaN never passes."""
    tight = configured(checks={"cosine_items": {"warn": 0.99}, "norm_ratio_items": {"refuse": [0.9, 1.1]}})

    def outcome(value: float | None, config: Any = tight, name: str = "cosine_items") -> str:
        return judge(Measured(name, value), config).outcome

    assert [outcome(value) for value in (0.995, 0.8, 0.4, None)] == ["pass", "warn", "refuse", "warn"]
    assert [outcome(value, name="norm_ratio_items") for value in (1.0, 1.2, 0.5)] == ["pass", "refuse", "refuse"]
    # A value equal to its limit is within the limit.
    assert [outcome(value) for value in (0.99, 0.5)] == ["pass", "warn"]
    assert [outcome(value, name="norm_ratio_items") for value in (0.9, 1.1)] == ["pass", "pass"]
    assert [outcome(value, name="score_error") for value in (2e-6, 1e-5)] == ["pass", "warn"]
    off = configured(checks={"cosine_items": {"refuse": None}})
    assert [outcome(value, off) for value in (0.1, 0.8)] == ["warn", "pass"]
    assert outcome(float("nan")) == "refuse"
    assert outcome(float("nan"), name="score_error") == "refuse"
    record = judge(Measured("cosine_items", float("nan")), tight)
    assert record.value is None
