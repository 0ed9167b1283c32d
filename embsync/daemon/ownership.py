"""The lock that allows one daemon per store, and the check that the store is still the one that was locked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from embsync.errors import StoreBusy, StoreError
from embsync.invocation import command
from embsync.store import Store, layout
from embsync.store.durable import storage_errors
from embsync.store.locks import exclusive

#: Seconds to wait for the daemon's lock: another daemon keeps it, but ``embsync status`` only tests it briefly.
_LOCK_SECONDS = 1.0


class StoreLostError(StoreError):
    """The store was moved, deleted or replaced while its daemon was running."""


class Ownership:
    """A held lock and its file, which stays open, so that no other file can get its device and inode numbers."""

    def __init__(self, store: Store) -> None:
        self._root = store.root
        self._lock = store.root / layout.DAEMON_LOCK
        with storage_errors(self._lock):
            self._identity = self._identify()

    @property
    def lost(self) -> bool:
        """Whether the store's path now leads to another directory, or to none."""
        try:
            return self._identify() != self._identity
        except OSError:
            return True

    def require(self) -> None:
        """Raise StoreLostError if the store is lost: this daemon must not write to the directory that is there now."""
        if self.lost:
            found = "another directory" if self._root.exists() else "nothing"
            raise StoreLostError(
                "the store was moved or replaced while its daemon was running",
                where=self._root,
                found=found,
                expected="the one that it was started on",
                hint="restart the daemon to use the store that is there now",
            )

    def _identify(self) -> tuple[int, int]:
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
                expected="one daemon per store",
                hint=command("status", purpose="to see what it is doing", store=store.root),
            ) from None
        yield Ownership(store)
