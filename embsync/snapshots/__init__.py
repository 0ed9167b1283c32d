"""Snapshots: the output of a training run, read as untrusted input."""

from embsync.snapshots.accounting import shortened
from embsync.snapshots.column_files import StoredColumns
from embsync.snapshots.files import Signature, signature, stamp
from embsync.snapshots.fingerprint import Digest, SideDigest, fingerprint_of, fingerprints_of, is_earlier
from embsync.snapshots.layouts import open_snapshot
from embsync.snapshots.row_digest import side_digest
from embsync.snapshots.sides import IdentifiedSide
from embsync.snapshots.snapshot import Snapshot, SnapshotSide

__all__ = [
    "Digest",
    "IdentifiedSide",
    "SideDigest",
    "Signature",
    "Snapshot",
    "SnapshotSide",
    "StoredColumns",
    "fingerprint_of",
    "fingerprints_of",
    "is_earlier",
    "open_snapshot",
    "shortened",
    "side_digest",
    "signature",
    "stamp",
]
