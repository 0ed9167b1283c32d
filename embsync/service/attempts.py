"""How often handling a snapshot was begun in vain, remembered beyond the daemon's own death.

Only the snapshot that is worked on is remembered; another one, or new contents, begin anew.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from embsync.pipeline.backlog import Entry
from embsync.store.durable import replace_file, storage_errors

ATTEMPT = "attempt.json"

#: A snapshot on which its process died so often is set aside.
MOST_CRASHES = 3
#: The same for deaths that took the daemon along. They are far more, because few are the snapshot's doing: machines are
#: switched off and containers moved.
MOST_LOST = 30
#: A snapshot that could not be read so often for reasons that may pass is set aside, so that others get their turn.
MOST_ERRORS = 10
_LONGEST_PAUSE = 600.0


class Attempt(msgspec.Struct, frozen=True):
    """Vain beginnings on one snapshot.

    Attributes
    ----------
    crashes, lost, errors : int
        Deaths of the process, deaths of the daemon with it, and errors that may pass.
    """

    name: str
    stamp: str | None
    crashes: int = 0
    lost: int = 0
    errors: int = 0

    @property
    def exhausted(self) -> str | None:
        """Why it is not tried again, None while it is."""
        if self.crashes >= MOST_CRASHES:
            return f"its process died {self.crashes} times on it"
        if self.lost >= MOST_LOST:
            return f"the daemon died {self.lost} times while at it"
        return None

    @property
    def vain(self) -> int:
        """Beginnings that came to nothing."""
        return self.crashes + self.errors


class Attempts:
    """The memory, in the store."""

    def __init__(self, root: Path) -> None:
        self._path = root / ATTEMPT
        self._attempt: Attempt | None = None
        self.not_before = 0.0

    def load(self) -> None:
        """Read what an earlier daemon left."""
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            self._attempt = msgspec.json.decode(self._path.read_bytes(), type=Attempt)

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

    def postpone(self, until: float) -> None:
        """Try nothing before ``until``."""
        self.not_before = until

    def begin(self, entry: Entry) -> None:
        """Remember that work begins: if nobody lives to tell how it ended, it was lost."""
        known = self.of(entry)
        self._save(msgspec.structs.replace(known, lost=known.lost + 1))

    def in_vain(self, entry: Entry, now: float, pause: float, *, crashed: bool) -> Attempt:
        """Remember that work came to nothing, and wait longer each time before the next; return what is known."""
        known = self.of(entry)
        counted = {"crashes": known.crashes + 1} if crashed else {"errors": known.errors + 1}
        known = msgspec.structs.replace(known, lost=0, **counted)
        self._save(known)
        self.not_before = now + min(pause * 2.0 ** min(known.vain - 1, 30), max(pause, _LONGEST_PAUSE))
        return known

    def told(self, entry: Entry) -> None:
        """Remember that the work begun did not take the daemon along."""
        known = msgspec.structs.replace(self.of(entry), lost=0)
        if known.vain:
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
        self._attempt = attempt
        with storage_errors(self._path):
            replace_file(self._path, msgspec.json.encode(attempt))
