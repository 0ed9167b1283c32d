"""``embsync.open``: the store for consumers, read-only."""

from __future__ import annotations

import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

from embsync.errors import ForeignSpace
from embsync.file_hashes import Stopped
from embsync.reader.follower import Follower, OnError
from embsync.reader.pin import open_version, require_space
from embsync.reader.version import Version
from embsync.store import layout
from embsync.store.locks import identity

__all__ = ["ForeignSpace", "StoreReader", "open", "open_version"]


class StoreReader:
    """A store opened for reading. Any number of threads and processes can read it at once.

    Attributes
    ----------
    current : Version
        Pinned; stays the same until :meth:`refresh`, or until a follower switches.
    space_id : str or None
        The requested space; versions of another one are refused.
    follower : Follower or None
        Set by :meth:`follow`.
    """

    def __init__(self, root: str | Path, space_id: str | None = None) -> None:
        self.root = Path(root).absolute()
        self.space_id = space_id
        self.follower: Follower | None = None
        self._lock = os.getpid(), threading.Lock()
        self.current = self._open()
        self.current.leave_to_collection()  # callers may still use the version after the reader has switched

    def refresh(self) -> bool:
        """Switch :attr:`current` to the newest version; return whether it changed.

        Takes milliseconds: sizes and the manifest are checked, but not hashes (:meth:`follow` checks them). The
        previous version remains usable for callers that still hold it.

        Raises
        ------
        StoreError
            The newer version is damaged, or not in the requested space; ``current`` does not change.
        """
        with self._switching:
            number = layout.current_number(self.root)
            if number == self.current.number and identity(self.current.path) == self.current.identity:
                return False
            self._serve(self._open())
            return True

    def follow(
        self,
        callback: Callable[[Version], None] | None = None,
        *,
        on_error: OnError | None = None,
        interval: float = 1.0,
    ) -> Follower:
        """Switch to each new version automatically, in a background thread, once all its hashes are verified.

        Errors are not raised: ``on_error`` receives them, and the version served before is kept.

        Parameters
        ----------
        callback : callable, optional
            Called in that thread after each switch, with the new version.
        on_error : callable, optional
            Called in that thread when a version is refused or a callback raises; default: the log
            ``embsync.reader``. The thread continues.
        interval : float
            Seconds between checks of the store.

        Returns
        -------
        Follower
            With ``error``, ``health`` and ``stop()``; closing the reader stops it too.
        """
        if self.follower is not None:
            self.follower.stop()

        itself = weakref.ref(self)  # allows an unreferenced reader to be collected, which stops its follower

        def switch(version: Version) -> None:
            reader = itself()
            if reader is None:
                version.close()
                raise Stopped
            with reader._switching:
                reader._serve(version)
            del reader
            if callback is not None:
                callback(version)

        self.follower = Follower(
            self.root, switch, serving=self.current, space_id=self.space_id, on_error=on_error, interval=interval
        ).start()
        return self.follower

    def version(self, number: int) -> Version:
        """Pin any kept version.

        Parameters
        ----------
        number : int
            Number of a version that the store still has.

        Returns
        -------
        Version
            Pinned until it is closed or collected.

        Raises
        ------
        NotFoundError
            The version does not exist, or was pruned.
        StoreError
            It is damaged, or not in the requested space.
        """
        return self._open(number)

    def numbers(self) -> list[int]:
        """Return the numbers of the kept versions, ascending.

        Raises
        ------
        StoreError
            The store cannot be listed.
        """
        return layout.version_numbers(self.root / layout.VERSIONS)

    def __enter__(self) -> StoreReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop following, and release the current version."""
        if self.follower is not None:
            self.follower.stop()
        self.current.close()

    def __del__(self) -> None:
        follower = getattr(self, "follower", None)
        if follower is not None and follower.health.alive and not sys.is_finalizing():
            warnings.warn(f"unclosed reader that follows {self.root}", ResourceWarning, stacklevel=2, source=self)
            follower.stop(timeout=0)

    @property
    def _switching(self) -> threading.Lock:
        # A lock held by another thread when the process was forked is never released in the child.
        if self._lock[0] != os.getpid():
            self._lock = os.getpid(), threading.Lock()
        return self._lock[1]

    def _serve(self, version: Version) -> None:
        version.leave_to_collection()
        self.current = version  # callers that still hold the old one keep it pinned

    def _open(self, number: int | None = None) -> Version:
        version = open_version(self.root, number)
        try:
            require_space(version, self.space_id)
        except ForeignSpace:
            version.close()
            raise
        return version


def open(path: str | Path, space_id: str | None = None) -> StoreReader:  # noqa: A001  (read as ``embsync.open``)
    """Open a store for reading.

    Parameters
    ----------
    path : path
        The store's directory.
    space_id : str, optional
        The space that the caller's models were trained for. Versions of another space are refused, now and later.

    Returns
    -------
    StoreReader
        A context manager; :meth:`StoreReader.close` releases the version.

    Raises
    ------
    NotFoundError
        There is no store, or no version in it yet.
    StoreError
        The current version is damaged, or not in the space ``space_id``.
    """
    return StoreReader(path, space_id)
