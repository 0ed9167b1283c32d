"""Objects by key, in a bucket or in a directory: the few calls that pushing and pulling need."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from embsync.invocation import joined


@dataclass(frozen=True)
class ObjectEntry:
    """One object: its key below the prefix, its size, and when it was last written, by the store's clock."""

    key: str
    bytes: int
    modified: dt.datetime


class Objects(Protocol):
    """Objects below one prefix. Keys are relative paths; errors are those of sinks."""

    #: The URL, for messages.
    where: str
    #: Further options that `embsync push` needs to reach it.
    push_options: tuple[str, ...]

    def absence(self) -> str | None:
        """Return why there can be no objects, such as a missing directory; None if the place may exist."""

    def read(self, key: str) -> bytes | None:
        """Return a small object, or None if it does not exist."""

    def stream(self, key: str, start: int = 0) -> contextlib.AbstractContextManager[Iterator[memoryview] | None]:
        """Yield an object's bytes from ``start`` on, in pieces; None instead if it does not exist."""

    def write(self, key: str, data: bytes) -> None:
        """Write a small object; readers find it complete or not at all."""

    def upload(self, key: str, path: Path) -> None:
        """Write a file of any size as an object; readers find it complete or not at all."""

    def copy(self, source: str, key: str) -> bool:
        """Copy an object within the store, without transferring it; return False if the store cannot."""

    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Replace an object if its content is ``expected`` (None: it does not exist); otherwise return False.

        If several publishers do so at once, only one succeeds.
        """

    def list(self, prefix: str = "") -> Iterator[ObjectEntry]:
        """Yield the objects below a directory, in any order."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are ignored."""

    def now(self) -> dt.datetime:
        """Return the time of the clock that dates the objects, which may differ from this machine's."""

    def notes(self) -> tuple[str, ...]:
        """Probe the store without lasting changes, and return notes for users about what it lacks."""


def push_line(objects: Objects, *options: str) -> str:
    """Return a hint for pushing there again from the publishing host; a host that only pulls cannot name the store."""
    line = joined(["embsync", "push", objects.where, *objects.push_options, *options])
    return f"on the host that publishes, with its --store or --config: {line}"
