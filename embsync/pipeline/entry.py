"""One entry of the backlog: published by the pipeline, or journaled with what stands against it."""

from __future__ import annotations

from embsync import pipeline
from embsync.config import Config
from embsync.errors import SnapshotError
from embsync.manifest import Manifest
from embsync.pipeline.progress import Progress, silent
from embsync.pipeline.request import Request, UnchangedError
from embsync.store import Store
from embsync.store.journal import Event
from embsync.watching.backlog import Entry, journal
from embsync.watching.source_manifest import require_as_listed


def publish_entry(store: Store, entry: Entry, config: Config, progress: Progress = silent) -> Manifest:
    """Run the pipeline on an entry of the backlog; what only a new snapshot can mend is journaled, once.

    Raises
    ------
    UnchangedError
        The contents are those handled last under this name; journaled.
    SnapshotIncomplete
        Its manifest lists other contents, or one of two tables has no commit of the other's night yet.
    """
    request = Request(entry.child.path, known_fingerprint=entry.fingerprint, follow_link=False)
    try:
        if config.watch.complete in {"auto", "manifest"}:
            require_as_listed(entry.child.path, lambda share: progress("comparing", share))
        return pipeline.publish_snapshot(store, request, config, progress)
    except UnchangedError:
        journal(store, entry, Event(event="unchanged", reason="the same contents as before"), entry.fingerprint)
        raise
    except SnapshotError as error:
        if not error.transient:
            journal(store, entry, Event(event="failed", reason=str(error), error=error.as_dict()), None)
        raise
