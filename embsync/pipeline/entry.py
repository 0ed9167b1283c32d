"""Handling one entry of the backlog: publish it, or journal why it was not published."""

from __future__ import annotations

from embsync import pipeline
from embsync.config import Config
from embsync.errors import SnapshotError
from embsync.manifest import Manifest
from embsync.pipeline.request import Request, UnchangedError
from embsync.progress import Progress, silent
from embsync.store import Store
from embsync.store.journal import Event
from embsync.watching.backlog import Entry, journal
from embsync.watching.source_manifest import verify_listed_files


def publish_entry(store: Store, entry: Entry, config: Config, progress: Progress = silent) -> Manifest:
    """Run the pipeline on an entry of the backlog; journal, once, errors that only a new snapshot can fix.

    Raises
    ------
    UnchangedError
        The contents are the same as those last handled under this name; journaled.
    SnapshotIncomplete
        The contents do not match the source manifest, or one of two tables has no commit for the other's night yet.
    """
    request = Request(entry.child.path, known_fingerprint=entry.fingerprint, follow_link=False)
    try:
        if config.watch.complete in {"auto", "manifest"}:
            verify_listed_files(entry.child.path, lambda share: progress("comparing", share))
        return pipeline.publish_snapshot(store, request, config, progress)
    except UnchangedError:
        journal(store, entry, Event(event="unchanged", reason="the same contents as before"), entry.fingerprint)
        raise
    except SnapshotError as error:
        if not error.transient:
            journal(store, entry, Event(event="failed", reason=str(error), error=error.as_dict()), None)
        raise
