"""embsync: one stable space for embeddings that are retrained every night."""

from embsync.alignment.arrays import Anchors, Stabilized, stabilize
from embsync.errors import EmbsyncError
from embsync.reader import StoreReader, Version, open  # noqa: A004  (read as ``embsync.open``)

__version__ = "0.1.0"
__all__ = ["Anchors", "EmbsyncError", "Stabilized", "StoreReader", "Version", "__version__", "open", "stabilize"]
