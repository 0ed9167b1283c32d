"""Snapshots: what a training run left behind, read without trusting it."""

from embsync.snapshots.completeness import Seen
from embsync.snapshots.discovery import Child, Found, discover, order_key
from embsync.snapshots.files import newest_mtime, stamp
from embsync.snapshots.layouts import open_snapshot
from embsync.snapshots.snapshot import FingerprintedRows, Side, Snapshot, combined

__all__ = [
    "Child",
    "FingerprintedRows",
    "Found",
    "Seen",
    "Side",
    "Snapshot",
    "combined",
    "discover",
    "newest_mtime",
    "open_snapshot",
    "order_key",
    "stamp",
]
