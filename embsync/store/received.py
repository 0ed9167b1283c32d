"""A version received from another host: files are read back as they arrive, and interrupted transfers are resumed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from embsync.errors import StoreDamaged, StoreError
from embsync.file_hashes import FileEntry, hash_file
from embsync.store import layout
from embsync.store.durable import write_all
from embsync.store.modes import correct_file, make_directory
from embsync.store.removal import RECEIVED_PREFIX, remove_tree
from embsync.store.staging import Staging

_READ_BYTES = 4 * 2**20
#: Bytes that arrive between two syncs: what is synced is read back while the rest arrives.
_CHECKED_AT_ONCE = 64 * 2**20
#: Suffix of the name of an incomplete file.
_PARTIAL = ".partial"

#: Called with the number of bytes already received; a context manager over the rest of the file, in pieces.
OpenPieces = Callable[[int], contextlib.AbstractContextManager[Iterable[Any]]]


class ReceivedVersion(Staging):
    """A version being received; its directory outlives the process, so that a later process can resume.

    Only one process at a time receives, under ``pull.lock``. Several threads may receive different files.

    Parameters
    ----------
    versions : Path
    name : str
        Identifies what is received; leftovers with another name are removed.
    """

    def __init__(self, versions: Path, name: str) -> None:
        own = versions / f"{RECEIVED_PREFIX}{name}"
        for path in versions.iterdir():
            if path.name.startswith(RECEIVED_PREFIX) and path != own:
                remove_tree(path)
        if not own.is_dir():
            make_directory(own)
        for described in (layout.MANIFEST, layout.MANIFEST_HASH, layout.PUBLISHING):
            (own / described).unlink(missing_ok=True)
        self._use(own, os.open(own, os.O_RDONLY | os.O_DIRECTORY))
        self._directory_lock = threading.Lock()

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            self.keep()  # for the next process

    def has(self, entry: FileEntry) -> bool:
        """Return whether an earlier process received a file, and add it if so; a damaged one is removed."""
        path = self.path / entry.path
        if not path.is_file():
            return False
        if hash_file(path, drop_cache=True) == (entry.bytes, entry.sha256):
            self._entries.append(entry)
            return True
        path.unlink()
        return False

    def received(self, entry: FileEntry) -> int:
        """Return the number of bytes of a file already received."""
        path = self.path / entry.path
        for place in (path, _partial(path)):
            with contextlib.suppress(FileNotFoundError):
                return place.stat().st_size
        return 0

    def receive(self, entry: FileEntry, pieces: OpenPieces, again: Callable[[str], None] = lambda found: None) -> None:
        """Receive a file: write it, sync it, read it back and hash it while the rest arrives, and rename it.

        A file that differs from its entry is transferred once more, after calling ``again`` with the difference.

        Raises
        ------
        StoreDamaged
            After two transfers the contents still differ from the entry; the file is removed.
        StoreError
            After two transfers the file still does not read back as written; it is removed.
        """
        path = self._place(entry.path)
        arrived = _written(_partial(path), entry.bytes, pieces)
        if arrived.on_disk != (entry.bytes, entry.sha256):
            _partial(path).unlink()
            again(arrived.difference(entry))
            # The part left by an earlier process may be wrong; hashing what arrives, too, shows whether the disk is.
            arrived = _written(_partial(path), entry.bytes, pieces, hashlib.sha256())
        if arrived.on_disk != (entry.bytes, entry.sha256):
            _partial(path).unlink()
            raise arrived.fault(entry, path)
        _partial(path).rename(path)
        self._entries.append(entry)

    def _place(self, name: str) -> Path:
        with self._directory_lock:
            return super()._place(name)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + _PARTIAL)


@dataclass(frozen=True)
class _Arrived:
    """Size of a file, sha256 of its contents as read back, and sha256 of what arrived, if that was hashed."""

    bytes: int
    read_back: str
    sha256: str | None

    @property
    def on_disk(self) -> tuple[int, str]:
        return self.bytes, self.read_back

    def difference(self, entry: FileEntry) -> str:
        """Return in words how the file on disk differs from its entry."""
        if self.bytes != entry.bytes:
            return f"{self.bytes} bytes instead of {entry.bytes}"
        return f"sha256 {self.read_back[:12]}… instead of {entry.sha256[:12]}…"

    def fault(self, entry: FileEntry, path: Path) -> StoreError:
        """Return the error for a file whose contents on disk differ from its entry."""
        if (self.bytes, self.sha256) == (entry.bytes, entry.sha256):
            hint = "the disk or its driver is faulty"
            return StoreError("the file does not read back as written", where=path, expected=entry.sha256, hint=hint)
        found = f"{self.bytes} bytes" if self.bytes != entry.bytes else f"sha256 {str(self.sha256)[:12]}…"
        expected = f"{entry.bytes} bytes, sha256 {entry.sha256[:12]}…"
        return StoreDamaged("a received file does not match its manifest", where=path, found=found, expected=expected)


def _written(path: Path, longest: int, pieces: OpenPieces, digest: Any = None) -> _Arrived:
    """Append what arrives to a file, sync it, and read it back and hash it while the rest arrives.

    Stop at the first piece beyond ``longest`` bytes. With ``digest``, the file is new and what arrives is hashed, too.
    """
    read_back, synced = hashlib.sha256(), 0
    with open(path, "ab+", buffering=0) as file, ThreadPoolExecutor(1) as behind:  # noqa: PTH123
        correct_file(file.fileno(), path)
        size = _size_to_continue(file, longest)
        checks: list[Future[None]] = []
        with pieces(size) as arriving:
            for piece in arriving:
                size += len(piece)
                if size > longest:
                    break
                if digest is not None:
                    digest.update(piece)
                write_all(file.fileno(), piece)
                if size - synced >= _CHECKED_AT_ONCE:
                    checks.append(behind.submit(_read_back, file.fileno(), synced, size, read_back))
                    synced = size
        checks.append(behind.submit(_read_back, file.fileno(), synced, size, read_back))
        for check in checks:
            check.result()
    return _Arrived(size, read_back.hexdigest(), None if digest is None else digest.hexdigest())


def _read_back(descriptor: int, start: int, end: int, digest: Any) -> None:
    """Sync a file, and hash a part of it as read back from disk."""
    os.fsync(descriptor)
    with contextlib.suppress(OSError):  # advice only
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
    while start < end and (block := os.pread(descriptor, min(_READ_BYTES, end - start), start)):
        digest.update(block)
        start += len(block)


def _size_to_continue(file: IO[bytes], longest: int) -> int:
    """Return the size of a partial file; one that has ``longest`` bytes or more is truncated to 0."""
    size = os.fstat(file.fileno()).st_size
    if size < longest:
        return size
    file.truncate(0)
    return 0
