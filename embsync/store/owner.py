"""Whose a store is: what another user leaves in it, its owner can neither prune nor replace."""

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


def owner_to_be(root: Path) -> int | None:
    """Return the user that a change must be made by, where that is another one than the present.

    A store that is not there yet belongs to whoever makes it. Only root must not make one for another user, in whose
    directory it would lie. A store that is made for a group may be changed by all of the group: each can delete what
    another one left.
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
    """Return a user's name, or the number as sudo takes it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def act_as(root: Path, owner: int) -> None:
    """Be the owner of a store for good, with the groups of that user; of root's rights the one to read is kept.

    So what is made belongs to the owner, and a snapshot that root alone may read can still be named by root.
    Processes that are started have no right of root.

    Raises
    ------
    UsageError
        We are not root.
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
    # Effective, permitted and inheritable, twice: capabilities have 64 bits. Without it only less can be read.
    libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0))


def reject_stranger(root: Path, owner: int, hint: Hint) -> None:
    """Raise UsageError: the present user is not the one who may change the store."""
    raise UsageError(
        "the store is another user's",
        where=root,
        found=name_of(os.geteuid()),
        expected=f"its owner, as by sudo -u {name_of(owner)}; or root with --as-owner",
        hint=hint,
    )
