"""The owner of a store, who can neither prune nor replace files that other users create in it."""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
from pathlib import Path

from embsync.errors import Hint, UsageError
from embsync.store import layout
from embsync.store.durable import storage_errors

_ROOT = 0

# linux/prctl.h, linux/capability.h
_PR_SET_KEEPCAPS = 8
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_READ_SEARCH = 2


def required_owner(root: Path) -> int | None:
    """Return the uid of the user who must make a change, or None if the current user may.

    A new store belongs to the user who creates it, but root must not create one in another user's directory. The
    members of the group of a group-writable store may all change it: each can delete the others' files.
    """
    me = os.geteuid()
    with storage_errors(root):
        place = root
        if not (root / layout.VERSIONS).is_dir():
            if me != _ROOT:
                return None
            place = next(path for path in (root, *root.parents) if path.exists())
        found = place.stat()
    shared = bool(found.st_mode & stat.S_ISGID and found.st_mode & stat.S_IWGRP)
    if found.st_uid == me or (me != _ROOT and shared and found.st_gid in {os.getegid(), *os.getgroups()}):
        return None
    return found.st_uid


def name_of(uid: int) -> str:
    """Return a user's name, or the uid as ``sudo -u`` takes it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def act_as(root: Path, owner: int) -> None:
    """Become the owner of a store permanently, with that user's groups; keep only root's right to read.

    New files then belong to the owner, and root can still publish a snapshot that only root may read. Child processes
    have none of root's rights.

    Raises
    ------
    UsageError
        The current user is not root.
    """
    if os.geteuid() != _ROOT:
        raise UsageError(
            "only root can act as another user", where=root, found=name_of(os.geteuid()), expected=name_of(owner)
        )
    try:
        user = pwd.getpwuid(owner)
    except KeyError:
        group = root.stat().st_gid if root.exists() else os.getegid()
        os.setgroups([group])
    else:
        group = user.pw_gid
        os.initgroups(user.pw_name, group)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgid(group)
    os.setuid(owner)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    kept = 1 << _CAP_DAC_READ_SEARCH
    # Effective, permitted, inheritable, twice, since capabilities have 64 bits. On failure, fewer files can be read.
    libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0))


def reject_other_user(root: Path, owner: int, hint: Hint) -> None:
    """Raise UsageError: the current user may not change the store."""
    raise UsageError(
        "the store belongs to another user",
        where=root,
        found=name_of(os.geteuid()),
        expected=f"its owner (sudo -u {name_of(owner)}), or root with --as-owner",
        hint=hint,
    )
