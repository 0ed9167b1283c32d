"""The FAISS index of a version: built, rotated, judged and searched. The only package that imports faiss."""

from embsync.index.factory import check_factory, check_spelling, estimate_bytes
from embsync.index.files import reject_damage
from embsync.index.refresh import refresh
from embsync.index.report import Built, Previous
from embsync.index.searcher import Searcher

__all__ = [
    "Built",
    "Previous",
    "Searcher",
    "check_factory",
    "check_spelling",
    "estimate_bytes",
    "refresh",
    "reject_damage",
]
