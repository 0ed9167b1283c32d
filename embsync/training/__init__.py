"""For training jobs: write a snapshot atomically, or publish arrays."""

from embsync.training.publish import publish
from embsync.training.write import write_snapshot

__all__ = ["publish", "write_snapshot"]
