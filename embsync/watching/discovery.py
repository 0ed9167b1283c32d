"""What lies in the watched directory: every child, whether it is a snapshot, and whether it is complete.

One look is a function of the directory, the clock and what the caller remembers of earlier looks, so that a daemon and
a single ``embsync sync`` share it. Whether a snapshot was published, refused or skipped is not decided here: that is
the journal's knowledge. Nothing is ever written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embsync.config import SnapshotConfig, WatchConfig
from embsync.errors import SnapshotChanged, SnapshotError, printable
from embsync.snapshots import names
from embsync.snapshots.files import NotPermitted, Place, Signature, kind_of
from embsync.snapshots.layouts import is_foreign, missing_at, recognised_by
from embsync.snapshots.natural_order import natural_key
from embsync.watching.completeness import ChildListing, Completeness, Observation, judge
from embsync.watching.links import FOLLOWED_NOWHERE, followed

State = Literal["ready", "waiting", "not_permitted", "not_a_snapshot"]
Memory = Mapping[str, Observation]

#: What file systems (ext4) and servers (Synology, QNAP, Windows) put beside the files they hold, often closed.
_OF_THE_SYSTEM = frozenset(
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
#: Endings that layouts know.
_DATA = (
    *(".npy", ".npz", ".parquet", ".safetensors", ".vec", ".txt", ".gz", ".zst", ".bin"),
    *(".arrow", ".feather", ".ipc", ".csv", ".tsv", ".json"),
)
#: Entries named in a reason.
_NAMED = 4


@dataclass(frozen=True)
class Child:
    """One entry of the watched directory.

    Attributes
    ----------
    name : str
    path : Path
    state : "ready", "waiting", "not_permitted" or "not_a_snapshot"
    reason : str
        The evidence, what is waited for, what may not be read, or why it is no snapshot.
    stamp : str or None
        Changes with anything in the snapshot; None where there is nothing to stamp.
    mtime_ns : int
        Of the newest file in it.
    listing : str or None
        As the stamp, but equal also where the snapshot was moved, or copied with its times.
    link : str or None
        The link that led to it; its name is the path of what the link leads to, below the watched directory.
    """

    name: str
    path: Path
    state: State
    reason: str
    stamp: str | None
    mtime_ns: int
    listing: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class Discovery:
    """One look at a watched directory: its children in order, and what to remember for the next look."""

    children: tuple[Child, ...]
    memory: dict[str, Observation]

    @property
    def ready(self) -> tuple[Child, ...]:
        """The complete snapshots, in order."""
        return tuple(child for child in self.children if child.state == "ready")


def discover(
    watched: str | Path,
    watch: WatchConfig,
    snapshot: SnapshotConfig,
    *,
    now: float,
    memory: Memory | None = None,
    known: Mapping[str, Child] | None = None,
) -> Discovery:
    """Look at the watched directory once.

    Parameters
    ----------
    watched : str or Path
    watch, snapshot : WatchConfig, SnapshotConfig
    now : float
        Seconds. With ``memory``, of any clock that does not jump; without, of the wall clock.
    memory : mapping of name to Observation, optional
        What the previous look returned; ``{}`` before the first. None: a single look, in which times of last change
        stand for having watched.
    known : mapping of name to Child, optional
        Children of the previous look that the caller knows to be as they were; they are not looked at again.

    Returns
    -------
    Discovery
        Children by name in natural order, or with ``watch.order: mtime`` by time. What comes after what also depends
        on what was published: see ``pipeline.order``.

    Raises
    ------
    NotFoundError
        The watched directory is not there.
    SnapshotError
        It is no directory, or cannot be listed.
    """
    root, shown = Place.at(watched), Path(watched).absolute()
    same, before = known or {}, memory or {}
    kinds = root.entries()
    looks = [
        (same[name], before.get(name))
        if name in same
        else _look_at(root.child(name), shown / name, kind, watch, snapshot, now, memory)
        for name, kind in kinds.items()
        if kind != "link"
    ]
    named = {
        child.name: child.state != "not_a_snapshot"
        for child, _ in looks
        if child.name in kinds and _not_a_snapshot(child.name, kinds[child.name]) is None
    }
    for name in (name for name, kind in kinds.items() if kind == "link"):
        target, why = followed(root, name, named)
        if target is None:
            looks.append(_none(name, shown / name, why))
        else:
            kind = target.kind()
            looks.append(_look_at(target, shown.joinpath(*target.parts), kind, watch, snapshot, now, memory, link=name))
            named["/".join(target.parts)] = True
    children = sorted((child for child, _ in looks), key=lambda child: _order_key(child, watch))
    return Discovery(tuple(children), {child.name: seen for child, seen in looks if seen is not None})


def _none(name: str, path: Path, why: str) -> tuple[Child, None]:
    return Child(printable(name), path, "not_a_snapshot", printable(why), None, 0), None


def _order_key(child: Child, watch: WatchConfig) -> tuple[object, ...]:
    named = natural_key(child.name)
    return (child.mtime_ns, named) if watch.order == "mtime" else (named,)


def _look_at(
    place: Place,
    path: Path,
    kind: str,
    watch: WatchConfig,
    snapshot: SnapshotConfig,
    now: float,
    memory: Memory | None,
    link: str | None = None,
) -> tuple[Child, Observation | None]:
    found = Signature("", "", 0)
    seen = None
    name = "/".join(place.parts)

    def child(state: State, reason: str) -> tuple[Child, Observation | None]:
        return Child(
            printable(name),
            path,
            state,
            printable(reason),
            found.stamp or None,
            found.mtime_ns,
            found.listing or None,
            link,
        ), seen

    if (why := _not_a_snapshot(link or name, kind)) is not None:
        return child("not_a_snapshot", why)
    try:
        entries = dict(place.walk()) if kind == "directory" or recognised_by(place, snapshot) else {}
        if (why := _nothing_of_a_snapshot(place, kind, entries, snapshot)) is not None:
            return child("not_a_snapshot", why)
        found = Signature.of(entries.items())
        before = (memory or {}).get(name)
        seen = before if before is not None and before.stamp == found.stamp else Observation(found.stamp, now)
        changed = _last_change(entries) if memory is None else seen.since
        look = ChildListing(place, kind == "directory", entries, now - changed)
        verdict = _put_off(seen, now) or judge(look, watch)
        if verdict.state == "ready" and now - changed < watch.missing_side_seconds:
            verdict = _wait_for_the_rest(place, snapshot, watch) or verdict
        if verdict.state == "ready":
            look.require_permission()
        return child(verdict.state, verdict.reason)
    except SnapshotChanged:
        return child("waiting", "changes to end")
    except NotPermitted as error:
        return child("not_permitted", str(error))
    except SnapshotError as error:
        return child("not_a_snapshot", str(error))


def _nothing_of_a_snapshot(
    place: Place, kind: str, entries: Mapping[str, os.stat_result], snapshot: SnapshotConfig
) -> str | None:
    """Return why what is there is none: no layout knows it, and nothing in it looks like a side that is to come."""
    if kind == "file" and not entries:
        return "a file of no known layout"
    if not entries:
        return "an empty directory"
    seen = sorted({name.partition("/")[0] for name in entries})
    sided = any(map(_looks_like_a_side, seen))
    foreign = not sided and is_foreign(place, snapshot)
    if kind == "file":
        return "no array in it could be vectors" if foreign else None
    if sided or (recognised_by(place, snapshot) and not foreign):
        link = next((name for name, status in entries.items() if kind_of(status) == "link"), None)
        files = any(kind_of(status) == "file" and not name.startswith((".", "_")) for name, status in entries.items())
        return None if files or link is None else f"{link} is a link; {FOLLOWED_NOWHERE}"
    more = f" and {len(seen) - _NAMED} more" if len(seen) > _NAMED else ""
    return f"nothing in it belongs to a known layout: {', '.join(seen[:_NAMED])}{more}"


def _looks_like_a_side(name: str) -> bool:
    says = names.parse(name)
    return not says.harmless and (says.side is not None or (not says.finished and says.name.endswith(_DATA)))


def _put_off(seen: Observation, now: float) -> Completeness | None:
    """Return what a child waits for that showed to be incomplete when it was read, until it is to be tried again."""
    return Completeness("waiting", seen.lacking) if seen.lacking is not None and now < seen.again else None


def _wait_for_the_rest(place: Place, snapshot: SnapshotConfig, watch: WatchConfig) -> Completeness | None:
    """Return what a child waits for whose evidence is good but of which only half is there."""
    try:
        missing = missing_at(place, snapshot, watch.marker)
    except SnapshotError:  # ill-formed: whoever opens it says so
        return None
    return None if missing is None else Completeness("waiting", missing.reason)


def _not_a_snapshot(name: str, kind: str) -> str | None:
    if name in _OF_THE_SYSTEM:
        return "a name that file systems and servers of files use"
    if name.startswith((".", "_")):
        return f"a name that begins with {name[0]}"
    if name.endswith(".tmp"):
        return "a name that ends in .tmp"
    if printable(name) != name:
        return "a name that is not UTF-8"
    return None if kind in {"file", "directory"} else f"a {kind}"


def _last_change(entries: Mapping[str, os.stat_result]) -> float:
    # ctime, because a copy that keeps times carries an old mtime
    return max((status.st_ctime_ns for status in entries.values()), default=0) / 1e9
