"""The lineage of a new version: the numbers of its ancestors and its own, and when each was made."""

from __future__ import annotations

import contextlib

import numpy as np

from embsync.dtypes import Times
from embsync.errors import NotFoundError, StoreError
from embsync.reader import Version
from embsync.store import Store, layout
from embsync.store.contents import PUBLISHES
from embsync.store.staging import Staging


def save_lineage(staging: Staging, store: Store, parent: Version | None, number: int, created: str) -> None:
    """Write the lineage of version ``number``, made at ``created``; without a parent it is the first of its space."""
    numbers = np.empty(0, np.int64) if parent is None else parent.lineage
    times = np.empty(0, "datetime64[s]") if parent is None else _times(store, parent)
    staging.save(layout.LINEAGE, np.append(numbers, np.int64(number)))
    staging.save(layout.LINEAGE_TIMES, np.append(times, _time(created)).astype(np.int64))


def _times(store: Store, parent: Version) -> Times:
    """Return when the versions of a lineage were made; for those of earlier releases, as far as it is recorded."""
    times = parent.lineage_times
    if not np.isnat(times).any():
        return times
    known = {event.version: event.time for event in store.journal.events() if event.event in PUBLISHES and event.time}
    for number in store.numbers():
        with contextlib.suppress(StoreError, NotFoundError):  # damaged manifests are skipped
            manifest = store.manifest(number)
            known[manifest.night] = manifest.created
    from_elsewhere = [_time(known.get(number, "NaT")) for number in parent.lineage.tolist()]
    return np.where(np.isnat(times), np.array(from_elsewhere, times.dtype), times)


def _time(text: str) -> np.datetime64:
    return np.datetime64(text.removesuffix("Z"), "s")
