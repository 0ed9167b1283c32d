"""Files of a snapshot, opened so that nothing outside it is touched and nothing in it can block.

Every component below the snapshot's root is opened relative to its directory's descriptor and never through a link;
only regular files are opened. Links, FIFOs, sockets, devices and ``..`` are refused. The root itself is the path that
the user named: links on the way to it are followed once, when the :class:`Place` is created.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from embsync.dtypes import Array
from embsync.errors import NotFoundError, SnapshotChanged, SnapshotError
from embsync.file_kinds import file_kind

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: A training run leaves a few hundred part files in one or two levels; a larger tree is not a snapshot, and would
#: take too long to walk.
MOST_ENTRIES = 100_000
DEEPEST = 8

#: Errors on opening that are caused by the file and are not transient.
_REFUSALS = {
    errno.ELOOP: "a link",
    errno.ENOTDIR: "not a directory",
    errno.ENXIO: "a socket, FIFO or device",
    errno.ENODEV: "a device",
    errno.ENAMETOOLONG: "a name that is too long",
}


class NotPermitted(SnapshotError):
    """The user that runs embsync may not read a file or directory."""


@dataclass(frozen=True)
class Place:
    """A file or directory at or below a snapshot's root, named by the components below the root.

    Attributes
    ----------
    root : Path
        With links resolved.
    parts : tuple of str
    given : str or None
        The name that the user gave the root, if it is a link with another name.
    tree : Path or None
        A directory inside which links below the root are followed; None: links are never followed.
    listed : dict or None
        The directories that were listed already, by their components; None: they are listed each time.
    """

    root: Path
    parts: tuple[str, ...] = ()
    given: str | None = None
    tree: Path | None = None
    listed: dict[tuple[str, ...], dict[str, str]] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def at(cls, path: str | Path, *, follow_link: bool = True, inner_links: bool = False) -> Place:
        """Return the place of a root.

        Parameters
        ----------
        path : str or Path
        follow_link : bool
            Whether ``path`` itself may be a link.
        inner_links : bool
            Whether links below it are followed if they stay inside it, or inside the cache that it belongs to.

        Raises
        ------
        NotFoundError
            There is nothing at ``path``.
        SnapshotError
            ``path`` is a link and ``follow_link`` is False.
        """
        given = Path(path)
        if not follow_link and given.is_symlink():
            raise SnapshotError("will not be opened", where=given, found="a link", expected="a file or directory")
        try:
            given.stat()  # the kernel follows at most 40 links, Python as many as its recursion limit allows
            root = given.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # RuntimeError: circular links; ValueError: NUL in the name
            raise NotFoundError(
                "no such snapshot",
                where=str(given).replace("\0", "\\0"),
                found="no file or directory",
                hint="paths are taken from the working directory",
            ) from None
        named = given.name if given.name not in {"", "..", root.name} else None
        return cls(root, given=named, tree=_tree_of(root) if inner_links else None)

    def __str__(self) -> str:
        return str(self.root.joinpath(*self.parts))

    @property
    def name(self) -> str:
        """The last component."""
        return self.parts[-1] if self.parts else self.given or self.root.name

    def child(self, name: str) -> Place:
        """Return the place of an entry of this directory."""
        if name in {"", ".", ".."} or "/" in name or "\0" in name:
            raise SnapshotError("not the name of a file", where=str(self), found=repr(name))
        return replace(self, parts=(*self.parts, name))

    def listed_once(self) -> Place:
        """Return this place with a cache of listings, since many layouts list the same directories."""
        return self if self.listed is not None else replace(self, listed={})

    def open(self) -> BinaryIO:
        """Open the regular file here for reading; it never blocks and never follows a link below the root."""
        descriptor = self._descend()
        try:
            kind = file_kind(os.fstat(descriptor))
            if kind != "file":
                raise SnapshotError("will not be opened", where=str(self), found=f"a {kind}", expected="a regular file")
        except BaseException:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "rb", buffering=0)

    def entries(self) -> dict[str, str]:
        """Return the names in this directory, sorted, each with its kind (see :func:`file_kind`)."""
        if self.listed is not None and self.parts in self.listed:
            return dict(self.listed[self.parts])
        with self._directory() as descriptor:
            found = {name: file_kind(status) for name, status in _listing(str(self), descriptor)}
        kinds = {name: self.child(name)._kind_behind() if kind == "link" else kind for name, kind in found.items()}
        if self.listed is not None:
            self.listed[self.parts] = dict(kinds)
        return kinds

    def kind(self) -> str:
        """Return the kind: ``file``, ``directory``, or one that is never opened."""
        descriptor = self._descend()
        try:
            return file_kind(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield every entry below this directory, or the file itself, as (relative name, status), sorted."""
        if self.kind() == "directory":
            with self._directory() as descriptor:
                yield from _walk(str(self), descriptor, "", MOST_ENTRIES)
        else:
            with self.open() as file:
                yield self.name, os.fstat(file.fileno())

    @contextmanager
    def _directory(self) -> Iterator[int]:
        descriptor = self._descend(os.O_DIRECTORY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _kind_behind(self) -> str:
        """Return the kind of a link's target inside the tree, ``link`` if it leaves the tree or is broken."""
        try:
            return self.kind() if self._behind() is not None else "link"
        except SnapshotError:
            return "link"

    def _behind(self) -> tuple[str, ...] | None:
        """Return the components below the tree of this place with links resolved; None outside the tree."""
        if self.tree is None or not self.parts:
            return None
        real = Path(os.path.realpath(str(self)))
        return (str(self.tree), *real.relative_to(self.tree).parts) if real.is_relative_to(self.tree) else None

    def _descend(self, last_flags: int = 0) -> int:
        above: int | None = None
        # targets of links are opened as strictly as the rest: a link that appears meanwhile is not followed
        names = self._behind() or (str(self.root), *self.parts)
        try:
            for depth, name in enumerate(names):
                flags = last_flags if depth == len(names) - 1 else os.O_DIRECTORY
                opened = os.open(name, _FLAGS | flags, dir_fd=above)
                if above is not None:
                    os.close(above)
                above = opened
        except OSError as error:
            if above is not None:
                os.close(above)
            raise unreadable(str(self), error) from error
        assert above is not None
        return above


def _tree_of(root: Path) -> Path | None:
    """Return the directory that links of a snapshot may not leave: the snapshot, or the cache that it belongs to.

    A Hugging Face cache is ``MODEL/snapshots/REVISION`` full of links into ``MODEL/blobs``.
    """
    if not root.is_dir():
        return None
    model = root.parent.parent
    return model if root.parent.name == "snapshots" and (model / "blobs").is_dir() else root


@dataclass(frozen=True)
class FileBytes:
    """The bytes of an open file, read by position."""

    file: BinaryIO
    where: str

    def fill(self, target: Array, offset: int) -> None:
        """Fill a C-contiguous array with the bytes at ``offset``.

        Raises
        ------
        SnapshotChanged
            The file ends earlier than it did when its header was read.
        """
        view = target.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            got = self._read_into(view[done:], offset + done)
            if got == 0:
                raise SnapshotChanged(
                    "became shorter while it was read",
                    where=self.where,
                    found=f"{offset + done} bytes",
                    expected=f"at least {offset + len(view)}",
                )
            done += got

    def read(self, size: int, offset: int) -> bytes:
        """Return ``size`` bytes at ``offset``, fewer at the end of the file."""
        try:
            return os.pread(self.file.fileno(), size, offset)
        except OSError as error:
            raise unreadable(self.where, error) from error

    def _read_into(self, view: memoryview, offset: int) -> int:
        try:
            return os.preadv(self.file.fileno(), [view], offset)
        except OSError as error:
            raise unreadable(self.where, error) from error


def real_path(path: str | Path) -> str:
    """Return ``os.path.realpath``, or the path itself if it has more links than the kernel follows."""
    try:
        return os.path.realpath(path)
    except (RecursionError, ValueError):
        return os.path.abspath(path)  # noqa: PTH100  (Path.resolve follows links)


def file_size(file: BinaryIO) -> int:
    """Return the size in bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def stamp(path: str | Path) -> str:
    """Return the stamp of a snapshot, a hash computed without reading its files: equal unless something changed.

    It covers the relative name, size, mtime, ctime and inode of every regular file, and the name and kind of
    anything else; no link is followed below the root.

    Raises
    ------
    NotFoundError
        There is nothing at ``path``.
    SnapshotChanged
        An entry cannot be read at present, for example because it was removed meanwhile.
    """
    return stamp_of(Place.at(path).walk())


@dataclass(frozen=True)
class Signature:
    """The signature that shows, without reading its files, whether a snapshot has changed.

    Attributes
    ----------
    stamp : str
        Hash of names, sizes, mtimes, ctimes and inodes: differs after any change.
    listing : str
        Hash of names, sizes and mtimes: equal even if the snapshot was moved, or copied with its times.
    mtime_ns : int
        Mtime of the newest file in ns, 0 if there is no file.
    """

    stamp: str
    listing: str
    mtime_ns: int

    @classmethod
    def of(cls, entries: Iterable[tuple[str, os.stat_result]]) -> Signature:
        """Return the signature of the entries that :meth:`Place.walk` yields."""
        found = list(entries)
        newest = max((status.st_mtime_ns for _, status in found if file_kind(status) == "file"), default=0)
        return cls(stamp_of(found), _digest(found, ("st_size", "st_mtime_ns")), newest)


def signature(path: str | Path) -> Signature:
    """Return the :class:`Signature` of a snapshot after one walk; raises as :func:`stamp` does."""
    return Signature.of(Place.at(path).walk())


def stamp_of(entries: Iterable[tuple[str, os.stat_result]]) -> str:
    """Return the :func:`stamp` of the entries that :meth:`Place.walk` yields."""
    return _digest(entries, ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino"))


def _digest(entries: Iterable[tuple[str, os.stat_result]], facts: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name, status in entries:
        kind = file_kind(status)
        known = tuple(getattr(status, fact) for fact in facts) if kind == "file" else (kind,)
        digest.update(repr((name, *known)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _walk(where: str, descriptor: int, prefix: str, budget: int) -> Iterator[tuple[str, os.stat_result]]:
    if prefix.count("/") > DEEPEST:
        raise SnapshotError("directories nested too deeply", where=where, expected=f"at most {DEEPEST}")
    for name, status in _listing(f"{where}/{prefix}", descriptor):
        budget -= 1
        if budget < 0:
            raise SnapshotError("too many files", where=where, expected=f"at most {MOST_ENTRIES}")
        yield prefix + name, status
        if stat.S_ISDIR(status.st_mode):
            try:
                below = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=descriptor)
            except OSError as error:
                raise unreadable(f"{where}/{prefix}{name}", error) from error
            try:
                for found in _walk(where, below, f"{prefix}{name}/", budget):
                    budget -= 1
                    yield found
            finally:
                os.close(below)


def _listing(where: str, descriptor: int) -> list[tuple[str, os.stat_result]]:
    found: list[tuple[str, os.stat_result]] = []
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                if len(found) >= MOST_ENTRIES:
                    raise SnapshotError(
                        "too many files in one directory", where=where, expected=f"at most {MOST_ENTRIES}"
                    )
                with suppress(FileNotFoundError):  # removed since it was listed
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
    except OSError as error:
        raise unreadable(where, error) from error
    return sorted(found, key=lambda named: named[0])


def unreadable(where: str, error: OSError) -> SnapshotError:
    """Return an operating system error as a refusal of the file, or as a transient error."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return NotPermitted(
            "may not be read",
            where=where,
            found=error.strerror,
            expected="read permission for the user that runs embsync",
        )
    if error.errno in _REFUSALS:
        return SnapshotError(
            "will not be opened",
            where=where,
            found=_REFUSALS[error.errno],
            expected="a regular file inside the snapshot",
        )
    return SnapshotChanged("cannot be read now", where=where, found=error.strerror)
