"""Real power failures: an ext4 file system is shut down without writing its caches back, and mounted again.

A killed process does not test fsync, since the kernel still writes its data. A shutdown of the file system does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.disk import Disk
from support.nights import configured, night, write_npy
from support.stores import assert_intact, publish_for_ever
from support.waiting import PATIENCE

from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

_NIGHTS = 6


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    try:
        made = Disk(tmp_path)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a file system in a file cannot be made and mounted here: {error}")
    try:
        yield made
    finally:
        made.unmount()


@pytest.mark.parametrize("cuts", [4, pytest.param(200, marks=pytest.mark.torture)])
def test_an_acknowledged_publish_survives_a_power_cut(disk: Disk, tmp_path: Path, cuts: int) -> None:
    """After a cut at a random moment, ``current`` is intact and no older than the last version reported."""
    snapshots = [str(write_npy(tmp_path / f"n{n}", night(n, items=90, users=70))) for n in range(_NIGHTS)]
    chance = random.Random(5)
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(["support.stores"])
    root = disk.place / "S"
    reported = 0
    for turn in range(cuts):
        receiver, sender = fork.Pipe(duplex=False)
        publisher = fork.Process(target=publish_for_ever, args=(str(root), snapshots, turn, sender), daemon=True)
        publisher.start()
        sender.close()
        reported, _ = receiver.recv()  # at work
        time.sleep(chance.uniform(0.0, 0.4))
        cut = time.monotonic()
        disk.cut()
        publisher.join(PATIENCE)
        publisher.kill()
        publisher.join()
        with contextlib.suppress(EOFError):
            while True:
                version, at = receiver.recv()
                # After a real cut nothing is reported. Here the process lives on for a moment, and an fsync that
                # the shutdown overtakes may return 0: ext4 finds its transaction over, which jbd2 ended unrecorded.
                reported = version if at < cut else reported
        disk.unmount()
        disk.mount()
        assert assert_intact(root) >= reported
        assert {event.version for event in Store(root).journal.events() if event.event == "published"} >= {reported}
    assert publish_snapshot(Store(root), Request(Path(snapshots[0])), configured()).version > reported
