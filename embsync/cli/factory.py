"""Validation of ``index.factory`` before any work."""

from __future__ import annotations

import contextlib

from embsync import index
from embsync.cli.options import Context
from embsync.errors import NotFoundError, StoreError
from embsync.store.durable import storage_errors


def try_factory(given: Context) -> None:
    """Raise UsageError if FAISS rejects the factory for the width of the space, or, if it is unknown, for any width."""
    if given.config.index.factory == "auto":
        return  # valid for every width; FAISS need not be loaded
    width = given.config.space.dimension
    if width is None:
        # a damaged or unreadable store does not make the configuration invalid
        with contextlib.suppress(NotFoundError, StoreError), storage_errors(given.config.store.path):
            current = given.store.current()
            width = None if current is None else given.store.manifest(current).dimension
    if width is None:
        index.check_spelling(given.config.index.factory)
    else:
        index.check_factory(given.config.index, width)
