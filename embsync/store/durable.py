"""The only module that syncs, renames and links: every durable change of a store is made here.

Order of a publish: write, fsync each file, read it back and hash it, fsync the directories, rename the staging
directory into place, fsync, replace the link by rename, fsync. Measured with simulated power cuts: 1,500 with
this order tore nothing; without the directory syncs 58 of 200 lost an acknowledged version.

Errors of ``close`` are passed over: what matters was fsynced before, and Linux has closed the descriptor all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import io
import mmap
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from embsync.dtypes import Array
from embsync.errors import OutOfSpace, StoreError
from embsync.invocation import command
from embsync.manifest import FileEntry, forget_pages, hash_file, store_of
from embsync.store.modes import correct_file, create_file, make_directory, open_to_readers

STAGING_PREFIX = ".staging-"
PRUNED_PREFIX = ".pruned-"
_LINK_PREFIX = ".current-"
#: What :func:`replace_file` and :func:`switch_link` leave when they are killed.
_TEMPORARY = re.compile(r"\..+-[0-9a-f]{8}")
_RETIRED = re.compile(rf"{re.escape(PRUNED_PREFIX)}([0-9]+)-[0-9a-f]{{8}}")
_READ_BYTES = 4 * 2**20
_SEALED_AT_ONCE = 2
#: Flags of renameat2(2), and AT_FDCWD.
_NO_REPLACE, _EXCHANGE, _WORKING_DIRECTORY = 1, 2, -100
#: What the operating system says of a disk without room.
FULL = (errno.ENOSPC, errno.EDQUOT)


class NotTakenBack(StoreError):
    """A line could not be appended durably, nor removed for certain: it may be there now, or after a crash."""


@contextlib.contextmanager
def storage_errors(where: str | Path) -> Iterator[None]:
    """Turn the operating system's errors into the store's own."""
    try:
        yield
    except OSError as error:
        place = error.filename or where
        if error.errno in FULL:
            raise OutOfSpace(
                "no space left in the store",
                where=place,
                hint=command(
                    "prune", purpose="free space, or lower store.keep_versions and prune", store=store_of(place)
                ),
            ) from error
        raise StoreError(
            "the store cannot be read or written", where=place, found=error.strerror or str(error)
        ) from error


@contextlib.contextmanager
def write_errors(what: str, where: str | Path) -> Iterator[None]:
    """Turn the operating system's errors about a file that is no store's into embsync's own."""
    try:
        yield
    except OSError as error:
        place = error.filename or where
        if error.errno in FULL:
            raise OutOfSpace(f"no space left for {what}", where=place) from error
        raise StoreError(f"{what} cannot be written", where=place, found=error.strerror or str(error)) from error


@contextlib.contextmanager
def taking_effect(effect: str, took_effect: Callable[[], bool], where: Path) -> Iterator[None]:
    """Have an error say so where the change is made all the same, but may not be durable."""
    try:
        yield
    except OSError as error:
        if not took_effect():
            raise
        raise StoreError(
            f"{effect}, but a crash may undo it",
            where=where,
            found=error.strerror or str(error),
            hint="look after the disk, then do it again",
        ) from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        close(descriptor)


def make_root(path: Path) -> None:
    """Make the directory of a store, and what leads there, durably; one that is there stays as it is."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        if folder == path:
            open_to_readers(path)
        sync_directory(folder.parent)


def close(descriptor: int) -> None:
    """Close a descriptor of which nothing more is expected."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


class ArrayFile:
    """An ``.npy`` file of known shape, filled in any order by any thread, then sealed.

    Space is reserved first, so that a full disk is an error here and not a fault in a mapped page.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        header = _npy_header(shape, dtype)
        self._path = path
        self._bytes = len(header) + int(np.prod(shape)) * dtype.itemsize
        self._sum = 0
        self._lock = threading.Lock()
        with open(create_file(path), "rb+") as file:  # noqa: PTH123  (a descriptor)
            os.posix_fallocate(file.fileno(), 0, self._bytes)
            if (size := os.fstat(file.fileno()).st_size) != self._bytes:
                raise StoreError(
                    "the space that was reserved is not there",
                    where=path,
                    found=f"{size} bytes",
                    expected=f"{self._bytes} bytes",
                    hint="the disk or its driver is faulty",
                )
            mapped = mmap.mmap(file.fileno(), self._bytes)
        mapped[: len(header)] = header
        self._header = header
        self._row_bytes = (self._bytes - len(header)) // max(shape[0], 1)
        #: The mapped array; read it freely, write through :meth:`put` alone.
        self.array: Array = np.frombuffer(mapped, dtype, offset=len(header)).reshape(shape)

    def put(self, rows: Array | slice, block: Array) -> None:
        """Write rows, each exactly once."""
        self.array[rows] = block
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        total = _row_sum(np.ascontiguousarray(block, self.array.dtype).reshape(len(numbers), -1), numbers)
        with self._lock:
            self._sum = (self._sum + total) % 2**64

    def seal(self, root: Path) -> FileEntry:
        """Sync the file, read it back, compare with what was put, and return its entry."""
        total, rows = 0, 0
        step = max(_READ_BYTES // max(self._row_bytes, 1), 1) * self._row_bytes
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
            forget_pages(file)
            header = file.read(len(self._header))
            digest = hashlib.sha256(header)
            while chunk := file.read(step or _READ_BYTES):
                digest.update(chunk)
                part = np.frombuffer(chunk, np.uint8, len(chunk) // self._row_bytes * self._row_bytes)
                part = part.reshape(-1, self._row_bytes)
                total = (total + _row_sum(part, np.arange(rows, rows + len(part)))) % 2**64
                rows += len(part)
            size = file.tell()
        if header != self._header or size != self._bytes or total != self._sum:
            raise StoreError(
                "what was written does not read back",
                where=self._path,
                found=f"{size} bytes",
                expected=f"{self._bytes} bytes with the header and rows that were put",
                hint="the disk or its driver is faulty",
            )
        return FileEntry(str(self._path.relative_to(root)), size, digest.hexdigest())


class Staging:
    """A directory in the making beside the versions; nothing in it is visible until it is moved.

    It is locked while its maker lives, so that a sweep never takes it from under a running command.
    """

    def __init__(self, versions: Path, prefix: str = STAGING_PREFIX) -> None:
        self.path, self._descriptor = _own_directory(versions, prefix)
        self._arrays: list[ArrayFile] = []
        self._entries: list[FileEntry] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> ArrayFile:
        """Create an array file to be filled."""
        file = ArrayFile(self._place(name), shape, np.dtype(dtype))
        self._arrays.append(file)
        return file

    def save(self, name: str, array: Array) -> None:
        """Write a whole array."""
        contiguous = np.ascontiguousarray(array)
        with self.stream(name) as write:
            write(_npy_header(contiguous.shape, contiguous.dtype))
            write(contiguous.reshape(-1).view(np.uint8).data)

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[Callable[[bytes | memoryview], None]]:
        """Give a function that appends to a new file; on leaving, the file is synced, read back and compared."""
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
                "what was written does not read back",
                where=path,
                found=f"sha256 {found}",
                expected=digest.hexdigest(),
                hint="the disk or its driver is faulty",
            )
        self._entries.append(FileEntry(name, size, found))

    def seal(self) -> list[FileEntry]:
        """Make every file durable and return their entries, by path."""
        failed = threading.Event()

        def seal(file: ArrayFile) -> FileEntry:
            if failed.is_set():  # files start in order, so the error that is raised is the one that came first
                raise StoreError("not sealed, because another file could not be", where=self.path)
            try:
                return file.seal(self.path)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(_SEALED_AT_ONCE) as pool:  # hashing and waiting for the disk overlap
            self._entries += pool.map(seal, self._arrays)
        self._arrays.clear()
        return sorted(self._entries, key=lambda entry: entry.path)

    def move(self, target: Path, rename: Callable[[Path, Path], object] = Path.rename) -> None:
        """Move the directory into place under its final name; until :meth:`keep` it may still be discarded."""
        for folder, _, _ in os.walk(self.path):
            sync_directory(Path(folder))
        rename(self.path, target)
        self.path = target
        _require_same(target, self._descriptor)
        sync_directory(target.parent)

    def replace(self, target: Path, first: str) -> None:
        """Put the directory, which could not be moved, in the place of another, which is removed.

        The two are exchanged in one step where the file system can. Elsewhere the files are renamed into ``target`` one
        by one, ``first`` before the others, and what is not of this directory is removed last: there is always
        something under the name, and ``first`` tells that it is not whole.
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
        """Let go of the directory: it is no longer this one's to remove."""
        descriptor, self._descriptor = self._descriptor, -1
        close(descriptor)

    def discard(self) -> None:
        """Remove the directory, wherever it is by now, unless it was kept."""
        if self._descriptor >= 0:
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
    """Make a staging directory and lock it; a sweep may take it in between, then make another."""
    while True:
        path = versions / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            make_directory(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            if _own(descriptor):
                return path, descriptor


def _own_file(path: Path) -> tuple[Path, int]:
    """Make a temporary file beside ``path`` and lock it, in the same way."""
    while True:
        fresh = path.parent / f".{path.name}-{secrets.token_hex(4)}"
        descriptor = create_file(fresh)
        if _own(descriptor):
            return fresh, descriptor


def _own(descriptor: int) -> bool:
    """Lock what was just made; False, and closed, when a sweep was faster."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return True
    except BaseException:
        close(descriptor)
        raise
    close(descriptor)
    return False


def _require_same(path: Path, descriptor: int) -> None:
    """Raise unless a path leads to what is open: a rename that returned without an error may have done nothing."""
    if not os.path.samestat(path.stat(), os.fstat(descriptor)):
        raise OSError(errno.EIO, "a rename did nothing", str(path))


def exchange(one: Path, other: Path) -> bool:
    """Exchange what two names stand for in one step; False where the file system or the kernel cannot."""
    return _renameat2(one, other, _EXCHANGE)


def rename_to_free(path: Path, target: Path) -> None:
    """Rename to a name where nothing is; FileExistsError where something is, an empty directory too."""
    if _renameat2(path, target, _NO_REPLACE):
        return
    if os.path.lexists(target):  # a file system without the flag: somebody may come in between
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    path.rename(target)


def _renameat2(one: Path, other: Path, flag: int) -> bool:
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_WORKING_DIRECTORY, os.fsencode(one), _WORKING_DIRECTORY, os.fsencode(other), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
        return False
    raise OSError(code, os.strerror(code), str(other))


def switch_link(link: Path, target: str) -> None:
    """Point a symbolic link at ``target``, replacing the old one by rename.

    After an error it may point to either: read it.
    """
    fresh = link.parent / f"{_LINK_PREFIX}{secrets.token_hex(4)}"
    try:
        fresh.symlink_to(target)
        fresh.replace(link)
    except BaseException:
        _discard(fresh)
        raise
    if link.readlink() != Path(target):
        raise OSError(errno.EIO, "a rename did nothing", str(link))
    sync_directory(link.parent)


def remove_link(link: Path) -> None:
    """Take a link away durably."""
    link.unlink(missing_ok=True)
    sync_directory(link.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file as a whole: beside it, synced, read back, renamed over it, synced."""
    fresh, descriptor = _own_file(path)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
        _require_contents(descriptor, 0, data, path)
        fresh.replace(path)
        _require_same(path, descriptor)
    except BaseException:
        _discard(fresh)
        raise
    finally:
        close(descriptor)
    sync_directory(path.parent)


def remove_file(path: Path) -> None:
    """Take a small file away durably."""
    path.unlink()
    if path.exists():
        raise OSError(errno.EIO, "a removal did nothing", str(path))
    sync_directory(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Append one line durably, or leave the file as it was; a torn last line of an earlier crash is closed first.

    Raises
    ------
    OSError
        The line is not there.
    NotTakenBack
        It is not known whether it is there, or will be after a crash.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        correct_file(descriptor, path)
        end = os.fstat(descriptor).st_size
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
            _require_contents(descriptor, end, data, path)
            if end == 0:  # also one that was left empty: nobody may have made its name durable
                sync_directory(path.parent)
        except BaseException as error:
            _take_back(descriptor, end, path, error)
            raise
    finally:
        close(descriptor)


def _take_back(descriptor: int, end: int, path: Path, error: BaseException) -> None:
    """Cut a file back to what it was, durably."""
    try:
        os.ftruncate(descriptor, end)
        os.fdatasync(descriptor)
        left = os.fstat(descriptor).st_size
        if left != end:
            raise OSError(errno.EIO, f"{left} bytes after it was cut back to {end}", str(path))
    except OSError as second:
        raise NotTakenBack(
            "a line could neither be written nor taken back",
            where=path,
            found=f"{error}, then {second}",
            hint="look after the disk",
        ) from error


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _require_contents(descriptor: int, start: int, data: bytes, path: Path) -> None:
    """Raise unless a file reads ``data`` from ``start`` to its end."""
    found = b""
    while chunk := os.pread(descriptor, len(data) + 1 - len(found), start + len(found)):
        found += chunk
    if found != data:
        raise OSError(errno.EIO, "what was written does not read back", str(path))


def _discard(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # left behind, it is swept by the next command
        temporary.unlink(missing_ok=True)


def retire_version(path: Path) -> Path | None:
    """Take a version that nobody reads out of sight durably; return where it is to be deleted, None when in use."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        doomed = path.parent / f"{PRUNED_PREFIX}{path.name}-{secrets.token_hex(4)}"
        path.rename(doomed)
        _require_same(doomed, descriptor)
        sync_directory(path.parent)
    except BlockingIOError:
        return None
    finally:
        close(descriptor)
    return doomed


def remove_version(path: Path) -> bool:
    """Delete a version nobody reads; False when a reader holds it."""
    doomed = retire_version(path)
    if doomed is not None:
        remove_tree(doomed)
    return doomed is not None


def remove_unpublished(path: Path) -> bool:
    """Delete a version that was moved into place and never switched to; False when somebody holds it.

    Its new name says by itself that it was never published. No sync comes in between: file systems that keep a journal
    keep the order of what is done to names.
    """
    with _claimed(path) as ours:
        if ours:
            doomed = path.parent / f"{STAGING_PREFIX}{path.name}-{secrets.token_hex(4)}"
            path.rename(doomed)
            remove_tree(doomed)
        return ours


def retired_numbers(versions: Path) -> list[int]:
    """Return the numbers of pruned versions whose deletion was not finished, ascending."""
    found = (_RETIRED.fullmatch(path.name) for path in versions.iterdir())
    return sorted(int(match[1]) for match in found if match)


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it, however deep: what lies in its directories is moved up to it first."""
    try:
        shutil.rmtree(path)
    except RecursionError:
        pass
    except OSError as error:
        if error.errno not in {errno.EMFILE, errno.ENAMETOOLONG}:  # a handle or a name for each level
            raise
    else:
        return
    while folders := [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]:
        for folder in folders:
            for name in os.listdir(folder):  # noqa: PTH208
                os.rename(f"{folder}/{name}", path / f"{secrets.token_hex(8)}")  # noqa: PTH104
            os.rmdir(folder)  # noqa: PTH106
    shutil.rmtree(path)


def delete(path: Path) -> bool:
    """Delete a directory that nobody needs; False where it is another user's to delete, which must hold nothing up."""
    try:
        remove_tree(path)
    except PermissionError:
        return False
    return True


def leftovers(versions: Path) -> list[str]:
    """Return the names of pruned versions that could not be deleted, or are being deleted now."""
    return sorted(path.name for path in versions.iterdir() if path.name.startswith(PRUNED_PREFIX))


def sweep_staging(folder: Path, prefix: str) -> None:
    """Remove the staging directories of dead processes that begin with ``prefix``, as far as one may."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(prefix):
            with _claimed(path) as ours:
                if ours:
                    delete(path)


def sweep(root: Path, versions: Path) -> list[str]:
    """Remove what dead processes left behind, as far as one may; return the names."""
    removed = []
    for path in sorted(versions.iterdir()):
        if path.name.startswith((STAGING_PREFIX, PRUNED_PREFIX)):
            with _claimed(path) as ours:
                if ours and delete(path):
                    removed.append(path.name)
    for path in sorted(root.iterdir()):
        if path.is_symlink():
            if path.name.startswith(_LINK_PREFIX):
                path.unlink(missing_ok=True)
                removed.append(path.name)
        elif _TEMPORARY.fullmatch(path.name) and path.is_file():
            with _claimed(path) as ours:
                if ours:
                    path.unlink(missing_ok=True)
                    removed.append(path.name)
    return removed


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Hold the lock of something whose maker is dead; False when he lives, or has finished with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True  # with the lock held, or its maker would lock and use what is being removed
    finally:
        close(descriptor)


def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def _row_sum(rows: Array, numbers: Array) -> int:
    """Return a sum over rows, each weighted by its number, so that neither a lost nor a misplaced row goes unseen."""
    data = rows.view(np.uint8)
    word = next(word for word in (np.uint64, np.uint32, np.uint8) if data.shape[1] % np.dtype(word).itemsize == 0)
    words: Array = data.view(word)
    weighted = words.sum(axis=1, dtype=np.uint64) * (numbers.astype(np.uint64) + np.uint64(1))
    return int(weighted.sum(dtype=np.uint64))
