"""metrics.prom: each value is the one that its name and labels say."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from embsync.daemon.metrics import Figures, age, render
from embsync.daemon.status import Retry, Status, Watch
from embsync.manifest import Manifest

MANIFEST = msgspec.json.decode(
    (Path(__file__).parents[1] / "manifests" / "two_sided_aligned.json").read_bytes(), type=Manifest
)
#: 2026-11-28T05:06:54Z, when it was created.
CREATED = 1795842414.0

TROUBLED = Status(
    state="retrying",
    since="",
    started="",
    updated="",
    doing="",
    current=None,
    queue=["day=4", "day=5"],
    waiting={},
    work=None,
    retry=Retry("day=4", 7, 1.0),
    held={"time": "", "reason": None},
    last_refusal=None,
    last_error=None,
    on_publish=None,
    watch=Watch("", "events", "", 1, None, None),
    damage=["something"],
)
COUNTED = {
    "embsync_worker_crashes_total": 11,
    "embsync_errors_total": 12,
    "embsync_on_publish_failures_total": 13,
    "embsync_set_aside_total": 14,
    "embsync_scans_total": 15,
}
OUTCOMES = {"published": 21, "refused": 22, "failed": 23, "unchanged": 24}
STATES = ("starting", "idle", "working", "retrying", "held", "blind", "stopping", "stopped")


def figures(status: Status = TROUBLED, manifest: Manifest | None = MANIFEST) -> dict[str, float]:
    """Return the samples of one rendering, by name and labels."""
    given = Figures(
        status=status,
        manifest=manifest,
        outcomes={**OUTCOMES, "held": 25},
        counters=COUNTED,
        found={"waiting": 31, "not_permitted": 32, "skipped": 33, "changed": 34, "passed_over": 35, "unpruned": 36},
        now=1000.0,
        scanned=900.0,
        started=800.0,
    )
    samples = (line.rpartition(" ") for line in render(given).splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def test_every_metric_has_the_value_that_its_name_says() -> None:
    """All values differ, so that none can be mistaken for another."""
    assert MANIFEST.users is not None
    assert MANIFEST.drift is not None
    assert MANIFEST.drift.users is not None
    items, users = MANIFEST.items, MANIFEST.users
    assert len({items.live, items.carried, users.live, users.carried}) == 4
    assert figures() == pytest.approx(
        {
            **{f'embsync_snapshots_total{{outcome="{name}"}}': value for name, value in OUTCOMES.items()},
            **{name: float(value) for name, value in COUNTED.items()},
            'embsync_watched_snapshots{state="waiting"}': 31,
            'embsync_watched_snapshots{state="not_permitted"}': 32,
            'embsync_watched_snapshots{state="skipped"}': 33,
            'embsync_watched_snapshots{state="changed"}': 34,
            "embsync_passed_over_snapshots": 35,
            **{f'embsync_daemon_state{{state="{state}"}}': float(state == "retrying") for state in STATES},
            "embsync_queue_snapshots": 2,
            "embsync_unpruned_versions": 36,
            "embsync_held": 1,
            "embsync_store_damaged": 1,
            "embsync_watch_root_present": 1,
            "embsync_watch_events": 1,
            "embsync_last_scan_timestamp_seconds": 900,
            "embsync_start_timestamp_seconds": 800,
            "embsync_updated_timestamp_seconds": 1000,
            "embsync_retry_attempts": 7,
            "embsync_current_version": 2,
            "embsync_current_version_timestamp_seconds": CREATED,
            'embsync_rows{side="items",state="live"}': items.live,
            'embsync_rows{side="items",state="carried"}': items.carried,
            'embsync_rows{side="users",state="live"}': users.live,
            'embsync_rows{side="users",state="carried"}': users.carried,
            **{
                f'embsync_stage_seconds{{stage="{stage}"}}': value
                for stage, value in msgspec.to_builtins(MANIFEST.seconds).items()
            },
            "embsync_index_recall": MANIFEST.index.recall_at_10,
            "embsync_score_error": MANIFEST.preservation.score_error,
            'embsync_drift_cosine{side="items"}': MANIFEST.drift.items.cosine,
            'embsync_drift_cosine{side="users"}': MANIFEST.drift.users.cosine,
        },
        rel=1e-9,
    )


def test_missing_values_are_absent_or_zero() -> None:
    """It holds for an idle daemon, a missing watched directory, a first version and no version."""
    quiet = figures(
        msgspec.structs.replace(
            TROUBLED,
            state="blind",
            queue=[],
            retry=None,
            held=None,
            damage=[],
            watch=Watch("", "missing", "", 0, None, None),
        )
    )
    for name in (
        "embsync_queue_snapshots",
        "embsync_retry_attempts",
        "embsync_held",
        "embsync_store_damaged",
        "embsync_watch_root_present",
        "embsync_watch_events",
        'embsync_daemon_state{state="retrying"}',
    ):
        assert quiet[name] == 0.0, name
    assert quiet['embsync_daemon_state{state="blind"}'] == 1.0
    first = figures(manifest=msgspec.structs.replace(MANIFEST, drift=None))
    assert not [name for name in first if name.startswith("embsync_drift")]
    assert not [name for name in figures(manifest=None) if re.match("embsync_(current|rows|stage|index|score)", name)]


def test_a_version_dated_in_the_future_has_age_zero() -> None:
    """If the clock was set back, the age is 0; otherwise it is the seconds since the creation."""
    assert [age(MANIFEST, CREATED + seconds) for seconds in (-60.0, 0.0, 3600.0)] == [0.0, 0.0, 3600.0]
