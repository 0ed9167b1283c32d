"""``delivery.json`` and ``delivery.prom``: what the service reports about each sink; nothing depends on them.

The state is stored in the sinks themselves. These files can be deleted at any time.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from embsync.config import DeliveryConfig
from embsync.prometheus import Family, Samples, exposition
from embsync.store.durable import replace_file, write_errors
from embsync.store.locks import is_held
from embsync.store.records import read_struct, timestamp

STATE, METRICS, LOCK = "delivery.json", "delivery.prom", "delivery.lock"

SinkState = Literal["waiting", "delivering", "current", "retrying"]
_STATES = ("waiting", "delivering", "current", "retrying")
#: Metrics of a sink: name, type, field of :class:`SinkReport`, help.
_BY_SINK = (
    ("embsync_delivery_versions_behind", "gauge", "behind", "Versions that a sink is behind the store."),
    (
        "embsync_delivery_behind_since_timestamp_seconds", "gauge", "behind_since",
        "Time at which a sink was first found to be behind; absent if it is not.",
    ),
    ("embsync_delivery_current_version", "gauge", "current", "Version that a sink's readers see."),
    (
        "embsync_delivery_failures_total", "counter", "failures_total",
        "Failed attempts to deliver, since the service started.",
    ),
    ("embsync_delivery_recall", "gauge", "recall", "Recall that was measured in a sink."),
)  # fmt: skip


class SinkReport(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one sink.

    Attributes
    ----------
    kind : str
    state : str
        waiting (the store has no version yet), delivering, current, retrying.
    current : int or None
        The version that its readers see; None before the first one, and before the sink was reached.
    behind : int
        Versions that it is behind the store.
    behind_since : str or None
        When it was first found to be behind.
    error : str or None
        The last error since the last success.
    failures, failures_total : int
        Attempts that failed since the last success, and over the life of the service.
    next_attempt : str or None
    delivered : str or None
        When the last version was delivered.
    recall : float or None
    search : dict
        Search parameters of the current version in this sink.
    notes : list of str
        Remarks for users: what the sink cannot do, or that it misses the target recall.
    old : list of int
        Versions that are removed once their readers have finished.
    """

    kind: str
    state: SinkState = "waiting"
    current: int | None = None
    behind: int = 0
    behind_since: str | None = None
    error: str | None = None
    failures: int = 0
    failures_total: int = 0
    next_attempt: str | None = None
    delivered: str | None = None
    recall: float | None = None
    search: dict[str, int] = {}
    notes: list[str] = []
    old: list[int] = []


class DeliveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of ``delivery.json``.

    Attributes
    ----------
    updated, started : str
    pid : int
    wanted : int or None
        The store's current version.
    sinks : dict
        By name.
    problem : str or None
        Why the configuration could not be reloaded; the previous one stays in force.
    """

    updated: str
    started: str
    pid: int
    wanted: int | None = None
    sinks: dict[str, SinkReport] = {}
    problem: str | None = None


def directory_of(config: DeliveryConfig, root: Path) -> Path:
    """Return the directory of the files."""
    return root if config.directory is None else Path(config.directory)


def write_report(folder: Path, report: DeliveryReport) -> None:
    """Replace both files.

    Raises
    ------
    StoreError
        They cannot be written.
    """
    with write_errors("the state of deliveries", folder):
        replace_file(folder / STATE, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        replace_file(folder / METRICS, exposition(_families(report)).encode())


def read_report(folder: Path) -> dict[str, Any] | None:
    """Return the contents of ``delivery.json`` and whether a delivery is running; None if there is no file.

    Raises
    ------
    StoreError
        It is damaged or cannot be read.
    """
    found = read_struct(folder / STATE, DeliveryReport)
    return None if found is None else {**msgspec.to_builtins(found), "running": is_held(folder / LOCK)}


def new_report(
    started: float, wanted: int | None, sinks: dict[str, SinkReport], problem: str | None = None
) -> DeliveryReport:
    """Return a report of this process."""
    return DeliveryReport(
        updated=timestamp(time.time()),
        started=timestamp(started),
        pid=os.getpid(),
        wanted=wanted,
        sinks=sinks,
        problem=problem,
    )


def _families(report: DeliveryReport) -> Iterator[Family]:
    sinks = report.sinks.items()
    for name, kind, field, text in _BY_SINK:
        yield name, kind, text, [({"sink": sink}, _number(getattr(found, field))) for sink, found in sinks]
    states: Samples = [
        ({"sink": sink, "state": one}, float(one == found.state)) for sink, found in sinks for one in _STATES
    ]
    yield "embsync_delivery_state", "gauge", "1 for a sink's current state.", states
    updated: Samples = [({}, _number(report.updated))]
    yield "embsync_delivery_updated_timestamp_seconds", "gauge", "Time at which these metrics were written.", updated


def _number(value: Any) -> float | None:
    return dt.datetime.fromisoformat(value).timestamp() if isinstance(value, str) else value
