"""Whether anything in a directory changed since the last scan, at the cost of one ``stat`` per known file.

A full scan lists, opens and hashes names; with a thousand old snapshots that costs a hundred times as much. The cache
holds each entry's size, time of change and inode. Contents cannot change without the file's ctime, nor names without
the directory's, so equal values mean that a full scan would find the same.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from embsync.snapshots.files import DEEPEST, MOST_ENTRIES, real_path

#: Time of last change in ns, inode, and size. A change of a file's mtime or mode also changes its ctime.
_Fields = tuple[int, int, int]

#: A directory that changed this recently may change again within one tick of its file system's clock (2 s on FAT).
_CLOCK_TICK_NS = 3 * 10**9
#: For a child with more entries than this, only a digest is kept: it saves memory, but comparing it means walking the
#: entire child.
_MOST_REMEMBERED = 2_000
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class _ChildStat:
    """The state of a child, path by path or as a digest; ``settled`` if equal values prove that nothing changed."""

    entries: tuple[tuple[str, _Fields], ...]
    digest: bytes
    settled: bool

    def needs_scan_after(self, other: _ChildStat) -> bool:
        """Return whether another scan is needed: something may have changed, or it has only now settled."""
        if self is _IGNORED:
            return False
        same = bool(self.entries or self.digest) and (self.entries, self.digest) == (other.entries, other.digest)
        return not same or (self.settled and not other.settled)


#: Ignored because of its name, without reading it: scratch directories may hold thousands of files.
_IGNORED = _ChildStat((), b"", settled=True)
#: A child that could not be walked to the end: it always counts as changed, and costs a full scan.
_UNKNOWN = _ChildStat((), b"", settled=False)


class StatCache:
    """The last known state of a directory, child by child.

    Attributes
    ----------
    changed_names : set of str
        Names of the children that are new or may have changed between the last two calls of :meth:`changed`.
    """

    def __init__(self) -> None:
        self.changed_names: set[str] = set()
        self._path = ""
        self._root: _Fields | None = None
        self._children: dict[str, _ChildStat] = {}

    def forget(self) -> None:
        """Forget everything, so that the next call finds everything changed."""
        self._root, self._children = None, {}

    def changed(self, root: str, wall_ns: int) -> bool:
        """Return whether anything may have changed since the last call, and remember the present state.

        Parameters
        ----------
        root : str
            The directory's path, free of links, so that equal paths are the same directory.
        wall_ns : int
            The wall-clock time, to be compared with times of change.

        Raises
        ------
        OSError
            The root is missing or cannot be listed.
        """
        if root != self._path:  # a link has a new target: what is remembered belongs to the old one
            self.forget()
            self._path = root
        figures = _stat_fields(os.stat(root))  # noqa: PTH116
        names = set(os.listdir(root))  # noqa: PTH208
        gone = self._children.keys() - names
        for name in gone:
            del self._children[name]
        changed = bool(gone) or self._root != figures
        self._root, self.changed_names = figures, set()
        for name in names:
            path = f"{root}/{name}"
            known = self._children.get(name)
            if name.startswith((".", "_")) or name.endswith(".tmp"):
                fresh = _IGNORED
            elif known is None or not known.settled or not _same(known, path):
                fresh = _record(path, wall_ns)
            else:
                continue
            if known is None or fresh.needs_scan_after(known):
                self.changed_names.add(name)
            self._children[name] = fresh
        return changed or bool(self.changed_names)


def _same(known: _ChildStat, path: str) -> bool:
    lstat = os.lstat
    try:
        if known.digest:
            return _digest(_walk(path, path.rpartition("/")[0]))[0] == known.digest
        for entry, (changed, inode, size) in known.entries:
            status = lstat(entry)
            if status.st_ctime_ns != changed or status.st_ino != inode or status.st_size != size:
                return False
    except OSError:
        return False
    return True


def _record(path: str, wall_ns: int) -> _ChildStat:
    try:
        walk = _walk(path, path.rpartition("/")[0])
        entries = tuple((found, _stat_fields(status)) for found, status in islice(walk, _MOST_REMEMBERED + 1))
        newest = max(figures[0] for _, figures in entries)
        digest = b""
        if len(entries) > _MOST_REMEMBERED:
            entries = ()
            digest, newest = _digest(_walk(path, path.rpartition("/")[0]))
    except OSError:
        return _UNKNOWN
    return _ChildStat(entries, digest, settled=newest < wall_ns - _CLOCK_TICK_NS)


def _digest(walk: Iterator[tuple[str, os.stat_result]]) -> tuple[bytes, int]:
    """Return a digest over the status of all entries, and the newest time of change."""
    digest, newest = hashlib.blake2b(digest_size=_DIGEST_BYTES), 0
    for path, status in walk:
        digest.update(os.fsencode(f"{path}\0{status.st_ctime_ns} {status.st_ino} {status.st_size}\0"))
        newest = max(newest, status.st_ctime_ns)
    return digest.digest(), newest


def _walk(path: str, within: str | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """Yield a path and everything below it, within the limits of a snapshot.

    A link in the watched directory is followed if its target is in that directory.

    Raises
    ------
    OSError
        Something was deleted or cannot be read, or the tree is too deep or too large for a snapshot.
    """
    if within is not None and stat.S_ISLNK((status := os.lstat(path)).st_mode):
        yield path, status
        path = real_path(path)
        if not path.startswith(f"{within}/"):
            return
    above, pending, left = path.count("/"), [path], MOST_ENTRIES
    while pending:
        path = pending.pop()
        status = os.lstat(path)
        left -= 1
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            names = os.listdir(path)  # noqa: PTH208
            if path.count("/") - above > DEEPEST or len(names) + len(pending) > left:
                raise OSError(errno.E2BIG, "too deep or too large", path)
            pending += [f"{path}/{name}" for name in reversed(names)]


def _stat_fields(status: os.stat_result) -> _Fields:
    return (status.st_ctime_ns, status.st_ino, status.st_size)
