"""Follow a store: a thread that verifies every file of each new version, then switches to it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embsync.errors import EmbsyncError, NotFoundError
from embsync.file_hashes import Stopped
from embsync.reader.pin import open_version, require_space
from embsync.reader.verification import verify
from embsync.reader.version import Version
from embsync.store import layout
from embsync.store.locks import identity

OnError = Callable[[Exception], None]
#: Raises unless a version is intact; the function passed to it returns whether to stop.
Verify = Callable[[Version, Callable[[], bool]], None]

#: Seconds after which a refused version is hashed again even if its files look unchanged.
_TRY_AGAIN = 60.0

_log = logging.getLogger("embsync.reader")


@dataclass(frozen=True)
class Health:
    """State of a follower.

    Attributes
    ----------
    alive : bool
        Whether its thread runs in this process.
    serving : int or None
        The version that it last switched to.
    newest : int or None
        The version that ``current`` links to; if it is not ``serving``, it is being verified or was refused.
    error : Exception or None
        Why the newest version is not served, or what a callback raised.
    checked : float
        Seconds since the store was last checked.
    """

    alive: bool
    serving: int | None
    newest: int | None
    error: Exception | None
    checked: float

    @property
    def healthy(self) -> bool:
        """Whether the newest version is served and there is no error."""
        return self.alive and self.error is None and self.serving is not None


class Follower:
    """A thread that watches ``current`` and switches to a new version once every file of it is verified.

    No exception ends the thread: the error is in :attr:`error` and goes to ``on_error``, and the previous version is
    still served.

    Parameters
    ----------
    root : path
        The store; it need not exist yet.
    switch : callable
        Receives each verified version; after it returns, the version is being served.
    serving : Version, optional
        The version that is served when the follower starts.
    space_id : str, optional
        Versions of another space are refused.
    on_error : callable, optional
        Receives each error once; default: a line in the log ``embsync.reader``.
    interval : float
        Seconds between checks.
    verify : callable
        Checks that a version is intact; default: every file is hashed.
    """

    def __init__(
        self,
        root: Path,
        switch: Callable[[Version], None],
        *,
        serving: Version | None = None,
        space_id: str | None = None,
        on_error: OnError | None = None,
        interval: float = 1.0,
        verify: Verify = verify,
    ) -> None:
        self._root, self._switch, self._space_id = root, switch, space_id
        self._on_error = on_error or _to_log
        self._interval, self._verify = interval, verify
        self._serving = None if serving is None else (serving.number, serving.identity)
        self._newest = None if serving is None else serving.number
        self._refused: _Refused | None = None
        self._callback_failed = False
        self.error: Exception | None = None
        self._checked = time.monotonic()
        self._wake, self._stopping = threading.Event(), False
        #: Set after the first check of the store, when its version is served or has been refused.
        self.checked_once = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embsync-follower", daemon=True)

    def start(self) -> Follower:
        """Start the thread; return the follower itself."""
        self._thread.start()
        return self

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread and wait for it; versions that it switched to stay open.

        Parameters
        ----------
        timeout : float
            Seconds to wait at most.
        """
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    @property
    def health(self) -> Health:
        """The follower's present state."""
        serving = None if self._serving is None else self._serving[0]
        return Health(self._thread.is_alive(), serving, self._newest, self.error, time.monotonic() - self._checked)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._check()
            except Stopped:
                return
            except Exception as error:  # if the thread ended, the served version would silently become outdated
                self._report(error)
            self._checked = time.monotonic()
            self.checked_once.set()
            self._wake.wait(self._interval)
            self._wake.clear()

    def _check(self) -> None:
        try:
            self._newest = layout.current_number(self._root)
        except NotFoundError:
            if self._serving is not None:
                raise
            return  # no version yet
        if self._newest is None and self._serving is not None:
            raise NotFoundError("no version is current", where=self._root / layout.CURRENT)
        if self._newest is None or (self._newest, identity(self._path(self._newest))) == self._serving:
            if not self._callback_failed:  # the cause is gone: the store was rolled back or restored
                self._refused = self.error = None
            return
        self._take(self._newest)

    def _take(self, number: int) -> None:
        if self._refused is not None and self._refused.number == number and self._refused.is_in_force():
            return
        version = open_version(self._root)
        before = _states(version)
        try:
            require_space(version, self._space_id)
            self._verify(version, lambda: self._stopping)
            version.open_files()  # so that neither the switch nor the first query is slow
        except BaseException as error:
            version.close()
            if isinstance(error, EmbsyncError):
                self._refused = _Refused.of(version, error, before)
            raise
        self._serving = version.number, version.identity
        self._refused = self.error = None
        self._callback_failed = True
        self._switch(version)
        self._callback_failed = False

    def _path(self, number: int) -> Path:
        return self._root / layout.VERSIONS / layout.version_name(number)

    def _report(self, error: Exception) -> None:
        repeated = str(error) == str(self.error) and type(error) is type(self.error)
        self.error = error
        if repeated:
            return
        try:
            self._on_error(error)
        except Exception as second:
            self.error = second
            _to_log(second)


@dataclass(frozen=True)
class _Refused:
    """A refused version, with the state of its manifest and its damaged file, which change when they are repaired."""

    number: int
    paths: tuple[Path, ...]
    states: tuple[object, ...]
    until: float

    @classmethod
    def of(cls, version: Version, error: EmbsyncError, before: dict[Path, object]) -> _Refused:
        """Return a refusal with the state of the files before they were read, since they may be repaired meanwhile."""
        paths = (*_manifests(version), *(() if error.where is None else (Path(error.where),)))
        states = tuple(before[path] if path in before else _state(path) for path in paths)
        return cls(version.number, paths, states, time.monotonic() + _TRY_AGAIN)

    def is_in_force(self) -> bool:
        """Return whether the files are unchanged and the refusal has not expired."""
        return time.monotonic() < self.until and tuple(map(_state, self.paths)) == self.states


def _manifests(version: Version) -> tuple[Path, Path]:
    return version.path / layout.MANIFEST, version.path / layout.MANIFEST_HASH


def _states(version: Version) -> dict[Path, object]:
    files = (version.path / entry.path for entry in version.record.files)
    return {path: _state(path) for path in (*_manifests(version), *files)}


def _state(path: Path) -> object:
    """Return inode, times and size, which change when a file is repaired; None if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _to_log(error: Exception) -> None:
    _log.error("still serving the previous version: %s", error)
