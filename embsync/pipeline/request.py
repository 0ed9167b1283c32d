"""The request for a run, in a module that does not load the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embsync.errors import EmbsyncError


@dataclass(frozen=True)
class Request:
    """What to do with one snapshot.

    Attributes
    ----------
    path : Path
    accepted : tuple of str
        Checks whose refusal is overridden.
    new_space : bool
        Begin a new space instead of aligning to the current one.
    known_fingerprint : str or None
        Fingerprint of contents that need not be published again.
    follow_link : bool
        Whether the path itself may be a link: True if a person named it, False if it was found by watching.
    """

    path: Path
    accepted: tuple[str, ...] = ()
    new_space: bool = False
    known_fingerprint: str | None = None
    follow_link: bool = True


class UnchangedError(EmbsyncError):
    """The snapshot's contents have the request's ``known_fingerprint``."""

    exit_code = 0
