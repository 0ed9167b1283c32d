"""embsync: one stable space for embeddings that are retrained every night."""

from embsync.alignment.arrays import Anchors, Stabilized, stabilize

__version__ = "0.1.0"
__all__ = ["Anchors", "Stabilized", "__version__", "stabilize"]
