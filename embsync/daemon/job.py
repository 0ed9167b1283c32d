"""Messages between the daemon and its worker process: one job in, lines out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from embsync.config import Config
from embsync.invocation import Invocation, invocation
from embsync.watching.backlog import Entry

OutcomeKind = Literal["published", "refused", "failed", "unchanged", "held", "incomplete", "error", "crashed"]


class Job(msgspec.Struct, frozen=True):
    """One entry of the backlog, with everything needed to handle it."""

    store: Path
    config: Config
    entry: Entry
    invocation: Invocation = msgspec.field(default_factory=invocation)


class Outcome(msgspec.Struct, frozen=True, tag_field="line", tag="outcome"):
    """How a job ended.

    Attributes
    ----------
    kind : str
        published, refused, failed (journaled: only a new snapshot helps), unchanged, held, incomplete (its writer has
        not finished), error (may be tried again) or crashed (the process died, or raised an unexpected exception).
    what : str
        A description.
    version : int or None
    seconds : float or None
    of_snapshot : bool
        Whether an error is due to the snapshot rather than to the store or the machine.
    details : dict
        ``found``, ``expected`` and ``hint`` of an error, where it has them.
    damaged : bool
        Whether an error is damage in the store, which only a person can repair.
    """

    kind: OutcomeKind
    what: str = ""
    version: int | None = None
    seconds: float | None = None
    of_snapshot: bool = False
    details: dict[str, str] = {}
    damaged: bool = False


class Step(msgspec.Struct, frozen=True, tag_field="line", tag="step"):
    """Progress of a job: its stage, and the share of that stage that is done."""

    stage: str
    share: float


class Ready(msgspec.Struct, frozen=True, tag_field="line", tag="ready"):
    """The process has loaded its libraries and waits for a job."""


Line = Outcome | Step | Ready
