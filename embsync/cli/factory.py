"""Trying ``index.factory`` before a snapshot does."""

from __future__ import annotations

import contextlib

from embsync import index
from embsync.cli.options import Context
from embsync.errors import NotFoundError, StoreError
from embsync.store.durable import storage_errors


def try_factory(given: Context) -> None:
    """Raise UsageError when FAISS rejects the factory for the width of the space, or at any where none is known."""
    if given.config.index.factory == "auto":
        return  # fits every width, and is no reason to load FAISS
    width = given.config.space.dimension
    if width is None:
        # A store that is damaged or cannot be read is not the configuration's fault.
        with contextlib.suppress(NotFoundError, StoreError), storage_errors(given.config.store.path):
            current = given.store.current()
            width = None if current is None else given.store.manifest(current).dimension
    if width is None:
        index.check_spelling(given.config.index.factory)
    else:
        index.check_factory(given.config.index, width)
