"""Five real retrainings through the entire pipeline, compared with independent reference figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.goodbooks import DAYS, day, needs_goodbooks, read_day
from support.nights import configured, write_npy
from support.quick import quick_directory
from support.stores import assert_at_rest, snapshot_of

import embsync
from embsync.config import Config
from embsync.config_loader import load
from embsync.manifest import Manifest
from embsync.pipeline import CheckRefusedError, Request, publish_snapshot
from embsync.pipeline.verify import verify
from embsync.reader import open_version
from embsync.store import Store

pytestmark = needs_goodbooks

#: Rolling alignment, per day: for items and users, cosine raw and stable, displacement raw and stable.
SIDES = {
    2: ((0.0133, 0.8631, 1.4043, 0.4827), (0.2741, 0.8831, 1.1826, 0.4810)),
    3: ((-0.0245, 0.8590, 1.4299, 0.4891), (0.2392, 0.8896, 1.2154, 0.4655)),
    4: ((0.0044, 0.8606, 1.4118, 0.4894), (0.2632, 0.8878, 1.1911, 0.4694)),
    5: ((-0.0257, 0.8568, 1.4300, 0.4939), (0.2445, 0.8874, 1.2113, 0.4714)),
}
#: Overlap of the model, of a stale stabilized user, and of a stale raw one; then items and users common to both days.
OVERLAPS = {
    2: (0.7249, 0.7151, 0.0606),
    3: (0.7224, 0.7173, 0.0421),
    4: (0.7220, 0.7057, 0.0362),
    5: (0.7215, 0.7164, 0.0439),
}
COMMON = {2: (6456, 2303), 3: (6550, 2229), 4: (6615, 2281), 5: (6689, 2314)}


def _publish_all(root: Path, config: Config) -> dict[int, Manifest]:
    return {number: publish_snapshot(Store(root), Request(day(number)), config) for number in DAYS}


@pytest.fixture(scope="module")
def rolling() -> Iterator[tuple[Path, dict[int, Manifest]]]:
    """All five days, each aligned to the previous one."""
    with quick_directory() as directory:
        config = load(environment={"EMBSYNC_SPACE__ANCHORS__POLICY": "previous"})
        yield directory / "S", _publish_all(directory / "S", config)


@pytest.fixture(scope="module")
def averaged() -> Iterator[tuple[Path, dict[int, Manifest]]]:
    """All five days with the default policy and an exact index."""
    with quick_directory() as directory:
        yield directory / "S", _publish_all(directory / "S", configured(threads=0))


@pytest.mark.parametrize("number", sorted(SIDES))
def test_drift_agrees_with_the_reference(rolling: tuple[Path, dict[int, Manifest]], number: int) -> None:
    """Raw and stable cosines and displacements agree within 0.002, and the numbers of common ids are equal."""
    manifest = rolling[1][number]
    assert manifest.drift is not None
    assert manifest.users is not None
    assert manifest.drift.users is not None
    for side, expected in zip((manifest.drift.items, manifest.drift.users), SIDES[number], strict=True):
        found = (side.cosine_raw, side.cosine, side.displacement_raw, side.displacement)
        assert found == pytest.approx(expected, abs=0.002)
    assert (manifest.items.common, manifest.users.common) == COMMON[number]


@pytest.mark.parametrize("number", sorted(OVERLAPS))
def test_overlaps_agree_with_the_reference(rolling: tuple[Path, dict[int, Manifest]], number: int) -> None:
    """They agree within 0.015, since other users are sampled."""
    drift = rolling[1][number].drift
    assert drift is not None
    found = (drift.overlap_at_10, drift.stale_overlap_at_10, drift.stale_overlap_at_10_raw)
    assert found == pytest.approx(OVERLAPS[number], abs=0.015)


def test_every_version_is_certified_and_passes_its_checks(rolling: tuple[Path, dict[int, Manifest]]) -> None:
    """Score error, neighbours, maps and recall are within their limits, and no check warns."""
    for manifest in rolling[1].values():
        certificate = manifest.preservation
        assert certificate.score_error < 1e-6
        assert certificate.top_k_agreement == 1.0
        assert certificate.map_error < 1e-11
        assert certificate.sampled_users == 1000
        assert manifest.index.recall_at_10 is not None
        assert manifest.index.recall_at_10 >= 0.95
        assert [check.name for check in manifest.checks if check.outcome != "pass"] == []
        assert manifest.alignment.rank == 64


def test_every_kept_version_verifies_and_its_raw_vectors_come_back(rolling: tuple[Path, dict[int, Manifest]]) -> None:
    """Hashes match, the certificate is recomputed from the snapshot, and raw vectors are recovered within 1e-5."""
    root, manifests = rolling
    for number in DAYS:
        with open_version(root, number) as version:
            found = verify(Store(root), version, load(environment={}))
            assert found.sound
            assert found.damaged == []
            assert found.snapshot == str(day(number))
            assert found.score_error == pytest.approx(manifests[number].preservation.score_error, rel=0.01)
            made = read_day(number)
            assert version.users is not None
            for raw, back in (
                (made.items, version.transform.items_inverse(version.items.lookup(made.item_ids))),
                (made.users, version.transform.users_inverse(version.users.lookup(made.user_ids))),
            ):
                assert np.linalg.norm(back - raw) < 1e-5 * np.linalg.norm(raw)


def test_the_default_policy_stays_near_the_start(
    rolling: tuple[Path, dict[int, Manifest]], averaged: tuple[Path, dict[int, Manifest]]
) -> None:
    """The mean cosine of items since the start is above 0.81 at version 5, and 0.77 for the rolling policy."""
    averaged_drift, rolling_drift = averaged[1][5].drift, rolling[1][5].drift
    assert averaged_drift is not None
    assert rolling_drift is not None
    assert averaged_drift.items.cosine_since_start is not None
    assert averaged_drift.items.cosine_since_start > 0.81
    assert rolling_drift.items.cosine_since_start == pytest.approx(0.7672, abs=0.015)


@pytest.fixture
def first_day() -> Iterator[Path]:
    """A store with day 1 and an exact index."""
    with quick_directory() as directory:
        publish_snapshot(Store(directory / "S"), Request(day(1)), configured(threads=0))
        yield directory / "S"


def _refused(root: Path, path: Path) -> CheckRefusedError:
    before = {name: data for name, data in snapshot_of(root).items() if name != "journal.jsonl"}
    with pytest.raises(CheckRefusedError) as raised:
        publish_snapshot(Store(root), Request(path), configured(threads=0))
    after = {name: data for name, data in snapshot_of(root).items() if name != "journal.jsonl"}
    assert after == before
    assert_at_rest(root)
    assert raised.value.exit_code == 4
    refusal = list(Store(root).journal.events())[-1]
    assert refusal.event == "refused"
    assert refusal.checks is not None
    return raised.value


def test_shuffled_item_ids_are_refused(first_day: Path) -> None:
    """The score error passes, but the fit of the items does not; the error has values and limits."""
    made = read_day(2).shuffled_item_ids()
    error = _refused(first_day, write_npy(first_day.parent / "shuffled", made))
    for name, limit in (("cosine_items", "0.5"), ("cosine_margin_items", "0.3"), ("lost_items", "0.03062")):
        assert f"{name} " in str(error)
        record = next(record for record in error.records if record.name == name)
        assert f"{name} {record.value:.4g} (limit at {'most' if 'lost' in name else 'least'} {limit})" in str(error)
    outcomes = {record.name: record.outcome for record in error.records}
    assert outcomes["score_error"] == "pass"


def test_a_mix_of_two_runs_is_refused(first_day: Path) -> None:
    """Items of one run and users of another have different rotations."""
    second, third = read_day(2), read_day(3)
    made = replace(second, users=third.users, user_ids=third.user_ids)
    error = _refused(first_day, write_npy(first_day.parent / "mixed", made))
    value = next(record.value for record in error.records if record.name == "rotation_disagreement")
    assert value == pytest.approx(0.97, abs=0.08)
    assert f"rotation_disagreement {value:.4g} (limit at most 0.5)" in str(error)


def test_any_row_order_gives_the_same_version(first_day: Path) -> None:
    """Over two nights, the ids are equal, and the vectors agree within 1e-6."""
    other = first_day.parent / "T"
    config = configured(threads=0)
    for number in (1, 2):
        path = write_npy(first_day.parent / f"mixed-{number}", read_day(number).reordered(number))
        publish_snapshot(Store(other), Request(path), config)
    publish_snapshot(Store(first_day), Request(day(2)), config)
    with embsync.open(first_day) as one, embsync.open(other) as two:
        for name in ("items", "users"):
            a, b = (reader.current.side(name) for reader in (one, two))
            np.testing.assert_array_equal(a.ids, b.ids)
            np.testing.assert_array_equal(a.last_seen, b.last_seen)
            assert np.abs(a.vectors - b.vectors).max() < 1e-6
