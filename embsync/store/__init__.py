"""The store, a directory of versions: layout, manifest, rows, journal, durable writes, publishing and pruning."""

from embsync.store.store import Store

__all__ = ["Store"]
