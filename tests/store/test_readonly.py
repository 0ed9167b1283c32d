"""Readers on a read-only mount, and readers of a store that is replaced."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nights import night
from support.quick import quick_directory
from support.stores import assert_intact, sync

import embsync
from embsync.cli.main import run
from embsync.store import Store

SIZES = {"items": 60, "users": 50, "width": 4}


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A store on a read-only mount."""
    with quick_directory() as directory:
        for number in range(2):
            sync(directory / "store/S", night(number, **SIZES), f"n{number}")
        place = directory / "mount"
        place.mkdir()
        done = subprocess.run(["mount", "--bind", directory / "store", place], check=False, capture_output=True)
        if os.geteuid() != 0 or done.returncode:
            pytest.skip("mounting is not allowed here")
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
            yield place / "S"
        finally:
            subprocess.run(["umount", "-l", place], check=True)


def test_readers_work_on_a_read_only_mount(read_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Readers open, search and look up; commands that only read work, and those that write exit with 5 and one line."""
    assert assert_intact(read_only) == 2
    for command in (["status"], ["history"], ["show"], ["verify"]):
        assert run([*command, "--store", str(read_only)]) == 0, command
    capsys.readouterr()
    for command in (["rollback", "1"], ["prune"], ["hold"], ["widen", "6"]):
        assert run([*command, "--store", str(read_only)]) == 5, command
        assert "Read-only file system" in capsys.readouterr().err


def test_a_backup_restored_in_place_is_read_next() -> None:
    """An open version stays intact; the next refresh finds the backup, even though its number is lower."""
    with quick_directory() as directory:
        root = directory / "S"
        sync(root, night(0, **SIZES), "n0")
        shutil.copytree(root, directory / "backup", symlinks=True)
        sync(root, night(1, **SIZES), "n1")
        with embsync.open(root) as reader:
            held = reader.current
            vectors = held.items.vectors.tobytes()
            root.rename(directory / "broken")
            (directory / "backup").rename(root)
            assert held.items.vectors.tobytes() == vectors
            assert reader.refresh()
            assert reader.current.number == 1
            assert held.items.vectors.tobytes() == vectors
        assert sync(root, night(2, **SIZES), "n2").version == 2
        assert Store(root).numbers() == [1, 2]
