"""Trying ``index.factory`` before a snapshot does."""

from __future__ import annotations

import contextlib

from embsync.cli.options import Context
from embsync.errors import NotFoundError, StoreError
from embsync.index import check_factory, check_spelling
from embsync.store.durable import storage_errors


def try_factory(given: Context) -> None:
    """Raise UsageError when FAISS rejects the factory for the width of the space, or at any where none is known."""
    width = given.config.space.dimension
    if width is None:
        # A store that is damaged or cannot be read is not the configuration's fault.
        with contextlib.suppress(NotFoundError, StoreError), storage_errors(given.config.store.path):
            current = given.store.current()
            width = None if current is None else given.store.manifest(current).dimension
    if width is None:
        check_spelling(given.config.index.factory)
    else:
        check_factory(given.config.index, width)
