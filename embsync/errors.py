"""The one error root: every refusal of embsync is one of these, with its exit code and whether it heals by itself."""

from __future__ import annotations

from pathlib import Path


def printable(text: str) -> str:
    """Return text that JSON and terminals take: what is not UTF-8 in a file's name is shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


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
    hint : str, optional
        What to do about it.
    """

    exit_code = 1
    #: True when the same action may succeed later without anyone changing anything.
    transient = False

    def __init__(
        self,
        what: str,
        *,
        where: str | Path | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.found = found
        self.expected = expected
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what if self.where is None else f"{self.where}: {self.what}"]
        if self.found is not None:
            parts.append(f"found {self.found}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.hint is not None:
            parts.append(f"hint: {self.hint}")
        return printable(" ".join("; ".join(parts).split()))

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


class SnapshotError(EmbsyncError):
    """A snapshot cannot be read or is ill-formed; only a new snapshot helps."""

    exit_code = 3


class SnapshotChanged(SnapshotError):
    """A snapshot changed while it was read; it may be complete later."""

    transient = True


class RefusedError(EmbsyncError):
    """A snapshot is well-formed but a check says it must not be published."""

    exit_code = 4


class StoreError(EmbsyncError):
    """The store is damaged, unwritable or out of space."""

    exit_code = 5


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
