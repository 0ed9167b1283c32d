"""Trying ``index.factory`` before a snapshot does."""

from __future__ import annotations

import contextlib

from embsync.cli.options import Context
from embsync.errors import NotFoundError, StoreError
from embsync.index import check_factory, check_spelling


def try_factory(given: Context) -> None:
    """Raise UsageError when FAISS rejects the factory for the width of the space, or at any where none is known."""
    width = given.config.space.dimension
    if width is None:
        with contextlib.suppress(NotFoundError, StoreError):  # a damaged store is not the configuration's fault
            current = given.store.current()
            width = None if current is None else given.store.manifest(current).dimension
    if width is None:
        check_spelling(given.config.index.factory)
    else:
        check_factory(given.config.index, width)
