"""embsync: one stable space for embeddings that are retrained every night."""

import importlib
from typing import TYPE_CHECKING

from embsync.alignment.arrays import Anchors, Stabilized, stabilize
from embsync.errors import EmbsyncError
from embsync.reader import StoreReader, Version, open  # noqa: A004  (read as ``embsync.open``)

if TYPE_CHECKING:
    from embsync.training import publish, write_snapshot

__version__ = "0.1.0"
__all__ = [
    "Anchors",
    "EmbsyncError",
    "Stabilized",
    "StoreReader",
    "Version",
    "__version__",
    "open",
    "publish",
    "stabilize",
    "write_snapshot",
]


def __getattr__(name: str) -> object:
    """Load what only training jobs call when it is asked for: consumers never need it."""
    if name in {"publish", "write_snapshot"}:
        return getattr(importlib.import_module("embsync.training"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
