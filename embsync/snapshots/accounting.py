"""Account for every entry of a snapshot's directory: read by its layout, known to be harmless, or reported.

A training run or a transfer that stops halfway may leave a directory that looks valid: only the items. Entries
that are not read therefore show whether something is missing: if one looks like a side that was not found, in another
format or under the name of an unfinished file, the snapshot is incomplete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError, printable
from embsync.snapshots import names
from embsync.snapshots.conversions import PARTITION, conversion_of
from embsync.snapshots.files import Place
from embsync.snapshots.sides import ITEMS, USERS

#: Entries listed in one warning.
_NAMED = 8


@dataclass(frozen=True)
class Claim:
    """What a layout reads of a snapshot, judged by names alone.

    Attributes
    ----------
    sides : frozenset of "items" and "users"
        Those whose vectors and ids were found.
    entries : frozenset of str
        Names at the snapshot's root that the layout reads; none when the root is a file.
    as_items : frozenset of str
        Names that are read as items even if they do not name a side.
    inside : frozenset of str
        Paths of the files that the layout reads in those directories, whatever their suffixes.
    closed : bool
        Whether the contents of the directories are not inspected, since the layout checks them itself.
    """

    sides: frozenset[str]
    entries: frozenset[str] = frozenset()
    as_items: frozenset[str] = frozenset()
    closed: bool = False
    inside: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Missing:
    """Why a snapshot is incomplete: the entry that shows it, and what was expected."""

    found: str
    expected: str
    hint: str | None

    @property
    def reason(self) -> str:
        """What a watched snapshot waits for."""
        return f"{self.expected}: {self.found}"

    def refusal(self, place: Place) -> SnapshotError:
        """Return the refusal of the snapshot at ``place``."""
        return SnapshotError(
            "incomplete snapshot", where=str(place), found=self.found, expected=self.expected, hint=self.hint
        )


@dataclass(frozen=True)
class _Entry:
    """An entry that is not read; ``inside`` is the directory of a side that it lies in."""

    name: str
    kind: str
    parsed: names.ParsedName
    inside: str | None = None

    @property
    def shown(self) -> str:
        path = self.name if self.inside is None else f"{self.inside}/{self.name}"
        return printable(path + "/" if self.kind == "directory" else path)


def unread(place: Place, claim: Claim, marker: str) -> tuple[str, ...]:
    """Return the names of entries that are neither read nor known to be harmless."""
    if place.kind() != "directory":
        return ()
    return tuple(entry.shown for entry in _not_taken(place, claim, marker) if not entry.parsed.harmless)


def shortened(entries: Sequence[str]) -> str:
    """Return names for a warning: the first few, and how many more there are."""
    more = f" and {len(entries) - _NAMED} more" if len(entries) > _NAMED else ""
    return ", ".join(entries[:_NAMED]) + more


def missing_of(place: Place, claim: Claim, config: SnapshotConfig, marker: str) -> Missing | None:
    """Return why the snapshot is incomplete, or None if it is complete."""
    if config.sides != "items":
        misplaced = _users_as_items(claim)
        if misplaced is not None:
            return misplaced
    if place.kind() == "directory":
        for entry in _not_taken(place, claim, marker):
            missing = None if entry.parsed.harmless else _missing(place, claim, entry, config)
            if missing is not None:
                return missing
    if config.sides == "both" and not {ITEMS, USERS} <= claim.sides:
        found = " and ".join(sorted(claim.sides)) or "neither side"
        return Missing(found, "items and users (snapshot.sides: both)", None)
    return None


def _users_as_items(claim: Claim) -> Missing | None:
    """Return a file that is named like users but would be read as items."""
    users = sorted(name for name in claim.as_items if names.side_of(name) == USERS)
    if not users:
        return None
    return Missing(
        f"{printable(users[0])}, which looks like users, where items are read",
        "items, and users in a file or directory of their own",
        "name them items and users in one directory, or set snapshot.sides: items if this is the only side",
    )


def _missing(place: Place, claim: Claim, entry: _Entry, config: SnapshotConfig) -> Missing | None:
    parsed = entry.parsed
    if not parsed.finished:
        holder = place
        for folder in () if entry.inside is None else entry.inside.split("/"):
            holder = holder.child(folder)
        a_part = entry.inside is not None or _without_numbers(parsed.name) in map(_without_numbers, claim.entries)
        if parsed.controls or (a_part and parsed.name not in holder.entries()):
            return _unfinished(entry)
    if config.sides == "items" or {ITEMS, USERS} <= claim.sides or entry.inside is not None:
        return None
    if not parsed.finished and (parsed.side is None or parsed.side not in claim.sides):
        return _unfinished(entry)
    if parsed.side is not None and parsed.side not in claim.sides:
        if parsed.role == "ids" and any(names.side_of(name) == parsed.side for name in claim.entries):
            return None  # ids under a name that is not read: opening the side reports it
        what, how = conversion_of(place.child(entry.name), entry.kind) or ("not read", None)
        if parsed.role != "vectors":
            how = None
        instead = f"or set snapshot.sides: items if {parsed.side} are not to be published"
        return Missing(
            f"{entry.shown}, which looks like {parsed.side} and is {what}",
            f"{parsed.side} in a format that is read",
            f"{how}; {instead}" if how else instead,
        )
    return None


def _without_numbers(name: str) -> str:
    """Return the name with its numbers replaced by ``#``, the same for all part files of an array."""
    return re.sub(r"[0-9]+", "#", name)


def _unfinished(entry: _Entry) -> Missing:
    return Missing(
        f"{entry.shown}, which is being written or was left unfinished",
        printable(entry.parsed.name) if entry.parsed.name != entry.name else "a finished snapshot",
        "wait for the transfer to finish, or delete the unfinished file",
    )


def _not_taken(place: Place, claim: Claim, marker: str) -> Iterator[_Entry]:
    for name, kind in place.entries().items():
        if name == marker:
            continue
        if name not in claim.entries:
            yield _Entry(name, kind, names.parse(name))
        elif kind == "directory" and not claim.closed:
            yield from _not_taken_inside(place.child(name), name, claim, marker)


def _not_taken_inside(folder: Place, path: str, claim: Claim, marker: str) -> Iterator[_Entry]:
    for part, kind in folder.entries().items():
        below = f"{path}/{part}/"
        if kind == "directory" and (PARTITION.match(part) or any(file.startswith(below) for file in claim.inside)):
            yield from _not_taken_inside(folder.child(part), f"{path}/{part}", claim, marker)
        elif part != marker and f"{path}/{part}" not in claim.inside:
            yield _Entry(part, kind, names.parse(part), path)
