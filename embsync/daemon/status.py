"""``status.json``: the daemon's current state, for people, ``embsync status`` and probes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from embsync.errors import StoreDamaged
from embsync.store import Store, layout
from embsync.store.durable import replace_file, storage_errors
from embsync.store.locks import is_held
from embsync.store.records import MALFORMED, read_record

#: Bytes; more than the names of a large backlog take.
_LONGEST = 16 * 1024**2

DaemonPhase = Literal["starting", "idle", "working", "retrying", "held", "blind", "stopping", "stopped"]


class Problem(msgspec.Struct, frozen=True):
    """A problem, its time and its snapshot; ``over`` is the time at which a later snapshot was published.

    ``found``, ``expected`` and ``hint`` are the parts of ``what`` if it is an error that has them.
    """

    time: str
    what: str
    snapshot: str | None = None
    over: str | None = None
    found: str | None = None
    expected: str | None = None
    hint: str | None = None


class Current(msgspec.Struct, frozen=True):
    """The current version."""

    version: int
    snapshot: str
    created: str
    age_seconds: float


class Work(msgspec.Struct, frozen=True):
    """The snapshot being worked on, and its progress."""

    snapshot: str
    stage: str | None = None
    share: float | None = None


class Retry(msgspec.Struct, frozen=True):
    """The snapshot to be retried, the number of failed attempts, and the seconds until the next one."""

    snapshot: str
    attempts: int
    seconds: float


class Watch(msgspec.Struct, frozen=True):
    """The watched directory; ``health`` is ``events``, ``rescan`` (no events, rescans only) or ``missing``."""

    path: str
    health: str
    reason: str
    armed: int
    last_scan: str | None
    next_scan: str | None


class SnapshotStatus(msgspec.Struct, frozen=True):
    """A snapshot: its state as in ``embsync status``, the reason, and whether it is passed over.

    A snapshot is passed over if it is skipped or changed although it is newer than everything published.
    """

    state: str
    reason: str
    passed_over: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of the file; fields that are unknown or do not apply are null."""

    format: int = 1
    pid: int = msgspec.field(default_factory=os.getpid)
    state: DaemonPhase
    since: str
    started: str
    updated: str
    doing: str
    current: Current | None
    queue: list[str]
    waiting: dict[str, str]
    snapshots: dict[str, SnapshotStatus] = {}
    order: str | None = None
    work: Work | None
    retry: Retry | None
    held: dict[str, str | None] | None
    last_refusal: Problem | None
    last_error: Problem | None
    on_publish: str | None
    watch: Watch
    damage: list[str] = []


def write(store: Store, status: Status, require: Callable[[], None]) -> None:
    """Replace the file, unless ``require`` raises because the store has been replaced.

    Raises
    ------
    StoreError
        The store cannot be written.
    """
    with storage_errors(store.root):
        text = msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n"
        replace_file(store.root / layout.STATUS, text, require)


def is_running(store: Store) -> bool:
    """Return whether a daemon serves the store."""
    return is_held(store.root / layout.DAEMON_LOCK)


def read(store: Store) -> dict[str, Any] | None:
    """Return the file as plain values, or None if no daemon has ever served the store.

    Raises
    ------
    StoreDamaged
        The file is damaged, or was written by another release.
    StoreError
        The file cannot be read.
    """
    path = store.root / layout.STATUS
    data = read_record(path, _LONGEST)
    if data is None:
        return None
    try:
        found: dict[str, Any] = msgspec.json.decode(data)
        msgspec.convert(found, Status)
    except MALFORMED as error:
        raise StoreDamaged(
            "damaged file", where=path, found=str(error)[:200], hint="a running daemon rewrites it within seconds"
        ) from None
    return found
