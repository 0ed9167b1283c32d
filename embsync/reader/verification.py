"""Verify a version: compare the hash of every file with the manifest before the version is served."""

from __future__ import annotations

from collections.abc import Callable, Collection

from embsync.file_hashes import mismatch
from embsync.reader.version import Version
from embsync.store.records import damaged_file


def verify(
    version: Version, stopped: Callable[[], bool] = lambda: False, *, below: str = "", without: Collection[str] = ()
) -> None:
    """Hash every file of a version, or those below one of its directories.

    Parameters
    ----------
    version : Version
    stopped : callable
        Called every few milliseconds; True stops the work.
    below : str
        The directory, such as ``transform/``; default: all files.
    without : collection of str
        Files to leave out.

    Raises
    ------
    StoreDamaged
        A file is missing, or its size or hash differs from the manifest.
    Stopped
        ``stopped`` returned True.
    """
    for entry in version.record.files:
        if entry.path.startswith(below) and entry.path not in without:
            wrong = mismatch(version.path, entry, stopped)
            if wrong is not None:
                raise damaged_file(version.path, entry, wrong)
