"""Reloading the configuration of a running service: what may not change, and what is reported."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from embsync.config import Config
from embsync.errors import EmbsyncError, UsageError
from embsync.logs import log
from embsync.notify import reloading


def reload(load: Callable[[], Config], root: Path, apply: Callable[[Config], None]) -> EmbsyncError | None:
    """Read the configuration again and apply it; if it is invalid, return the error and keep the old one.

    Parameters
    ----------
    load : callable
        Returns the configuration, or raises.
    root : path
        The service's store, which stays the same while it runs.
    apply : callable
        Applies a configuration.
    """
    with reloading():
        try:
            fresh = load()
            if os.path.abspath(fresh.store.path) != os.path.abspath(root):  # noqa: PTH100
                raise UsageError(
                    "store.path changed",
                    found=fresh.store.path,
                    expected=str(root),
                    hint="restart the service to use another store",
                )
        except EmbsyncError as error:
            return error
        apply(fresh)
    log(logging.INFO, "reloaded")
    return None
