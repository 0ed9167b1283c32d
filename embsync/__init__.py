"""embsync: one stable space for embeddings that are retrained every night."""

from typing import TYPE_CHECKING, Any

from embsync.errors import EmbsyncError
from embsync.reader import StoreReader, Version, open  # noqa: A004  (read as ``embsync.open``)

if TYPE_CHECKING:
    from embsync.alignment.arrays import Anchors, Stabilized, stabilize

__version__ = "0.1.0"
__all__ = ["Anchors", "EmbsyncError", "Stabilized", "StoreReader", "Version", "__version__", "open", "stabilize"]


def __getattr__(name: str) -> Any:
    """Load what aligns on first use: it brings scipy.linalg, which readers can do without."""
    if name in {"Anchors", "Stabilized", "stabilize"}:
        from embsync.alignment import arrays  # noqa: PLC0415

        return getattr(arrays, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
