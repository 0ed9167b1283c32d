"""How often an attempt on a snapshot failed, remembered beyond the daemon's own death.

Only the snapshot that is worked on is remembered; another one, or new contents, begin anew.
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

#: A snapshot on which its process died so often is set aside.
MOST_CRASHES = 3
#: The same for deaths that took the daemon along. They are far more, because few are the snapshot's doing: machines are
#: switched off and containers moved.
MOST_LOST = 30
#: A snapshot that could not be read so often for reasons that may pass is set aside, so that others get their turn.
MOST_UNREADABLE = 10
#: After so many other errors the one behind it is tried as well: if that can be published, it was the snapshot's doing
#: after all, such as a version that is too large for the disk.
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
        Errors that may pass: of reading the snapshot, and of the store, the configuration or the machine. The latter
        never set a snapshot aside, however many they are: as a rule the next one meets them just the same.
    """

    name: str
    stamp: str | None
    crashes: _Count = 0
    lost: _Count = 0
    unreadable: _Count = 0
    errors: _Count = 0

    @property
    def exhausted(self) -> str | None:
        """Why it is not tried again, None while it is."""
        if self.crashes >= MOST_CRASHES:
            return f"its process died {self.crashes} times on it"
        if self.lost >= MOST_LOST:
            return f"the daemon died {self.lost} times while at it"
        if self.unreadable >= MOST_UNREADABLE:
            return f"it could not be read {self.unreadable} times"
        return None

    @property
    def failures(self) -> int:
        """Attempts that failed."""
        return self.crashes + self.unreadable + self.errors


class Attempts:
    """The memory, in the store."""

    def __init__(self, root: Path) -> None:
        self._path = root / ATTEMPT
        self._attempt: Attempt | None = None
        self.not_before = 0.0

    def load(self) -> None:
        """Read what an earlier daemon left.

        Raises
        ------
        StoreError
            It is damaged, or cannot be read: counting begins anew.
        """
        self._attempt = read_struct(self._path, Attempt)

    def of(self, entry: Entry) -> Attempt:
        """Return what is known of an entry."""
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
        """Return whose turn it is: the first, or for once the second while a first that fails for ever pauses."""
        if queue and self.due(queue[0], now):
            return queue[0]
        stuck = len(queue) > 1 and self.of(queue[0]).errors >= ERRORS_BEFORE_THE_NEXT
        return queue[1] if stuck else None

    def begin(self, entry: Entry) -> None:
        """Write down that work begins: if nobody lives to tell how it ended, it was lost."""
        known = self.of(entry)
        self._save(msgspec.structs.replace(known, lost=known.lost + 1))
        self._attempt = known

    def record_failure(self, entry: Entry, now: float, pause: float, why: FailureKind) -> Attempt:
        """Count a failed attempt, and wait longer each time before the next; return what is known."""
        known = self.of(entry)
        known = msgspec.structs.replace(known, lost=0, **{why: getattr(known, why) + 1})
        self._attempt = known
        self.not_before = now + min(pause * 2.0 ** min(known.failures - 1, 30), max(pause, _LONGEST_PAUSE))
        return known

    def record_end(self, entry: Entry) -> None:
        """Write down what is known: the work begun did not take the daemon along."""
        known = msgspec.structs.replace(self.of(entry), lost=0)
        if known.failures:
            self._attempt = known
            self._save(known)
        else:
            self.forget()

    def forget(self) -> None:
        """Forget: the snapshot was handled."""
        self._attempt = None
        self.not_before = 0.0
        with storage_errors(self._path):
            self._path.unlink(missing_ok=True)

    def _save(self, attempt: Attempt) -> None:
        with storage_errors(self._path):
            replace_file(self._path, msgspec.json.encode(attempt))
