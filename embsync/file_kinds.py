"""Kinds of files: regular files, directories, links and others."""

from __future__ import annotations

import os
import stat

_KINDS = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISLNK, "link"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
)


def file_kind(status: os.stat_result) -> str:
    """Return the kind of the file with this status: file, directory, link, FIFO, socket or device."""
    return next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "device")
