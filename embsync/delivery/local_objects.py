"""Objects as files of a directory, written durably; publishers exclude one another by a lock on a file."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from embsync.delivery.objects import ObjectEntry
from embsync.errors import SinkError, SinkUnavailable, StoreBusy
from embsync.invocation import quoted
from embsync.store.durable import FULL, TEMPORARY, copy_file, make_root, remove_file, remove_temporary, replace_file
from embsync.store.locks import exclusive

#: Held while the pointer changes, by the process that changes it; the kernel releases it when that process dies.
_LOCK = ".publisher.lock"
_LOCK_SECONDS = 60.0
_PIECE = 8 << 20


class LocalObjects:
    """The files below a directory, which must exist, so that one that is not mounted is not taken for an empty one."""

    def __init__(self, where: str, root: Path) -> None:
        self.where = where
        self.push_options: tuple[str, ...] = ()
        self._root = root

    def read(self, key: str) -> bytes | None:
        """Return a small object, or None if it does not exist."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            return (self._root / key).read_bytes()
        return None

    @contextlib.contextmanager
    def stream(self, key: str, start: int = 0) -> Iterator[Iterator[memoryview] | None]:
        """Yield an object's bytes from ``start`` on, in pieces; None instead if it does not exist."""
        with self._errors(), contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context((self._root / key).open("rb", buffering=0))
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
        """Yield the files below a directory."""
        with self._errors():
            for folder, _, names in os.walk(self._root / prefix):
                for name in names:
                    if name == _LOCK or TEMPORARY.fullmatch(name):
                        continue
                    path = Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):
                        found = path.stat()
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
        """Return the time by the clock that dates the files."""
        with self._errors():
            lock = self._place(_LOCK)
            lock.touch()
            return dt.datetime.fromtimestamp(lock.stat().st_mtime, dt.UTC)

    def notes(self) -> tuple[str, ...]:
        """Return nothing: the limits of file locks depend on the file system, and are documented."""
        return ()

    def _place(self, key: str) -> Path:
        """Return the path of a key, after creating its directory."""
        path = self._root / key
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
