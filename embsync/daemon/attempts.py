"""The number of failed attempts on a snapshot, kept across restarts of the daemon.

Only the snapshot being worked on is remembered; for another snapshot or new contents, counting starts again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from embsync.store.durable import replace_file, storage_errors
from embsync.store.records import read_struct
from embsync.watching.backlog import Entry

ATTEMPT = "attempt.json"

FailureKind = Literal["crashes", "unreadable", "errors"]

#: A snapshot is set aside after this many crashes of its process.
MOST_CRASHES = 3
#: The same for deaths together with the daemon. The limit is higher because the snapshot is rarely the cause: machines
#: are switched off and containers moved.
MOST_LOST = 30
#: A snapshot is set aside after this many transient errors in reading it, so that others are handled.
MOST_UNREADABLE = 10
#: After this many other errors, the next snapshot is tried too: if it can be published, the first one was the cause,
#: for example because its version is too large for the disk.
ERRORS_BEFORE_THE_NEXT = 10
_LONGEST_PAUSE = 600.0

_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Attempt(msgspec.Struct, frozen=True):
    """Failed attempts on one snapshot.

    Attributes
    ----------
    crashes, lost : int
        Deaths of the process, and of the daemon with it.
    unreadable, errors : int
        Transient errors: in reading the snapshot, and of the store, the configuration or the machine. The latter never
        set a snapshot aside, since they usually affect the next one too.
    """

    name: str
    stamp: str | None
    crashes: _Count = 0
    lost: _Count = 0
    unreadable: _Count = 0
    errors: _Count = 0

    @property
    def exhausted(self) -> str | None:
        """Why it is not tried again, or None if it is."""
        if self.crashes >= MOST_CRASHES:
            return f"its process died {self.crashes} times while working on it"
        if self.lost >= MOST_LOST:
            return f"the daemon died {self.lost} times while working on it"
        if self.unreadable >= MOST_UNREADABLE:
            return f"it could not be read {self.unreadable} times"
        return None

    @property
    def failures(self) -> int:
        """Number of failed attempts."""
        return self.crashes + self.unreadable + self.errors


class Attempts:
    """The file of failed attempts in the store."""

    def __init__(self, root: Path) -> None:
        self._path = root / ATTEMPT
        self._attempt: Attempt | None = None
        self.not_before = 0.0

    def load(self) -> None:
        """Read the file that an earlier daemon wrote.

        Raises
        ------
        StoreError
            The file is damaged or cannot be read; counting starts again.
        """
        self._attempt = read_struct(self._path, Attempt)

    def of(self, entry: Entry) -> Attempt:
        """Return the failed attempts on an entry."""
        known = self._attempt
        child = entry.child
        if known is None or (known.name, known.stamp) != (child.name, child.stamp):
            return Attempt(child.name, child.stamp)
        return known

    def due(self, entry: Entry, now: float) -> bool:
        """Return whether an entry may be tried now."""
        known = self._attempt
        return now >= self.not_before or known is None or known is not self.of(entry)

    def choose(self, queue: Sequence[Entry], now: float) -> Entry | None:
        """Return the entry to work on: the first, or the second, once, while a first that keeps failing waits."""
        if queue and self.due(queue[0], now):
            return queue[0]
        stuck = len(queue) > 1 and self.of(queue[0]).errors >= ERRORS_BEFORE_THE_NEXT
        return queue[1] if stuck else None

    def begin(self, entry: Entry) -> None:
        """Record that work begins; if no end is recorded, the daemon died during it."""
        known = self.of(entry)
        self._save(msgspec.structs.replace(known, lost=known.lost + 1))
        self._attempt = known

    def record_failure(self, entry: Entry, now: float, pause: float, why: FailureKind) -> Attempt:
        """Count a failed attempt, and double the wait before the next; return the count."""
        known = self.of(entry)
        known = msgspec.structs.replace(known, lost=0, **{why: getattr(known, why) + 1})
        self._attempt = known
        self.not_before = now + min(pause * 2.0 ** min(known.failures - 1, 30), max(pause, _LONGEST_PAUSE))
        return known

    def record_end(self, entry: Entry) -> None:
        """Record that the work ended and the daemon survived."""
        known = msgspec.structs.replace(self.of(entry), lost=0)
        if known.failures:
            self._attempt = known
            self._save(known)
        else:
            self.forget()

    def forget(self) -> None:
        """Delete the record, once the snapshot was handled."""
        self._attempt = None
        self.not_before = 0.0
        with storage_errors(self._path):
            self._path.unlink(missing_ok=True)

    def _save(self, attempt: Attempt) -> None:
        with storage_errors(self._path):
            replace_file(self._path, msgspec.json.encode(attempt))
