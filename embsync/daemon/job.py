"""What passes between the daemon and the process that does its heavy work: one job in, lines out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from embsync.config import Config
from embsync.invocation import Invocation, invocation
from embsync.watching.backlog import Entry
from embsync.watching.discovery import Child

Kind = Literal["published", "refused", "failed", "unchanged", "held", "incomplete", "error", "crashed"]


class Job(msgspec.Struct, frozen=True):
    """One entry of the backlog, with all that is needed to handle it."""

    store: str
    config: dict[str, Any]
    name: str
    path: str
    reason: str
    stamp: str | None
    mtime_ns: int
    fingerprint: str | None
    listing: str | None = None
    invocation: Invocation = Invocation()

    @classmethod
    def of(cls, store: Path, entry: Entry, config: Config) -> Job:
        """Return the job of handling an entry."""
        child = entry.child
        return cls(
            str(store),
            msgspec.to_builtins(config),
            child.name,
            str(child.path),
            entry.reason,
            child.stamp,
            child.mtime_ns,
            entry.fingerprint,
            child.listing,
            invocation(),
        )

    @property
    def entry(self) -> Entry:
        """The entry again."""
        child = Child(self.name, Path(self.path), "ready", self.reason, self.stamp, self.mtime_ns, self.listing)
        return Entry(child, "next", self.reason, fingerprint=self.fingerprint)


class Outcome(msgspec.Struct, frozen=True, tag_field="line", tag="outcome"):
    """How a job ended.

    Attributes
    ----------
    kind : str
        published, refused, failed (journaled: only a new snapshot helps), unchanged, held, incomplete (its writer has
        more to write), error (may be tried again) or crashed (the process died, or met what nobody expected).
    what : str
        In words.
    version : int or None
    seconds : float or None
    of_snapshot : bool
        Whether an error is the snapshot's rather than the store's or the machine's.
    details : dict
        ``found``, ``expected`` and ``hint`` of an error, as far as there are any.
    damaged : bool
        Whether an error is damage found in the store: nobody but a person can mend it.
    """

    kind: Kind
    what: str = ""
    version: int | None = None
    seconds: float | None = None
    of_snapshot: bool = False
    details: dict[str, str] = {}
    damaged: bool = False


class Step(msgspec.Struct, frozen=True, tag_field="line", tag="step"):
    """Where a job is: its stage, and the share of the stage that is done."""

    stage: str
    share: float


class Ready(msgspec.Struct, frozen=True, tag_field="line", tag="ready"):
    """The process has loaded what it needs and waits for a job."""


Line = Outcome | Step | Ready
