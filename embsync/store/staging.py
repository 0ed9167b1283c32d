"""A version being written: its files are written, synced, read back and hashed before readers see them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import mmap
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from embsync.dtypes import Array
from embsync.errors import StoreError
from embsync.file_hashes import FileEntry, forget_pages, hash_file
from embsync.store.durable import close, exchange, lock_new, require_same, sync_directory
from embsync.store.modes import correct_file, create_file, make_directory
from embsync.store.removal import STAGING_PREFIX, remove_tree

_READ_BYTES = 4 * 2**20
#: Mean bytes per run of consecutive rows from which they are written by ``pwrite``. Each page written through the map
#: causes a page fault, and another when the file is synced: for 307 MB, 0.072 s of processor time instead of 0.042 s.
_WRITTEN_AT_LEAST = 2**13
_SEALED_AT_ONCE = 2
#: Error numbers if hard links are unsupported, exhausted, or would cross file systems.
_NO_LINKS = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})


class ArrayFile:
    """An ``.npy`` file of known shape, filled in any order by any thread, then sealed.

    Space is reserved first, so that a full disk raises an error here instead of SIGBUS at a mapped page.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        header = _npy_header(shape, dtype)
        self._path = path
        self._bytes = len(header) + int(np.prod(shape)) * dtype.itemsize
        self._sum = 0
        self._lock = threading.Lock()
        self._descriptor = create_file(path)
        try:
            mapped = self._reserved()
        except BaseException:
            self.close()
            raise
        mapped[: len(header)] = header
        self._header = header
        self._row_bytes = (self._bytes - len(header)) // max(shape[0], 1)
        #: The mapped array; written only through :meth:`put`.
        self.array: Array = np.frombuffer(mapped, dtype, offset=len(header)).reshape(shape)

    def _reserved(self) -> mmap.mmap:
        """Reserve the space and map it."""
        os.posix_fallocate(self._descriptor, 0, self._bytes)
        if (size := os.fstat(self._descriptor).st_size) != self._bytes:
            raise StoreError(
                "the reserved space is missing",
                where=self._path,
                found=f"{size} bytes",
                expected=f"{self._bytes} bytes",
                hint="the disk or its driver is faulty",
            )
        return mmap.mmap(self._descriptor, self._bytes)

    def close(self) -> None:
        """Close the file: nothing more can be put."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            close(descriptor)

    def put(self, rows: Array | slice, block: Array) -> None:
        """Write rows; every row of the file must be written exactly once."""
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        data = np.ascontiguousarray(block, self.array.dtype).reshape(len(numbers), -1)
        ends = [*(np.flatnonzero(np.diff(numbers) != 1) + 1), len(numbers)]
        if len(ends) * _WRITTEN_AT_LEAST <= data.nbytes:
            for start, end in pairwise([0, *ends]):
                self._write(int(numbers[start]), data[start:end])
        else:
            self.array[rows] = block
        total = _row_sum(data, numbers)
        with self._lock:
            self._sum = (self._sum + total) % 2**64

    def _write(self, row: int, data: Array) -> None:
        """Write consecutive rows, without mapping their pages."""
        rest, place = data.reshape(-1).view(np.uint8).data, len(self._header) + row * self._row_bytes
        while rest:
            written = os.pwrite(self._descriptor, rest, place)
            rest, place = rest[written:], place + written

    def seal(self, root: Path) -> FileEntry:
        """Sync the file, read it back, compare it with the rows that were put, and return its entry."""
        self.close()
        total, rows = 0, 0
        width = max(self._row_bytes, 1)
        buffer = np.empty(max(_READ_BYTES // width, 1) * width, np.uint8)
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
            forget_pages(file)
            header = file.read(len(self._header))
            digest = hashlib.sha256(header)
            while count := file.readinto(buffer.data):
                digest.update(buffer[:count].data)
                part = buffer[: count // width * width].reshape(-1, width)
                total = (total + _row_sum(part, np.arange(rows, rows + len(part)))) % 2**64
                rows += len(part)
            size = file.tell()
        if header != self._header or size != self._bytes or total != self._sum:
            raise StoreError(
                "the file does not read back as written",
                where=self._path,
                found=f"{size} bytes",
                expected=f"{self._bytes} bytes with the header and rows that were put",
                hint="the disk or its driver is faulty",
            )
        return FileEntry(str(self._path.relative_to(root)), size, digest.hexdigest())


class Staging:
    """A temporary directory beside the versions, invisible to readers until it is moved into place.

    It is locked while its process lives, so that a sweep never removes it while it is in use.
    """

    def __init__(self, versions: Path, prefix: str = STAGING_PREFIX) -> None:
        self._use(*_own_directory(versions, prefix))

    def _use(self, path: Path, descriptor: int) -> None:
        """Use an open directory, whose descriptor is closed when it is kept or removed."""
        self.path = path
        self._descriptor = descriptor
        self._arrays: list[ArrayFile] = []
        self._entries: list[FileEntry] = []
        self._failed = threading.Event()
        self._pool = ThreadPoolExecutor(_SEALED_AT_ONCE, "embsync-seal")  # hashing overlaps with waiting for the disk
        self._sealing: list[Future[FileEntry]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> ArrayFile:
        """Create an array file, to be filled."""
        file = ArrayFile(self._place(name), shape, np.dtype(dtype))
        self._arrays.append(file)
        return file

    def save(self, name: str, array: Array) -> None:
        """Write an array."""
        contiguous = np.ascontiguousarray(array)
        with self.stream(name) as write:
            write(_npy_header(contiguous.shape, contiguous.dtype))
            write(contiguous.reshape(-1).view(np.uint8).data)

    def link(self, entry: FileEntry, version: Path) -> None:
        """Add a file of another version, known to match its entry, by a hard link or as a copy."""
        source, target = version / entry.path, self._place(entry.path)
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with source.open("rb") as file, self.stream(entry.path) as write:
                while block := file.read(_READ_BYTES):
                    write(block)
            if self._entries[-1] != entry:
                raise StoreError(
                    "a file changed while it was copied",
                    where=source,
                    found=f"sha256 {self._entries[-1].sha256}",
                    expected=entry.sha256,
                ) from None
        else:
            self._entries.append(entry)

    def adopt(self, path: Path, entry: FileEntry) -> None:
        """Move a file here that another process has written, synced, read back and hashed; check only its size."""
        target = self._place(entry.path)
        if (size := path.stat().st_size) != entry.bytes:
            raise StoreError(
                "the file changed after it was written",
                where=path,
                found=f"{size} bytes",
                expected=f"{entry.bytes} bytes",
            )
        path.rename(target)
        descriptor = os.open(target, os.O_RDONLY)
        try:
            correct_file(descriptor, target)
        finally:
            close(descriptor)
        self._entries.append(entry)

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[Callable[[bytes | memoryview], None]]:
        """Yield a function that appends to a new file; at the end, the file is synced, read back and compared."""
        path = self._place(name)
        digest = hashlib.sha256()
        with open(create_file(path), "rb+") as file:  # noqa: PTH123  (a descriptor)

            def write(data: bytes | memoryview) -> None:
                digest.update(data)
                file.write(data)

            yield write
            file.flush()
            os.fsync(file.fileno())
        size, found = hash_file(path, drop_cache=True)
        if found != digest.hexdigest():
            raise StoreError(
                "the file does not read back as written",
                where=path,
                found=f"sha256 {found}",
                expected=digest.hexdigest(),
                hint="the disk or its driver is faulty",
            )
        self._entries.append(FileEntry(name, size, found))

    def start_sealing(self) -> None:
        """Start to seal the array files in the background; nothing more may be put into them."""
        self._sealing += [self._pool.submit(self._seal, file) for file in self._arrays]
        self._arrays.clear()

    def seal(self) -> list[FileEntry]:
        """Make every file durable and return their entries, sorted by path."""
        self.start_sealing()
        self._entries += [one.result() for one in self._sealing]
        self._sealing.clear()
        return sorted(self._entries, key=lambda entry: entry.path)

    def _seal(self, file: ArrayFile) -> FileEntry:
        if self._failed.is_set():  # files are started in order, so the first error is the one that is raised
            raise StoreError("not sealed, because another file could not be", where=self.path)
        try:
            return file.seal(self.path)
        except BaseException:
            self._failed.set()
            raise

    def move(self, target: Path, rename: Callable[[Path, Path], object] = Path.rename) -> None:
        """Move the directory to its final name; until :meth:`keep` it may still be discarded."""
        for folder, _, _ in os.walk(self.path):
            sync_directory(Path(folder))
        rename(self.path, target)
        self.path = target
        require_same(target, self._descriptor)
        sync_directory(target.parent)

    def replace(self, target: Path, first: str) -> None:
        """Replace another directory, whose contents are removed, by this one.

        The two are exchanged atomically if the file system supports it. Otherwise the files are renamed into
        ``target`` one by one, ``first`` before the others, and other files are removed last: the name always exists,
        and ``first`` shows that it is incomplete.
        """
        if not exchange(self.path, target):
            names = sorted((path.name for path in self.path.iterdir()), key=lambda name: (name != first, name))
            for name in names:
                if (target / name).is_dir() and not (target / name).is_symlink():
                    remove_tree(target / name)
                (self.path / name).replace(target / name)
                sync_directory(target)
            for path in target.iterdir():
                if path.name not in names:
                    remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            sync_directory(target)
        sync_directory(target.parent)

    def keep(self) -> None:
        """Keep the directory: :meth:`discard` no longer removes it."""
        self._failed.set()
        self._pool.shutdown(cancel_futures=True)
        descriptor, self._descriptor = self._descriptor, -1
        close(descriptor)

    def discard(self) -> None:
        """Remove the directory, wherever it was moved, unless it is kept."""
        if self._descriptor >= 0:
            self._failed.set()
            self._pool.shutdown(cancel_futures=True)
            for file in self._arrays:
                file.close()
            self._arrays.clear()
            with contextlib.suppress(OSError):
                remove_tree(self.path)
            self.keep()

    def _place(self, name: str) -> Path:
        path = self.path / name
        if not path.parent.is_dir():
            make_directory(path.parent)
        return path


def _own_directory(versions: Path, prefix: str) -> tuple[Path, int]:
    """Create a staging directory and lock it; if a sweep removes it in between, create another."""
    while True:
        path = versions / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            make_directory(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            if lock_new(descriptor):
                return path, descriptor


def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def _row_sum(rows: Array, numbers: Array) -> int:
    """Return a sum over rows, each weighted by its number, which detects both lost and misplaced rows."""
    data = rows.view(np.uint8)
    word = next(word for word in (np.uint64, np.uint32, np.uint8) if data.shape[1] % np.dtype(word).itemsize == 0)
    words: Array = data.view(word)
    weighted = words.sum(axis=1, dtype=np.uint64) * (numbers.astype(np.uint64) + np.uint64(1))
    return int(weighted.sum(dtype=np.uint64))
