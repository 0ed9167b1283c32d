"""Durable writes, layout, manifest, rows, journal, publish, prune: the directory that holds the versions."""

from embsync.store.store import Store

__all__ = ["Store"]
