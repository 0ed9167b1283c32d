"""Snapshots: what a training run left behind, read without trusting it."""

from embsync.snapshots.files import stamp
from embsync.snapshots.layouts import open_snapshot
from embsync.snapshots.snapshot import FingerprintedRows, Side, Snapshot, combined

__all__ = ["FingerprintedRows", "Side", "Snapshot", "combined", "open_snapshot", "stamp"]
