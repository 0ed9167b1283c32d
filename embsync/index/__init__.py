"""The FAISS index of a version: building, rotating, tuning and searching it. The only package that imports faiss."""

from typing import TYPE_CHECKING

from embsync.lazy import lazily

if TYPE_CHECKING:
    from embsync.index.built import Built, ParentIndex
    from embsync.index.factory import check_factory, check_spelling, estimate_bytes
    from embsync.index.files import reject_damage
    from embsync.index.rotate_or_rebuild import refresh
    from embsync.index.searcher import Searcher

__all__ = [
    "Built",
    "ParentIndex",
    "Searcher",
    "check_factory",
    "check_spelling",
    "estimate_bytes",
    "refresh",
    "reject_damage",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        **dict.fromkeys(("check_factory", "check_spelling", "estimate_bytes"), "embsync.index.factory"),
        **dict.fromkeys(("Built", "ParentIndex"), "embsync.index.built"),
        "reject_damage": "embsync.index.files",
        "refresh": "embsync.index.rotate_or_rebuild",
        "Searcher": "embsync.index.searcher",
    },
)
