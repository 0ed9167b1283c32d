"""``hold`` and ``resume``: while the file ``hold`` exists in a store, the daemon publishes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from embsync.errors import StoreError
from embsync.invocation import command
from embsync.manifest import Manifest
from embsync.store import Store
from embsync.store.critical import uninterrupted
from embsync.store.durable import remove_file, replace_file, storage_errors, taking_effect
from embsync.store.journal import Event
from embsync.store.records import read_struct, timestamp
from embsync.store.staging import Staging

HOLD = "hold"


class Hold(msgspec.Struct, frozen=True):
    """The time and the reason of a hold."""

    time: str
    reason: str | None = None


class HeldError(StoreError):
    """The store is on hold, so the new version was not published."""

    transient = True


class HoldableStore(Store):
    """The store for the daemon's worker: it checks for a hold under the lock, when it publishes."""

    def publish(self, staging: Staging, manifest: Manifest, event: Event, data: bytes | None = None) -> None:
        """Publish unless on hold."""
        found = held(self.root)
        if found is not None:
            raise HeldError(
                "the store is on hold",
                where=self.root,
                found=f"hold since {found.time}",
                hint=command("resume", purpose="to continue", store=self.root),
            )
        super().publish(staging, manifest, event, data)


def held(root: Path) -> Hold | None:
    """Return the hold of a store, or None; an unreadable file is a hold too, with the error as its reason."""
    try:
        return read_struct(root / HOLD, Hold)
    except StoreError as error:
        return Hold(time="an unknown time", reason=str(error))


def _exists(root: Path) -> bool:
    """Return whether the hold file exists, readable or not."""
    with storage_errors(root / HOLD):
        try:
            os.lstat(root / HOLD)
        except FileNotFoundError:
            return False
    return True


def hold(store: Store, reason: str | None = None) -> bool:
    """Stop the daemon from publishing; return False if the store is already on hold."""
    store.require()
    with store.locked(even_when_full=True):
        if _exists(store.root):
            return False
        with uninterrupted(), storage_errors(store.root):
            with taking_effect("on hold", lambda: _exists(store.root), store.root):
                replace_file(store.root / HOLD, msgspec.json.encode(Hold(timestamp(), reason)))
            store.journal.record(Event(event="held", reason=reason), "on hold: the daemon publishes nothing")
    return True


def resume(store: Store) -> bool:
    """Let the daemon publish again; return False if it was not on hold."""
    store.require()
    with store.locked(even_when_full=True):
        if not _exists(store.root):
            return False
        with uninterrupted(), storage_errors(store.root):
            with taking_effect("resumed", lambda: not _exists(store.root), store.root):
                remove_file(store.root / HOLD)
            store.journal.record(Event(event="resumed"), "resumed: the daemon publishes again")
    return True
