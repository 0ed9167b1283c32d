"""Objects as files of a directory, written durably; publishers exclude one another by a lock on a file."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import io
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from embsync.delivery.objects import ObjectEntry, push_line
from embsync.errors import SinkError, SinkUnavailable, StoreBusy
from embsync.file_kinds import file_kind
from embsync.invocation import quoted
from embsync.store.durable import FULL, TEMPORARY, copy_file, make_root, remove_file, remove_temporary, replace_file
from embsync.store.locks import exclusive

#: Held while the pointer changes, by the process that changes it; the kernel releases it when that process dies.
_LOCK = ".publisher.lock"
_LOCK_SECONDS = 60.0
_PIECE = 8 << 20


class LocalObjects:
    """The files below a directory. It must exist, so that an unmounted directory is not mistaken for an empty one."""

    def __init__(self, where: str, root: Path) -> None:
        self.where = where
        self.push_options: tuple[str, ...] = ()
        self._root = root

    def absence(self) -> str | None:
        """Return a message if the directory does not exist, otherwise None."""
        with self._errors():
            return None if self._root.exists() else "no such directory"

    def read(self, key: str) -> bytes | None:
        """Return a small object, or None if it does not exist."""
        with self._errors(), contextlib.suppress(FileNotFoundError), self._opened(key) as file:
            return file.readall()
        return None

    def _opened(self, key: str) -> io.FileIO:
        """Open an object; refuse anything but a regular file: a FIFO would block, others would fail unclearly."""
        path = self._root / key
        try:
            found = path.stat()
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise self._not_a_file(path, "a link to itself") from None
        if not stat.S_ISREG(found.st_mode):
            raise self._not_a_file(path, f"a {file_kind(found)}")
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)

    def _not_a_file(self, path: Path, found: str) -> SinkError:
        remove = "rm -r" if found == "a directory" else "rm"
        hint = f"{remove} {quoted(str(path))}", push_line(self)
        return SinkError("not an object", where=path, found=found, expected="a file", hint=hint)

    @contextlib.contextmanager
    def stream(self, key: str, start: int = 0) -> Iterator[Iterator[memoryview] | None]:
        """Yield an object's bytes from ``start`` on, in pieces; None instead if it does not exist."""
        with self._errors(), contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(self._opened(key))
            except FileNotFoundError:
                yield None
                return
            file.seek(start)
            buffer = memoryview(bytearray(_PIECE))
            yield (buffer[:count] for count in iter(lambda: file.readinto(buffer), 0))

    def write(self, key: str, data: bytes) -> None:
        """Write a small object durably."""
        with self._errors():
            replace_file(self._place(key), data)

    def upload(self, key: str, path: Path) -> None:
        """Copy a file durably."""
        with self._errors():
            copy_file(path, self._place(key))

    def copy(self, source: str, key: str) -> bool:
        """Link one object to another name; return False if the file system cannot."""
        with self._errors():
            target = self._place(key)
            try:
                target.unlink(missing_ok=True)
                os.link(self._root / source, target)
            except OSError as error:
                if error.errno in FULL:
                    raise
                return False
        return True

    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Replace an object whose content is ``expected``, under a lock."""
        with self._errors():
            try:
                with exclusive(self._place(_LOCK), _LOCK_SECONDS, "the directory"):
                    if self.read(key) != expected:
                        return False
                    replace_file(self._place(key), data)
            except StoreBusy as busy:
                raise SinkUnavailable("another publisher holds the lock", where=busy.where, found=busy.found) from None
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectEntry]:
        """Yield the regular files below a directory; anything else is not an object."""
        with self._errors():
            for folder, _, names in os.walk(self._root / prefix):
                for name in names:
                    if name == _LOCK or TEMPORARY.fullmatch(name):
                        continue
                    path = Path(folder, name)
                    with _absent():
                        found = path.stat()
                        if not stat.S_ISREG(found.st_mode):
                            continue  # not an object: a push writes one in its place
                        modified = dt.datetime.fromtimestamp(found.st_mtime, dt.UTC)
                        yield ObjectEntry(path.relative_to(self._root).as_posix(), found.st_size, modified)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files in the given order, then directories that have become empty."""
        with self._errors():
            for key in keys:
                path = self._root / key
                with contextlib.suppress(FileNotFoundError):
                    remove_file(path)
                for folder in path.parents:
                    if folder == self._root:
                        break
                    with contextlib.suppress(OSError):
                        remove_temporary(folder)
                        folder.rmdir()

    def now(self) -> dt.datetime:
        """Return the time of the clock that sets the files' modification times."""
        with self._errors():
            lock = self._place(_LOCK)
            lock.touch()
            return dt.datetime.fromtimestamp(lock.stat().st_mtime, dt.UTC)

    def notes(self) -> tuple[str, ...]:
        """Return no notes: the limits of file locks depend on the file system, and are documented."""
        return ()

    def _place(self, key: str) -> Path:
        """Return the path of a key, after creating its parent; refuse a directory, which no file can replace."""
        path = self._root / key
        if path.is_dir() and not path.is_symlink():
            raise self._not_a_file(path, "a directory")
        if not self._root.is_dir():
            raise SinkUnavailable(
                "no such directory",
                where=self._root,
                expected="a directory that exists",
                hint=f"is it mounted? to make it: mkdir -p {quoted(str(self._root))}",
            )
        if not path.parent.is_dir():
            make_root(path.parent)
        return path

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self._root
            found = error.strerror or str(error)
            if error.errno in FULL:
                hint = "free space there, or lower keep_versions of the sink"
                raise SinkUnavailable("no space left", where=where, hint=hint) from None
            if isinstance(error, PermissionError):
                hint = f"may this user write there? ls -ld {quoted(str(self._root))}"
                raise SinkError("not permitted", where=where, found=found, hint=hint) from None
            hint = f"is it mounted, and a directory? ls -ld {quoted(str(self._root))}"
            raise SinkUnavailable("the directory cannot be used", where=where, found=found, hint=hint) from None


@contextlib.contextmanager
def _absent() -> Iterator[None]:
    """Treat a dangling link, or one that leads to itself, as a missing file."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
