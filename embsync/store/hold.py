"""``hold`` and ``resume``: a file in the store, while which exists the daemon publishes nothing."""

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
from embsync.store.journal import Event, now
from embsync.store.records import read_struct
from embsync.store.staging import Staging

HOLD = "hold"


class Hold(msgspec.Struct, frozen=True):
    """Since when, and why."""

    time: str
    reason: str | None = None


class HeldError(StoreError):
    """The store is on hold: what was made is not published."""

    transient = True


class HoldableStore(Store):
    """The store as the daemon's work sees it: the hold is looked at under the lock, in the moment of publishing."""

    def publish(self, staging: Staging, manifest: Manifest, event: Event) -> None:
        """Publish unless on hold."""
        found = held(self.root)
        if found is not None:
            raise HeldError(
                "the store is on hold",
                where=self.root,
                found=f"hold since {found.time}",
                hint=command("resume", purpose="to go on", store=self.root),
            )
        super().publish(staging, manifest, event)


def held(root: Path) -> Hold | None:
    """Return the hold of a store, None when there is none; a file that says nothing readable holds too, and why."""
    try:
        return read_struct(root / HOLD, Hold)
    except StoreError as error:
        return Hold(time="an unknown time", reason=str(error))


def _is_there(root: Path) -> bool:
    """Return whether a store has a hold; one that cannot be looked for is no answer, see :func:`held`."""
    with storage_errors(root / HOLD):
        try:
            os.lstat(root / HOLD)
        except FileNotFoundError:
            return False
    return True


def hold(store: Store, reason: str | None = None) -> bool:
    """Make the daemon publish nothing from now on; False when that is so already."""
    store.require()
    with store.locked(even_when_full=True):
        if _is_there(store.root):
            return False
        with uninterrupted(), storage_errors(store.root):
            with taking_effect("on hold", lambda: _is_there(store.root), store.root):
                replace_file(store.root / HOLD, msgspec.json.encode(Hold(now(), reason)))
            store.journal.record(Event(event="held", reason=reason), "on hold: the daemon publishes nothing")
    return True


def resume(store: Store) -> bool:
    """Let the daemon publish again; False when it was not on hold."""
    store.require()
    with store.locked(even_when_full=True):
        if not _is_there(store.root):
            return False
        with uninterrupted(), storage_errors(store.root):
            with taking_effect("resumed", lambda: not _is_there(store.root), store.root):
                remove_file(store.root / HOLD)
            store.journal.record(Event(event="resumed"), "resumed: the daemon publishes again")
    return True
