"""Snapshots: what a training run left behind, read without trusting it."""

from embsync.snapshots.accounting import shortened
from embsync.snapshots.completeness import Seen
from embsync.snapshots.discovery import Child, Found, discover, order_key
from embsync.snapshots.files import stamp, stamp_and_mtime
from embsync.snapshots.layouts import open_snapshot
from embsync.snapshots.listed_files import NotAsListed, require_as_listed
from embsync.snapshots.snapshot import FingerprintedRows, Side, Snapshot, combined

__all__ = [
    "Child",
    "FingerprintedRows",
    "Found",
    "NotAsListed",
    "Seen",
    "Side",
    "Snapshot",
    "combined",
    "discover",
    "open_snapshot",
    "order_key",
    "require_as_listed",
    "shortened",
    "stamp",
    "stamp_and_mtime",
]
