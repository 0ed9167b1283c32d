"""Directories too deep for any path, and chains of links."""

from __future__ import annotations

import os
from pathlib import Path


def deep(path: Path, levels: int, name: str = "d") -> Path:
    """Make nested directories, with a file in the innermost."""
    path.mkdir(parents=True, exist_ok=True)
    here = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("items.npy", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    return path


def chain(path: Path, links: int, target: Path) -> Path:
    """Make links that point to one another, the last of them to a target."""
    for number in range(links):
        path.with_name(f"{path.name}-{number}").symlink_to(target)
        target = path.with_name(f"{path.name}-{number}")
    path.symlink_to(target)
    return path
