"""Whether a training job has finished writing a snapshot, judged from outside.

Evidence, strongest first: a manifest with sizes and hashes; a marker file that is newer than what it marks; nothing
changed for a while, and nobody holds a file open for writing where the kernel can tell. Hashes are not compared here:
that reads the whole snapshot and may take minutes, so it is part of publishing it
(``source_manifest.require_as_listed``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from embsync.config import WatchConfig
from embsync.errors import SnapshotError
from embsync.snapshots.files import Place, kind_of
from embsync.watching import source_manifest
from embsync.watching.source_manifest import NotAList

#: Directories that hold a side, also with an ending (``items.parquet``). Spark's two come together or not at all.
_SIDE_DIRECTORIES = ("items", "users")
_SPARK_DIRECTORIES = ("itemFactors", "userFactors")


@dataclass(frozen=True)
class Observation:
    """What is known of a child from earlier looks, kept by the caller.

    Attributes
    ----------
    stamp : str
    since : float
        When this stamp was first seen, by the caller's clock, in seconds.
    lacking : str or None
        What showed to be incomplete, when the contents were read with this stamp.
    again : float
        When that is doubted again, by the same clock.
    """

    stamp: str
    since: float
    lacking: str | None = None
    again: float = 0.0


@dataclass(frozen=True)
class ChildListing:
    """One look at one child: what it is, what is in it, and for how many seconds it has not changed."""

    place: Place
    is_directory: bool
    entries: Mapping[str, os.stat_result]
    quiet_seconds: float

    @property
    def files(self) -> dict[str, os.stat_result]:
        """The regular files, but not those that a name marks as no data."""
        return {
            name: status
            for name, status in self.entries.items()
            if kind_of(status) == "file" and not any(part.startswith((".", "_")) for part in name.split("/"))
        }

    def require_permission(self) -> None:
        """Open every file once; a marker vouches that they are whole, not that they may be read.

        Raises
        ------
        NotPermitted
            One may not be.
        """
        for name in self.files:
            (source_manifest.below(self.place, name) if self.is_directory else self.place).open().close()


@dataclass(frozen=True)
class Completeness:
    """``ready`` by which evidence, or ``waiting`` for what."""

    state: Literal["ready", "waiting"]
    reason: str


def judge(look: ChildListing, watch: WatchConfig) -> Completeness:
    """Return whether a child is complete by the configured evidence.

    Raises
    ------
    SnapshotError
        The manifest names something outside the snapshot, or a file may not be read.
    """
    if not look.files:
        return Completeness("waiting", "files")
    by = {"manifest": _by_manifest, "marker": _by_marker}
    wanted = ("manifest", "marker") if watch.complete == "auto" else (watch.complete,)
    for evidence in wanted:
        verdict = by[evidence](look, watch) if evidence in by else None
        if verdict is not None:
            return verdict
    if watch.complete in {"auto", "settled"}:
        return _by_quiet(look, watch)
    what = f"the marker {watch.marker}" if watch.complete == "marker" else f"a valid {source_manifest.NAME}"
    alone = "" if look.is_directory else ", which a single file cannot have (watch.complete: settled)"
    return Completeness("waiting", what + alone)


def _by_manifest(look: ChildListing, watch: WatchConfig) -> Completeness | None:
    if source_manifest.NAME not in look.files or not look.is_directory:
        return None
    try:
        listed = source_manifest.read_list(look.place)
    except NotAList:
        return None  # somebody else's file of that name, or half of ours
    data = {name: status for name, status in look.files.items() if name not in {source_manifest.NAME, watch.marker}}
    lacking = source_manifest.missing_from(listed, data)
    return Completeness("ready", "manifest") if lacking is None else Completeness("waiting", lacking)


def _by_marker(look: ChildListing, watch: WatchConfig) -> Completeness | None:
    if not look.is_directory:
        return None
    marked = [""] if watch.marker in look.entries else _marked_sides(look, watch.marker)
    for prefix in marked:
        marker = look.entries[prefix + watch.marker]
        late = [
            name
            for name, status in look.files.items()
            if name.startswith(prefix) and status.st_ctime_ns > marker.st_ctime_ns and name != watch.marker
        ]
        if late and look.quiet_seconds < watch.settle_seconds:
            # copied in the order of names, or overwritten in place: the marker was there before the data
            return Completeness("waiting", f"{_rest(look, watch)}, as {late[0]} is newer than the marker")
    if len(marked) == 1 and marked != [""] and look.quiet_seconds < watch.settle_seconds:
        # items are written before users as often as without any: half a snapshot would make a one-sided store for good
        return Completeness("waiting", f"{_rest(look, watch)}, as users may follow the marked items")
    return Completeness("ready", "marker") if marked else None


def _marked_sides(look: ChildListing, marker: str) -> list[str]:
    names = {name for name, status in look.entries.items() if kind_of(status) == "directory"}
    # of a model at the root, or in a stage of a pipeline
    spark = sorted(
        {name[: -len(side)] for name in names for side in _SPARK_DIRECTORIES if f"/{name}".endswith(f"/{side}")}
    )
    plain = sorted(name for name in names if name.partition(".")[0] in _SIDE_DIRECTORIES)
    sides = [holder + side for holder in spark for side in _SPARK_DIRECTORIES] or plain
    if not spark and not any(side.startswith("item") for side in sides):
        return []
    prefixes = [f"{side}/" for side in sides]
    return prefixes if all(prefix + marker in look.entries for prefix in prefixes) else []


def _by_quiet(look: ChildListing, watch: WatchConfig) -> Completeness:
    if look.quiet_seconds < watch.settle_seconds:
        return Completeness("waiting", _rest(look, watch))
    unfinished = [name for name in look.entries if name.endswith(".tmp") or f"/{name}".endswith("/_temporary")]
    if unfinished:
        return Completeness("waiting", f"{unfinished[0]} to be renamed or removed by whoever writes it")
    for name in look.files:
        if is_open_for_writing(source_manifest.below(look.place, name) if look.is_directory else look.place):
            return Completeness("waiting", f"{name} to be closed by whoever writes it")
    return Completeness("ready", "settled")


def _rest(look: ChildListing, watch: WatchConfig) -> str:
    rest = watch.settle_seconds - max(look.quiet_seconds, 0)
    return f"{rest:.0f} more seconds without a change"


def is_open_for_writing(place: Place) -> bool:
    """Tell whether anyone has a file open for writing, memory maps included; False where the kernel does not say.

    A read lease is asked for, which the kernel refuses while there is a writer. It knows writers of this machine only,
    and answers the file's owner or a holder of CAP_LEASE.
    """
    with place.open() as file:
        try:
            # whoever opens the file in this moment breaks the lease; the default signal for that would end the process
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return True
            if error.errno in {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
                return False
            raise SnapshotError("cannot be asked for a lease", where=str(place), found=error.strerror) from error
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
