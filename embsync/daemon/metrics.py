"""``metrics.prom``: metrics for the node exporter's textfile collector."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from embsync.daemon.status import Status
from embsync.manifest import Manifest
from embsync.prometheus import Family, Samples, exposition
from embsync.store import Store
from embsync.store.durable import replace_file, storage_errors

METRICS = "metrics.prom"

_OUTCOMES = ("published", "refused", "failed", "unchanged")
#: States of snapshots that exist and are not published.
_UNPUBLISHED = ("waiting", "not_permitted", "skipped", "changed")
_COUNTERS = (
    ("embsync_worker_crashes_total", "Deaths of the process that handles snapshots, since the daemon started."),
    ("embsync_errors_total", "Attempts that failed for transient reasons, since the daemon started."),
    ("embsync_on_publish_failures_total", "Failures of store.on_publish, since the daemon started."),
    ("embsync_set_aside_total", "Snapshots set aside after repeated failures, since the daemon started."),
    ("embsync_scans_total", "Scans of the watched directory, since the daemon started."),
)
_STATES = ("starting", "idle", "working", "retrying", "held", "blind", "stopping", "stopped")


@dataclass(frozen=True)
class Figures:
    """The exported figures.

    Attributes
    ----------
    outcomes : mapping
        Number of events in the journal by kind, over the life of the store.
    counters : mapping
        Counters since the daemon's start, by metric name.
    found : mapping
        Number of snapshots in the watched directory by state, of those passed over as ``passed_over``, and of versions
        that could not be pruned as ``unpruned``.
    """

    status: Status
    manifest: Manifest | None
    outcomes: Mapping[str, int]
    counters: Mapping[str, int]
    found: Mapping[str, int]
    now: float
    scanned: float | None
    started: float


def write(store: Store, figures: Figures, require: Callable[[], None]) -> None:
    """Replace the file, unless ``require`` raises because the store has been replaced."""
    with storage_errors(store.root):
        replace_file(store.root / METRICS, render(figures).encode(), require)


def render(figures: Figures) -> str:
    """Return the figures in Prometheus's text format."""
    return exposition(_families(figures))


def _families(figures: Figures) -> Iterator[Family]:
    yield from _daemon_families(figures)
    if figures.manifest is not None:
        yield from _version_families(figures.manifest)


def _daemon_families(figures: Figures) -> Iterator[Family]:
    yield (
        "embsync_snapshots_total",
        "counter",
        "Snapshots handled, by outcome, over the life of the store.",
        [({"outcome": outcome}, figures.outcomes.get(outcome, 0)) for outcome in _OUTCOMES],
    )
    for name, text in _COUNTERS:
        yield name, "counter", text, [({}, figures.counters.get(name, 0))]
    yield (
        "embsync_watched_snapshots",
        "gauge",
        "Snapshots in the watched directory that are not published, by state.",
        [({"state": state}, figures.found.get(state, 0)) for state in _UNPUBLISHED],
    )
    yield (
        "embsync_daemon_state",
        "gauge",
        "1 for the daemon's current state.",
        [({"state": state}, state == figures.status.state) for state in _STATES],
    )
    for name, text, value in _GAUGES:
        yield name, "gauge", text, [({}, value(figures))]


def age(manifest: Manifest, now: float) -> float:
    """Return how many seconds ago a version was created."""
    return round(max(now - _created(manifest), 0.0), 1)


def _created(manifest: Manifest) -> float:
    return dt.datetime.fromisoformat(manifest.created).timestamp()


def _version_families(manifest: Manifest) -> Iterator[Family]:
    for name, text, samples in _VERSION_GAUGES:
        yield name, "gauge", text, samples(manifest)
    if manifest.drift is not None:
        yield (
            "embsync_drift_cosine",
            "gauge",
            "Mean cosine with the parent version over common ids, by side.",
            [
                ({"side": side}, None if moved is None else moved.cosine)
                for side, moved in (("items", manifest.drift.items), ("users", manifest.drift.users))
            ],
        )


def _rows(manifest: Manifest) -> Samples:
    return [
        ({"side": name, "state": state}, getattr(counts, state))
        for name, counts in manifest.sides.named()
        for state in ("live", "carried")
    ]


def _stages(manifest: Manifest) -> Samples:
    return [({"stage": stage}, value) for stage, value in msgspec.to_builtins(manifest.seconds).items()]


#: Name, help and value of the daemon's gauges without labels.
_GAUGES: tuple[tuple[str, str, Callable[[Figures], float | None]], ...] = (
    (
        "embsync_passed_over_snapshots",
        "Snapshots skipped, or changed after being handled, although newer than everything published.",
        lambda figures: figures.found.get("passed_over", 0),
    ),
    ("embsync_queue_snapshots", "Snapshots waiting to be handled.", lambda figures: len(figures.status.queue)),
    (
        "embsync_unpruned_versions",
        "Versions beyond store.keep_versions that still exist.",
        lambda figures: figures.found.get("unpruned", 0),
    ),
    ("embsync_held", "1 while publishing is on hold.", lambda figures: figures.status.held is not None),
    (
        "embsync_store_damaged",
        "1 while part of the store is known to be damaged.",
        lambda figures: bool(figures.status.damage),
    ),
    (
        "embsync_watch_root_present",
        "1 while the watched directory exists.",
        lambda figures: figures.status.watch.health != "missing",
    ),
    (
        "embsync_watch_events",
        "1 while the directory is watched by file events; 0 with rescans only.",
        lambda figures: figures.status.watch.health == "events",
    ),
    (
        "embsync_last_scan_timestamp_seconds",
        "Time of the last scan of the watched directory.",
        lambda figures: figures.scanned,
    ),
    ("embsync_start_timestamp_seconds", "Time at which the daemon started.", lambda figures: figures.started),
    ("embsync_updated_timestamp_seconds", "Time at which these metrics were written.", lambda figures: figures.now),
    (
        "embsync_retry_attempts",
        "Failed attempts on the snapshot being retried.",
        lambda figures: figures.status.retry.attempts if figures.status.retry else 0,
    ),
)

#: Name, help and values of the gauges that every version has.
_VERSION_GAUGES: tuple[tuple[str, str, Callable[[Manifest], Samples]], ...] = (
    ("embsync_current_version", "Number of the current version.", lambda manifest: [({}, manifest.version)]),
    (
        "embsync_current_version_timestamp_seconds",
        "Time at which the current version was created.",
        lambda manifest: [({}, _created(manifest))],
    ),
    ("embsync_rows", "Rows of the current version, by side and state.", _rows),
    ("embsync_stage_seconds", "Wall-clock seconds of the run that made the current version, by stage.", _stages),
    (
        "embsync_index_recall",
        "Recall of the current version's index against exact search.",
        lambda manifest: [({}, manifest.index.recall_at_10)],
    ),
    (
        "embsync_score_error",
        "Relative error of all user-item scores of the current version.",
        lambda manifest: [({}, manifest.preservation.score_error)],
    ),
)
