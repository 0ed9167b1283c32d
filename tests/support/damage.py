"""Damage to files of a store, one place at a time, and a store to damage."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nights import configured, night, write_npy

from embsync.config import Config
from embsync.errors import EmbsyncError
from embsync.pipeline import CheckRefusedError
from embsync.pipeline.entry import publish_entry
from embsync.store import Store
from embsync.watching.backlog import Entry, survey

SIZES = {"items": 60, "users": 50, "width": 4}


def config_of(directory: Path, **more: object) -> Config:
    """Return the configuration of a store in ``directory``, beside the directory it watches."""
    return configured(watch__path=str(directory / "watch"), watch__backlog="every", watch__complete="marker", **more)


def drop(directory: Path, number: int) -> Path:
    """Write a complete snapshot to the watched directory."""
    path = write_npy(directory / "watch" / f"day={number}", night(number, **SIZES))
    (path / "_SUCCESS").touch()
    return path


def waiting(root: Path, directory: Path) -> list[Entry]:
    """Return the entries of the watched directory that the store has not handled."""
    return survey(Store(root), config_of(directory)).queue


def next_night(root: Path, directory: Path) -> Counter[str]:
    """Handle what waits, as the daemon's worker does; return the number of each outcome."""
    ended: Counter[str] = Counter()
    for entry in waiting(root, directory):
        try:
            publish_entry(Store(root), entry, config_of(directory))
        except EmbsyncError as error:
            ended[type(error).__name__] += 1
        else:
            ended["published"] += 1
    return ended


def build(directory: Path, nights: int = 3) -> Path:
    """Make a store that watches a directory: versions of its nights, and then a refused night."""
    root = directory / "S"
    for number in range(1, nights + 1):
        drop(directory, number)
        assert next_night(root, directory) == {"published": 1}
    drop(directory, nights + 1)
    (entry,) = waiting(root, directory)
    with pytest.raises(CheckRefusedError):
        publish_entry(Store(root), entry, config_of(directory, checks={"rows_items": {"refuse": 10_000}}))
    return root


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Change one bit of a file, in a new inode, so that copies linked to the old one stay unchanged."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.unlink()
    path.write_bytes(data)


def files_of(root: Path) -> Iterator[Path]:
    """Yield the files of a store."""
    for folder, _, names in os.walk(root):
        yield from (Path(folder, name) for name in sorted(names) if not Path(folder, name).is_symlink())


def copy(source: Path, target: Path) -> Path:
    """Copy a store quickly: large files, which are never written to, are linked."""
    shutil.rmtree(target, ignore_errors=True)
    immutable = source / "versions"

    def link_or_copy(old: str, new: str) -> str:
        if Path(old).is_relative_to(immutable):
            os.link(old, new)
            return new
        return shutil.copy2(old, new)

    shutil.copytree(source, target, symlinks=True, copy_function=link_or_copy)
    return target
