"""What is taken out of a store: versions that nobody reads, and what dead processes left behind."""

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
_RETIRED = re.compile(rf"{re.escape(PRUNED_PREFIX)}([0-9]+)-[0-9a-f]{{8}}")


def retire_version(path: Path) -> Path | None:
    """Take a version that nobody reads out of sight durably; return where it is to be deleted, None when in use."""
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
