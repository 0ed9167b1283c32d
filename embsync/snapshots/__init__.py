"""Snapshots: what a training run left behind, read without trusting it."""

from embsync.snapshots.accounting import shortened
from embsync.snapshots.files import Signature, signature, stamp
from embsync.snapshots.layouts import open_snapshot
from embsync.snapshots.snapshot import FingerprintedRows, Snapshot, SnapshotSide, combined

__all__ = [
    "FingerprintedRows",
    "Signature",
    "Snapshot",
    "SnapshotSide",
    "combined",
    "open_snapshot",
    "shortened",
    "signature",
    "stamp",
]
