"""What a training job calls: it leaves a snapshot that is whole or not there, or publishes what it has."""

from embsync.training.publish import publish
from embsync.training.write import write_snapshot

__all__ = ["publish", "write_snapshot"]
