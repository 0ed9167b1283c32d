"""The errors of embsync, with their exit codes and whether a retry may succeed."""

from __future__ import annotations

import re
from pathlib import Path

from embsync.invocation import Command

#: Messages of libraries may have several lines.
_LINE_BREAKS = re.compile(r"\s*[\r\n]\s*")

#: Advice: text, a command, or several of these.
Hint = str | Command | tuple[str | Command, ...]


def printable(text: str) -> str:
    """Return text that JSON and terminals accept: bytes of a file name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Return text as one line: line breaks, control sequences and invisible characters are escaped."""
    shown = printable(text)
    if shown.isprintable():
        return shown
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in shown)


class EmbsyncError(Exception):
    """Base class of all errors that a user can act on.

    Parameters
    ----------
    what : str
        What is wrong, in a few words.
    where : path or str, optional
        The file, directory, id or key concerned.
    found, expected : object, optional
        What was found, and what was expected.
    hint : str, Command or tuple of these, optional
        What to do about it; a command is printed with the options of the current invocation.
    """

    #: Exit code of the command line.
    exit_code = 1
    #: Whether the same action may succeed later without any change.
    transient = False
    #: Whether the snapshot is the cause, rather than the store, the configuration or the machine.
    of_snapshot = False
    #: Status of the server's response.
    http_status = 500

    def __init__(
        self,
        what: str,
        *,
        where: str | Path | None = None,
        found: object = None,
        expected: object = None,
        hint: Hint | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.found = found
        self.expected = expected
        #: The hint, with commands as data.
        self.advice: tuple[str | Command, ...] = () if hint is None else hint if isinstance(hint, tuple) else (hint,)
        super().__init__(what)

    @property
    def hint(self) -> str | None:
        """The hint as text."""
        return "; ".join(map(str, self.advice)) or None

    def __str__(self) -> str:
        parts = [self.what if self.where is None else f"{one_line(self.where)}: {self.what}"]
        if self.found is not None:
            parts.append(f"found {self.found}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.hint is not None:
            parts.append(f"hint: {self.hint}")
        return one_line(_LINE_BREAKS.sub(" ", "; ".join(parts)))

    def details(self) -> dict[str, str]:
        """Return ``found``, ``expected`` and ``hint`` as far as they are set, as fields of log lines and status."""
        parts = {"found": self.found, "expected": self.expected, "hint": self.hint}
        return {name: printable(str(value)) for name, value in parts.items() if value is not None}

    def as_dict(self) -> dict[str, object]:
        """Return the parts as plain values for ``--json`` and the journal."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": None if self.where is None else printable(self.where),
            "found": None if self.found is None else printable(str(self.found)),
            "expected": None if self.expected is None else printable(str(self.expected)),
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


class UsageError(EmbsyncError):
    """The command line, the configuration or an argument is wrong."""

    exit_code = 2
    http_status = 422


class SnapshotError(EmbsyncError):
    """A snapshot cannot be read or is ill-formed; only a new snapshot helps."""

    exit_code = 3
    of_snapshot = True


class SnapshotChanged(SnapshotError):
    """A snapshot changed while it was read; it may be complete later."""

    transient = True


class SnapshotIncomplete(SnapshotChanged):
    """A snapshot is known to be incomplete: its writer has not finished."""


class RefusedError(EmbsyncError):
    """A snapshot is well-formed, but a check refuses to publish it."""

    exit_code = 4
    of_snapshot = True


class StoreError(EmbsyncError):
    """The store is damaged, unwritable or out of space."""

    exit_code = 5
    http_status = 503


class StoreDamaged(StoreError):
    """A file of the store does not have the contents that were written."""


class StoreBusy(StoreError):
    """Another process holds the store's lock."""

    transient = True


class OutOfSpace(StoreError):
    """The store's file system has too little free space."""

    transient = True


class ForeignSpace(StoreError):
    """The version is not in the requested space; vectors of different spaces must never be compared."""

    http_status = 409


class EngineError(EmbsyncError):
    """The cluster that maps the rows failed, or cannot be reached."""

    exit_code = 7
    transient = True
    http_status = 502


class SinkError(EmbsyncError):
    """A sink cannot hold a version, or refuses to, until something there or in the configuration is changed."""

    exit_code = 8
    http_status = 502


class SinkConflict(SinkError):
    """A sink contains something that another program created."""


class SinkUnavailable(SinkError):
    """A sink is unreachable, busy or full."""

    exit_code = 7
    transient = True


class SinkMoved(SinkUnavailable):
    """Another publisher switched a sink meanwhile; the next attempt starts from what is there now."""


class NotFoundError(EmbsyncError):
    """A requested id, version or file does not exist."""

    exit_code = 6
    http_status = 404
