"""Snapshots: the output of a training run, read as untrusted input."""

from embsync.snapshots.accounting import shortened
from embsync.snapshots.files import Signature, signature, stamp
from embsync.snapshots.fingerprint import SideDigest, fingerprint_of, fingerprints_of, is_earlier
from embsync.snapshots.layouts import open_snapshot
from embsync.snapshots.snapshot import Snapshot, SnapshotSide

__all__ = [
    "SideDigest",
    "Signature",
    "Snapshot",
    "SnapshotSide",
    "fingerprint_of",
    "fingerprints_of",
    "is_earlier",
    "open_snapshot",
    "shortened",
    "signature",
    "stamp",
]
