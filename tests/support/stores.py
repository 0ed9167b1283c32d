"""What tests check in a store on disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from support.nights import Night, configured, night, write_npy
from support.quick import quick_directory

import embsync
from embsync.config import Config
from embsync.errors import EmbsyncError
from embsync.manifest import Manifest
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store, layout

#: Everything that a store may contain when no process is writing.
AT_REST = {"versions", "current", "journal.jsonl", "lock"}
#: Every file of a version with two sides, except its manifest.
VERSION_FILES = layout.version_files(two_sided=True) | {layout.NEIGHBOURS, "items/moments.npy", "users/moments.npy"}


def assert_at_rest(root: Path, *more: str) -> None:
    """Assert that a store has only final files: no staging directory, no stray link, and only files of a manifest."""
    assert {path.name for path in root.iterdir()} <= AT_REST | set(more)
    for folder in (root / "versions").iterdir():
        assert folder.name.isdigit(), f"left behind: {folder.name}"
        named = {entry.path for entry in Store(root).manifest(int(folder.name)).files}
        named |= {"manifest.json", "manifest.sha256"}
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert found == named


def assert_intact(root: Path) -> int:
    """Assert that the current version opens, matches its manifest, and can be searched; return its number."""
    with embsync.open(root) as reader:
        version = reader.current
        assert Store(root).damaged_files(version.number) == []
        queries = version.items if version.users is None else version.users
        ids, scores = version.search(queries.vectors[:3], k=4)
        assert ids.shape == scores.shape == (3, 4)
        return version.number


def snapshot_of(root: Path) -> dict[str, bytes | str]:
    """Return every name, file and link of a tree, to detect changes."""
    tree: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            tree[name] = str(path.readlink())
        elif path.is_file():
            tree[name] = path.read_bytes()
        else:
            tree[name] = ""
    return tree


def sync(root: Path, made: Night, name: str, config: Config | None = None, **request: Any) -> Manifest:
    """Write a night beside a store, publish it, and return its manifest."""
    path = write_npy(root.parent / "snapshots" / name, made)
    return publish_snapshot(Store(root, wait=20.0), Request(path, **request), config or configured())


@contextlib.contextmanager
def published_nights(count: int, config: Config | None = None, **sizes: int) -> Iterator[Path]:
    """Yield a store in memory with ``count`` published nights, named n0, n1 and so on."""
    with quick_directory() as directory:
        for number in range(count):
            sync(directory / "S", night(number, **sizes), f"n{number}", config)
        yield directory / "S"


def publish_for_ever(root: str, snapshots: list[str], first: int, reported: Connection) -> None:
    """Publish one snapshot after the other until the disk fails; send each version, and when it was published.

    Defined here because a test that runs it in another process must be able to import it.
    """
    config = configured(store__keep_versions=2)
    with contextlib.suppress(EmbsyncError, OSError):
        for turn in range(first, first + 1000):
            version = publish_snapshot(
                Store(Path(root)), Request(Path(snapshots[turn % len(snapshots)])), config
            ).version
            reported.send((version, time.monotonic()))


@contextlib.contextmanager
def running(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run Python code in another process, which is killed on leaving the context if it still runs."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "support.script", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            yield child
        finally:
            child.kill()


def next_line(child: subprocess.Popen[str]) -> str:
    """Return the next line a process prints."""
    assert child.stdout is not None
    return child.stdout.readline().strip()
