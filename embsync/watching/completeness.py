"""Whether a training job has finished writing a snapshot, judged from outside.

Evidence, strongest first: a manifest with sizes and hashes; a marker file that is newer than the files it covers;
nothing has changed for a while, and no file is open for writing as far as the kernel can tell. Hashes are not compared
here: that reads the entire snapshot and may take minutes, so it is part of publishing
(``source_manifest.verify_listed_files``).
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
from embsync.file_kinds import file_kind
from embsync.snapshots.files import Place
from embsync.watching import source_manifest
from embsync.watching.source_manifest import InvalidFileList

#: Directories that hold a side, possibly with a suffix (``items.parquet``). Spark always writes both of its own.
_SIDE_DIRECTORIES = ("items", "users")
_SPARK_DIRECTORIES = ("itemFactors", "userFactors")


@dataclass(frozen=True)
class Observation:
    """What is known about a child from earlier scans; kept by the caller.

    Attributes
    ----------
    stamp : str
    since : float
        When this stamp was first seen, by the caller's clock, in seconds.
    missing : str or None
        What was found to be incomplete when the contents were read with this stamp.
    retry_at : float
        When the contents may be read again, by the same clock.
    """

    stamp: str
    since: float
    missing: str | None = None
    retry_at: float = 0.0


@dataclass(frozen=True)
class ChildListing:
    """One child as scanned: its place, its entries, and for how many seconds it has not changed."""

    place: Place
    is_directory: bool
    entries: Mapping[str, os.stat_result]
    unchanged_seconds: float

    @property
    def files(self) -> dict[str, os.stat_result]:
        """The regular files, except those whose names mark them as metadata (``.`` or ``_``)."""
        return {
            name: status
            for name, status in self.entries.items()
            if file_kind(status) == "file" and not any(part.startswith((".", "_")) for part in name.split("/"))
        }

    def require_permission(self) -> None:
        """Open every file once: a marker says that the files are complete, not that they are readable.

        Raises
        ------
        NotPermitted
            A file may not be read.
        """
        for name in self.files:
            (source_manifest.below(self.place, name) if self.is_directory else self.place).open().close()


@dataclass(frozen=True)
class Completeness:
    """``ready``, and by which evidence; or ``waiting``, and for what."""

    state: Literal["ready", "waiting"]
    reason: str


def judge(listing: ChildListing, watch: WatchConfig) -> Completeness:
    """Return whether a child is complete by the configured evidence.

    Raises
    ------
    SnapshotError
        The manifest names something outside the snapshot, or a file may not be read.
    """
    if not listing.files:
        return Completeness("waiting", "a first file")
    by = {"manifest": _by_manifest, "marker": _by_marker}
    wanted = ("manifest", "marker") if watch.complete == "auto" else (watch.complete,)
    for evidence in wanted:
        verdict = by[evidence](listing, watch) if evidence in by else None
        if verdict is not None:
            return verdict
    if watch.complete in {"auto", "settled"}:
        return _by_settling(listing, watch)
    what = f"the marker {watch.marker}" if watch.complete == "marker" else f"a valid {source_manifest.NAME}"
    alone = "" if listing.is_directory else ", which a single file cannot have (watch.complete: settled)"
    return Completeness("waiting", what + alone)


def _by_manifest(listing: ChildListing, watch: WatchConfig) -> Completeness | None:
    if source_manifest.NAME not in listing.files or not listing.is_directory:
        return None
    try:
        listed = source_manifest.read_list(listing.place)
    except InvalidFileList:
        return None  # an unrelated file of that name, or one that is only half written
    data = {name: status for name, status in listing.files.items() if name not in {source_manifest.NAME, watch.marker}}
    missing = source_manifest.missing_from(listed, data)
    return Completeness("ready", "manifest") if missing is None else Completeness("waiting", missing)


def _by_marker(listing: ChildListing, watch: WatchConfig) -> Completeness | None:
    if not listing.is_directory:
        return None
    marked = [""] if watch.marker in listing.entries else _marked_sides(listing, watch.marker)
    for prefix in marked:
        marker = listing.entries[prefix + watch.marker]
        late = [
            name
            for name, status in listing.files.items()
            if name.startswith(prefix) and status.st_ctime_ns > marker.st_ctime_ns and name != watch.marker
        ]
        if late and listing.unchanged_seconds < watch.settle_seconds:
            # copied in the order of names, or overwritten in place: the marker existed before the data
            return Completeness("waiting", f"{_remaining(listing, watch)}, as {late[0]} is newer than the marker")
    if len(marked) == 1 and marked != [""] and listing.unchanged_seconds < watch.settle_seconds:
        # items may be alone or precede users; publishing half a snapshot would make the store one-sided permanently
        return Completeness("waiting", f"{_remaining(listing, watch)}, as users may follow the marked items")
    return Completeness("ready", "marker") if marked else None


def _marked_sides(listing: ChildListing, marker: str) -> list[str]:
    names = {name for name, status in listing.entries.items() if file_kind(status) == "directory"}
    # the model is at the root, or in a stage of a pipeline
    spark = sorted(
        {name[: -len(side)] for name in names for side in _SPARK_DIRECTORIES if f"/{name}".endswith(f"/{side}")}
    )
    plain = sorted(name for name in names if name.partition(".")[0] in _SIDE_DIRECTORIES)
    sides = [holder + side for holder in spark for side in _SPARK_DIRECTORIES] or plain
    if not spark and not any(side.startswith("item") for side in sides):
        return []
    prefixes = [f"{side}/" for side in sides]
    return prefixes if all(prefix + marker in listing.entries for prefix in prefixes) else []


def _by_settling(listing: ChildListing, watch: WatchConfig) -> Completeness:
    if listing.unchanged_seconds < watch.settle_seconds:
        return Completeness("waiting", _remaining(listing, watch))
    unfinished = [name for name in listing.entries if name.endswith(".tmp") or f"/{name}".endswith("/_temporary")]
    if unfinished:
        return Completeness("waiting", f"{unfinished[0]} to be renamed or removed by its writer")
    for name in listing.files:
        if is_open_for_writing(source_manifest.below(listing.place, name) if listing.is_directory else listing.place):
            return Completeness("waiting", f"{name} to be closed by its writer")
    return Completeness("ready", "settled")


def _remaining(listing: ChildListing, watch: WatchConfig) -> str:
    remaining = watch.settle_seconds - max(listing.unchanged_seconds, 0)
    return f"{remaining:.0f} more seconds without a change"


def is_open_for_writing(place: Place) -> bool:
    """Return whether a file is open for writing, memory maps included; False if the kernel cannot determine it.

    A read lease is requested, which the kernel refuses while there is a writer. The kernel knows only the writers on
    this machine, and grants leases only to the file's owner and to processes with CAP_LEASE.
    """
    with place.open() as file:
        try:
            # opening the file now breaks the lease; the default signal for that would end this process
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return True
            if error.errno in {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
                return False
            raise SnapshotError("cannot request a lease", where=str(place), found=error.strerror) from error
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
