"""The children of the watched directory: whether each is a snapshot, and whether it is complete.

A scan is a function of the directory, the clock and the caller's memory of earlier scans, so that the daemon and a
single ``embsync sync`` share it. Whether a snapshot was published, refused or skipped is not decided here, but by the
journal (``watching/backlog``). Nothing is ever written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embsync.config import SnapshotConfig, WatchConfig
from embsync.errors import SnapshotChanged, SnapshotError, printable
from embsync.file_kinds import file_kind
from embsync.snapshots import names
from embsync.snapshots.files import NotPermitted, Place, Signature
from embsync.snapshots.layouts import is_foreign, missing_at, recognised_by
from embsync.snapshots.natural_order import natural_key
from embsync.watching.completeness import ChildListing, Completeness, Observation, judge
from embsync.watching.links import LINKS_NOT_FOLLOWED, resolve_link

ChildState = Literal["ready", "waiting", "not_permitted", "not_a_snapshot"]
Memory = Mapping[str, Observation]

#: Directories that file systems (ext4) and file servers (Synology, QNAP, Windows) create, often unreadable.
_SYSTEM_NAMES = frozenset(
    {
        "lost+found",
        "@eaDir",
        "@Recycle",
        "@Recently-Snapshot",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "System Volume Information",
    }
)
#: Suffixes of known layouts.
_DATA_SUFFIXES = (
    *(".npy", ".npz", ".parquet", ".safetensors", ".vec", ".txt", ".gz", ".zst", ".bin"),
    *(".arrow", ".feather", ".ipc", ".csv", ".tsv", ".json"),
)
#: Entries listed in a reason.
_MOST_LISTED = 4


@dataclass(frozen=True)
class Child:
    """One entry of the watched directory.

    Attributes
    ----------
    name : str
    path : Path
    state : "ready", "waiting", "not_permitted" or "not_a_snapshot"
    reason : str
        The evidence, what is missing, what cannot be read, or why it is not a snapshot.
    stamp : str or None
        Changes whenever anything in the snapshot does; None if there is nothing to stamp.
    mtime_ns : int
        Time of last modification of the newest file in it.
    listing : str or None
        Like the stamp, but it stays the same when the snapshot is moved, or copied with its times.
    link : str or None
        The link that led to it; the child's name is then the path of the link's target below the watched directory.
    """

    name: str
    path: Path
    state: ChildState
    reason: str
    stamp: str | None
    mtime_ns: int
    listing: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class Discovery:
    """The result of one scan: the children in order, and what to remember for the next scan."""

    children: tuple[Child, ...]
    memory: dict[str, Observation]


def discover(
    watched: str | Path,
    watch: WatchConfig,
    snapshot: SnapshotConfig,
    *,
    now: float,
    memory: Memory | None = None,
    known: Mapping[str, Child] | None = None,
) -> Discovery:
    """Scan the watched directory once.

    Parameters
    ----------
    watched : str or Path
    watch, snapshot : WatchConfig, SnapshotConfig
    now : float
        Seconds: with ``memory``, by any monotonic clock; without it, by the wall clock.
    memory : mapping of name to Observation, optional
        The memory that the previous scan returned; ``{}`` before the first. None: a single scan, which judges by the
        times of last change instead.
    known : mapping of name to Child, optional
        Children of the previous scan that are known to be unchanged; they are not inspected again.

    Returns
    -------
    Discovery
        Children by name in natural order, or with ``watch.order: mtime`` by time. The order in which they are
        published also depends on the journal: see ``watching/order``.

    Raises
    ------
    NotFoundError
        The watched directory does not exist.
    SnapshotError
        It is not a directory, or cannot be listed.
    """
    root, shown = Place.at(watched), Path(watched).absolute()
    unchanged, before = known or {}, memory or {}
    kinds = root.entries()
    found = [
        (unchanged[name], before.get(name))
        if name in unchanged
        else _inspect(root.child(name), shown / name, kind, watch, snapshot, now, memory)
        for name, kind in kinds.items()
        if kind != "link"
    ]
    named = {
        child.name: child.state != "not_a_snapshot"
        for child, _ in found
        if child.name in kinds and _rejected_by_name(child.name, kinds[child.name]) is None
    }
    for name in (name for name, kind in kinds.items() if kind == "link"):
        target, why = resolve_link(root, name, named)
        if target is None:
            found.append(_rejected(name, shown / name, why))
        else:
            kind = target.kind()
            found.append(_inspect(target, shown.joinpath(*target.parts), kind, watch, snapshot, now, memory, link=name))
            named["/".join(target.parts)] = True
    children = sorted((child for child, _ in found), key=lambda child: _order_key(child, watch))
    return Discovery(tuple(children), {child.name: seen for child, seen in found if seen is not None})


def _rejected(name: str, path: Path, why: str) -> tuple[Child, None]:
    return Child(printable(name), path, "not_a_snapshot", printable(why), None, 0), None


def _order_key(child: Child, watch: WatchConfig) -> tuple[object, ...]:
    named = natural_key(child.name)
    return (child.mtime_ns, named) if watch.order == "mtime" else (named,)


def _inspect(
    place: Place,
    path: Path,
    kind: str,
    watch: WatchConfig,
    snapshot: SnapshotConfig,
    now: float,
    memory: Memory | None,
    link: str | None = None,
) -> tuple[Child, Observation | None]:
    found, seen, name = Signature("", "", 0), None, "/".join(place.parts)
    state: ChildState = "not_a_snapshot"
    try:
        entries: dict[str, os.stat_result] = {}
        reason = _rejected_by_name(link or name, kind)
        if reason is None and printable(name) != name:
            reason = "a link to a name that is not UTF-8"
        if reason is None:
            entries = dict(place.walk()) if kind == "directory" or recognised_by(place, snapshot) else {}
            reason = _rejected_by_contents(place, kind, entries, snapshot)
        if reason is None:
            found = Signature.of(entries.items())
            before = (memory or {}).get(name)
            seen = before if before is not None and before.stamp == found.stamp else Observation(found.stamp, now)
            unchanged = now - (_last_change(entries) if memory is None else seen.since)
            listing = ChildListing(place, kind == "directory", entries, unchanged)
            judged = _deferred(seen, now) or _completeness(listing, watch, snapshot)
            state, reason = judged.state, judged.reason
    except SnapshotError as error:
        state, reason = _unreadable(error)
    stamp, text = found.stamp or None, printable(reason)
    return Child(printable(name), path, state, text, stamp, found.mtime_ns, found.listing or None, link), seen


def _unreadable(error: SnapshotError) -> tuple[ChildState, str]:
    """Return the state and the reason of a child whose files cannot be listed or judged."""
    if isinstance(error, SnapshotChanged):
        return "waiting", "changes to stop"
    return "not_permitted" if isinstance(error, NotPermitted) else "not_a_snapshot", str(error)


def _rejected_by_contents(
    place: Place, kind: str, entries: Mapping[str, os.stat_result], snapshot: SnapshotConfig
) -> str | None:
    """Return why a child is not a snapshot: no layout matches, and nothing in it looks like a side being written."""
    if kind == "file" and not entries:
        return "not a file of a known layout"
    if not entries:
        return "an empty directory"
    seen = sorted({name.partition("/")[0] for name in entries})
    sided = any(map(_looks_like_a_side, seen))
    foreign = not sided and is_foreign(place, snapshot)
    if kind == "file":
        return "contains no array that could be vectors" if foreign else None
    if sided or (recognised_by(place, snapshot) and not foreign):
        link = next((name for name, status in entries.items() if file_kind(status) == "link"), None)
        files = any(file_kind(status) == "file" and not name.startswith((".", "_")) for name, status in entries.items())
        return None if files or link is None else f"{link} is a link; {LINKS_NOT_FOLLOWED}"
    more = f" and {len(seen) - _MOST_LISTED} more" if len(seen) > _MOST_LISTED else ""
    return f"contains no file of a known layout: {', '.join(seen[:_MOST_LISTED])}{more}"


def _looks_like_a_side(name: str) -> bool:
    parsed = names.parse(name)
    return not parsed.harmless and (
        parsed.side is not None or (not parsed.finished and parsed.name.endswith(_DATA_SUFFIXES))
    )


def _deferred(seen: Observation, now: float) -> Completeness | None:
    """Return what is missing from a child that was incomplete when it was last read, until it may be read again."""
    return Completeness("waiting", seen.missing) if seen.missing is not None and now < seen.retry_at else None


def _completeness(listing: ChildListing, watch: WatchConfig, snapshot: SnapshotConfig) -> Completeness:
    """Judge a child by the configured evidence, by whether a side is missing, and by whether its files may be read."""
    judged = judge(listing, watch)
    if judged.state == "ready" and listing.unchanged_seconds < watch.missing_side_seconds:
        judged = _missing_side(listing.place, snapshot, watch) or judged
    if judged.state == "ready":
        listing.require_permission()
    return judged


def _missing_side(place: Place, snapshot: SnapshotConfig, watch: WatchConfig) -> Completeness | None:
    """Return which side is still missing from a child that is complete by the configured evidence."""
    try:
        missing = missing_at(place, snapshot, watch.marker)
    except SnapshotError:  # it is ill-formed, which is reported when it is opened
        return None
    return None if missing is None else Completeness("waiting", missing.reason)


def _rejected_by_name(name: str, kind: str) -> str | None:
    if name in _SYSTEM_NAMES:
        return "a name reserved by file systems and file servers"
    if name.startswith((".", "_")):
        return f"a name that begins with {name[0]}"
    if name.endswith(".tmp"):
        return "a name that ends in .tmp"
    if printable(name) != name:
        return "a name that is not UTF-8"
    return None if kind in {"file", "directory"} else f"a {kind}"


def _last_change(entries: Mapping[str, os.stat_result]) -> float:
    # ctime, because a copy that preserves times has an old mtime
    return max((status.st_ctime_ns for status in entries.values()), default=0) / 1e9
