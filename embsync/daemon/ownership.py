"""One daemon a store, and one store a daemon: the lock it holds, and that it lies where it was taken."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from embsync.errors import StoreBusy, StoreError
from embsync.invocation import command
from embsync.store import Store, layout
from embsync.store.durable import storage_errors
from embsync.store.locks import exclusive

#: Another daemon keeps its lock; ``embsync status`` asks for it for a moment only.
_LOCK_SECONDS = 1.0


class StoreLostError(StoreError):
    """The store was moved, deleted or replaced under its daemon."""


class Ownership:
    """A lock that is held, and the file it was taken on.

    The file is open for as long as the lock is held, so no other one can have its device and inode.
    """

    def __init__(self, store: Store) -> None:
        self._root = store.root
        self._lock = store.root / layout.DAEMON_LOCK
        with storage_errors(self._lock):
            self._identity = self._look()

    @property
    def lost(self) -> bool:
        """Whether the store's path leads elsewhere by now, or nowhere."""
        try:
            return self._look() != self._identity
        except OSError:
            return True

    def require(self) -> None:
        """Raise StoreLostError when the store is lost: what is there now is not this daemon's to write to."""
        if self.lost:
            found = "another one" if self._root.exists() else "nothing"
            raise StoreLostError(
                "the store was moved or replaced under its daemon",
                where=self._root,
                found=found,
                expected="the one it was started on",
                hint="a new start takes what is there now",
            )

    def _look(self) -> tuple[int, int]:
        status = os.stat(self._lock)  # noqa: PTH116
        return status.st_dev, status.st_ino


@contextlib.contextmanager
def only_daemon(store: Store) -> Iterator[Ownership]:
    """Hold the lock of the store's daemon.

    Raises
    ------
    StoreBusy
        Another daemon serves the store; the message says which.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(store.root / layout.DAEMON_LOCK, _LOCK_SECONDS, "the store's daemon"))
        except StoreBusy as busy:
            raise StoreBusy(
                "another daemon serves the store",
                where=store.root,
                found=busy.found,
                expected="one daemon a store",
                hint=command("status", purpose="to see what it does", store=store.root),
            ) from None
        yield Ownership(store)
