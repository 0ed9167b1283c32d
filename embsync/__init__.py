"""embsync: one stable space for embeddings that are retrained every night."""

from typing import TYPE_CHECKING

from embsync.lazy import lazily

if TYPE_CHECKING:
    from embsync.arrays.anchors import Anchors
    from embsync.arrays.stabilization import Stabilized, stabilize
    from embsync.errors import (
        EmbsyncError,
        EngineError,
        ForeignSpace,
        NotFoundError,
        OutOfSpace,
        RefusedError,
        SinkConflict,
        SinkError,
        SinkMoved,
        SinkUnavailable,
        SnapshotChanged,
        SnapshotError,
        SnapshotIncomplete,
        StoreBusy,
        StoreDamaged,
        StoreError,
        UsageError,
    )
    from embsync.reader import StoreReader, Version, open  # noqa: A004  (read as ``embsync.open``)
    from embsync.reporting.report import Report, report
    from embsync.training.publish import publish
    from embsync.training.write import write_snapshot

__version__ = "0.1.0"
__all__ = [
    "Anchors",
    "EmbsyncError",
    "EngineError",
    "ForeignSpace",
    "NotFoundError",
    "OutOfSpace",
    "RefusedError",
    "Report",
    "SinkConflict",
    "SinkError",
    "SinkMoved",
    "SinkUnavailable",
    "SnapshotChanged",
    "SnapshotError",
    "SnapshotIncomplete",
    "Stabilized",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
    "StoreReader",
    "UsageError",
    "Version",
    "__version__",
    "open",
    "publish",
    "report",
    "stabilize",
    "write_snapshot",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Anchors": "embsync.arrays.anchors",
        **dict.fromkeys(("Stabilized", "stabilize"), "embsync.arrays.stabilization"),
        **dict.fromkeys(
            (
                "EmbsyncError",
                "EngineError",
                "ForeignSpace",
                "NotFoundError",
                "OutOfSpace",
                "RefusedError",
                "SinkConflict",
                "SinkError",
                "SinkMoved",
                "SinkUnavailable",
                "SnapshotChanged",
                "SnapshotError",
                "SnapshotIncomplete",
                "StoreBusy",
                "StoreDamaged",
                "StoreError",
                "UsageError",
            ),
            "embsync.errors",
        ),
        **dict.fromkeys(("StoreReader", "Version", "open"), "embsync.reader"),
        **dict.fromkeys(("Report", "report"), "embsync.reporting.report"),
        "publish": "embsync.training.publish",
        "write_snapshot": "embsync.training.write",
    },
)
