"""Removal of versions that are not in use, and of leftovers of dead processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from embsync.store.durable import LINK_PREFIX, TEMPORARY, close, require_same, sync_directory

STAGING_PREFIX = ".staging-"
PRUNED_PREFIX = ".pruned-"
#: Versions being received from another host; the next pull resumes or removes them.
RECEIVED_PREFIX = ".received-"
#: Attempts to remove a directory that is not empty; on a network file system it stays so while a file in it is open.
_MOST_COLLISIONS = 100
_RETIRED = re.compile(rf"{re.escape(PRUNED_PREFIX)}([0-9]+)-[0-9a-f]{{8}}")


def retire_version(path: Path) -> Path | None:
    """Hide a version durably, so that it can be deleted; return its new path, or None if a reader uses it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        doomed = path.parent / f"{PRUNED_PREFIX}{path.name}-{secrets.token_hex(4)}"
        path.rename(doomed)
        require_same(doomed, descriptor)
        sync_directory(path.parent)
    except BlockingIOError:
        return None
    finally:
        close(descriptor)
    return doomed


def remove_unpublished(path: Path) -> bool:
    """Delete a version that was moved into place but never became current; return False if it is in use.

    Its new name shows that it was never published. There is no sync in between: journaling file systems preserve the
    order of renames.
    """
    with _claimed(path) as ours:
        if ours:
            doomed = path.parent / f"{STAGING_PREFIX}{path.name}-{secrets.token_hex(4)}"
            path.rename(doomed)
            remove_tree(doomed)
        return ours


def retired_numbers(versions: Path) -> list[int]:
    """Return the numbers of pruned versions whose deletion is unfinished, ascending."""
    found = (_RETIRED.fullmatch(path.name) for path in versions.iterdir())
    return sorted(int(match[1]) for match in found if match)


def remove_tree(path: Path) -> None:
    """Remove a directory tree of any depth; other processes may remove the same tree meanwhile."""
    collisions = 0
    while os.path.lexists(path):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:  # removed by another process; each attempt leaves less
            continue
        except RecursionError:
            _flatten(path)
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENAMETOOLONG}:  # each level takes a descriptor and a name
                _flatten(path)
            elif error.errno == errno.ENOTEMPTY and collisions < _MOST_COLLISIONS:  # another process flattens it
                collisions += 1
            else:
                raise


def _flatten(path: Path) -> None:
    """Move the entries of all subdirectories up to ``path``, as far as other processes have not removed them."""
    folders: list[str] | None = None
    while folders is None or folders:
        folders = []
        with contextlib.suppress(FileNotFoundError):
            folders = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(folder):  # noqa: PTH208
                    os.rename(f"{folder}/{name}", path / f"{secrets.token_hex(8)}")  # noqa: PTH104
                os.rmdir(folder)  # noqa: PTH106


def delete(path: Path) -> bool:
    """Delete an unneeded directory; return False, without an error, if only another user may."""
    try:
        remove_tree(path)
    except PermissionError:
        return False
    return True


def leftovers(versions: Path) -> list[str]:
    """Return the names of pruned versions that could not be deleted or are being deleted."""
    return sorted(path.name for path in versions.iterdir() if path.name.startswith(PRUNED_PREFIX))


def sweep_staging(folder: Path, prefix: str) -> None:
    """Remove the staging directories of dead processes whose names begin with ``prefix``, where permitted."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(prefix):
            with _claimed(path) as ours:
                if ours:
                    delete(path)


def sweep(root: Path, versions: Path) -> list[str]:
    """Remove the leftovers of dead processes, where permitted; return their names."""
    removed = []
    for path in sorted(versions.iterdir()):
        if path.name.startswith((STAGING_PREFIX, PRUNED_PREFIX)):
            with _claimed(path) as ours:
                if ours and delete(path):
                    removed.append(path.name)
    for path in sorted(root.iterdir()):
        if path.is_symlink():
            if path.name.startswith(LINK_PREFIX):
                path.unlink(missing_ok=True)
                removed.append(path.name)
        elif TEMPORARY.fullmatch(path.name) and path.is_file():
            with _claimed(path) as ours:
                if ours:
                    path.unlink(missing_ok=True)
                    removed.append(path.name)
    return removed


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Lock a leftover of a dead process and yield True; False if its process is alive or has finished with it."""
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
            yield True  # the lock stays held, so that no process starts to use what is being removed
    finally:
        close(descriptor)
