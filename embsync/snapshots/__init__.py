"""Snapshots: what a training run left behind, read without trusting it."""

from embsync.snapshots.accounting import shortened
from embsync.snapshots.completeness import Seen
from embsync.snapshots.discovery import Child, Found, discover
from embsync.snapshots.files import Signature, signature, stamp
from embsync.snapshots.layouts import open_snapshot
from embsync.snapshots.listed_files import require_as_listed
from embsync.snapshots.snapshot import FingerprintedRows, Side, Snapshot, combined

__all__ = [
    "Child",
    "FingerprintedRows",
    "Found",
    "Seen",
    "Side",
    "Signature",
    "Snapshot",
    "combined",
    "discover",
    "open_snapshot",
    "require_as_listed",
    "shortened",
    "signature",
    "stamp",
]
