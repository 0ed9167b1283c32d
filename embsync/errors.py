"""The one error root: every refusal of embsync is one of these, with its exit code and whether it heals by itself."""

from __future__ import annotations

import re
from pathlib import Path

from embsync.invocation import Command

#: What libraries say on several lines is said on one.
_LINE_BREAKS = re.compile(r"\s*[\r\n]\s*")

#: What to do: words, a command, or several of these.
Hint = str | Command | tuple[str | Command, ...]


def printable(text: str) -> str:
    """Return text that JSON and terminals take: what is not UTF-8 in a file's name is shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Return text that stays on its line: line breaks, terminal escapes and what is not seen are shown as escapes."""
    shown = printable(text)
    if shown.isprintable():
        return shown
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in shown)


class EmbsyncError(Exception):
    """An error a person can act on.

    Parameters
    ----------
    what : str
        What is wrong, in a few words.
    where : path or str, optional
        The file, directory, id or key concerned.
    found, expected : object, optional
        What was seen, and what would have been right.
    hint : str, Command or tuple of these, optional
        What to do about it; a command is written out with the options of the present invocation.
    """

    #: What the command line exits with.
    exit_code = 1
    #: True when the same action may succeed later without anyone changing anything.
    transient = False
    #: True when it is the snapshot's doing, rather than the store's, the configuration's or the machine's.
    of_snapshot = False
    #: What the server answers with.
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
        #: What to do, with commands as data.
        self.advice: tuple[str | Command, ...] = () if hint is None else hint if isinstance(hint, tuple) else (hint,)
        super().__init__(what)

    @property
    def hint(self) -> str | None:
        """What to do about it, in words."""
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
        """Return ``found``, ``expected`` and ``hint`` as far as there are any: fields of log lines and status."""
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
    """A snapshot is known not to be whole; only what its writer has yet to write makes it so."""


class RefusedError(EmbsyncError):
    """A snapshot is well-formed but a check says it must not be published."""

    exit_code = 4
    of_snapshot = True


class StoreError(EmbsyncError):
    """The store is damaged, unwritable or out of space."""

    exit_code = 5
    http_status = 503


class StoreDamaged(StoreError):
    """What is in the store is not what was written there."""


class StoreBusy(StoreError):
    """Somebody else holds the store's lock."""

    transient = True


class OutOfSpace(StoreError):
    """The file system of the store has too little room."""

    transient = True


class NotFoundError(EmbsyncError):
    """An id, a version or a file that was asked for does not exist."""

    exit_code = 6
    http_status = 404
