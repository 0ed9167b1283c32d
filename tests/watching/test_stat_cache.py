"""What the cache detects, and what it costs."""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from support.nights import night, write_npy
from support.waiting import next_tick

from embsync.watching.stat_cache import StatCache

#: Nanoseconds after which everything in the directory counts as changed long ago.
LATER = 60 * 10**9


def settled(root: Path) -> StatCache:
    """Return a cache that has seen a directory twice without a change."""
    cache = StatCache()
    assert cache.changed(str(root), time.time_ns() + LATER)
    assert not cache.changed(str(root), time.time_ns() + LATER)
    return cache


def append(path: Path) -> None:
    """Make a file longer."""
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    """Change bytes in place and restore the mtime, as a copy that preserves times does."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"\x94")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file appears": lambda day: (day / "_SUCCESS").touch(),
    "a file goes": lambda day: (day / "users.npy").unlink(),
    "a file grows": lambda day: append(day / "items.npy"),
    "a file is overwritten and its times put back": lambda day: overwrite(day / "items.npy"),
    "a file is replaced": lambda day: (
        shutil.copy2(day / "items.npy", day / ".new") and (day / ".new").rename(day / "items.npy")
    ),
    "a file appears deep down": lambda day: (day / "deep" / "part").touch(),
    "a child appears": lambda day: (day.parent / "day=2").mkdir(),
    "a child goes": shutil.rmtree,
    "a child is renamed": lambda day: day.rename(day.parent / "day=3"),
}


@pytest.mark.parametrize("files", [0, 3000])
@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_detected(root: Path, what: str, files: int) -> None:
    """Names, sizes and contents at any depth are covered, in a snapshot of few or many files."""
    day = write_npy(root / "day=1", night(1))
    (day / "deep").mkdir()
    for number in range(files):
        (day / f"part-{number}").touch()
    cache = settled(root)
    next_tick(day / "items.npy")
    CHANGES[what](day)
    assert cache.changed(str(root), time.time_ns() + LATER)
    assert not cache.changed(str(root), time.time_ns() + LATER)


def test_a_recent_change_is_rechecked_until_it_settles(root: Path) -> None:
    """Two changes within one tick of the clock have the same time, so the end of the tick counts as a change."""
    write_npy(root / "day=1", night(1))
    cache = StatCache()
    assert cache.changed(str(root), time.time_ns())
    assert not cache.changed(str(root), time.time_ns())
    assert cache.changed(str(root), time.time_ns() + LATER)
    assert not cache.changed(str(root), time.time_ns() + LATER)


def test_entries_that_cannot_be_snapshots_are_not_inspected(root: Path) -> None:
    """Changes in the scratch directory of a job are ignored."""
    (root / "_temporary").mkdir()
    cache = settled(root)
    (root / "_temporary" / "part").touch()
    assert not cache.changed(str(root), time.time_ns() + LATER)


def test_a_child_of_many_files_takes_little_memory_and_no_full_scan(root: Path) -> None:
    """Twelve thousand files are remembered as one digest, and an unchanged child is not reported."""
    (root / "day=1").mkdir()
    for number in range(12_000):
        (root / "day=1" / f"part-{number}").touch()
    tracemalloc.start()
    try:
        cache = settled(root)
        own = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/watching/stat_cache.py")])
        assert sum(trace.size for trace in own.traces) < 100_000
    finally:
        tracemalloc.stop()
    assert not cache.changed(str(root), time.time_ns() + LATER)


def test_one_change_affects_one_child(root: Path) -> None:
    """Only changed children are reported, however many others there are."""
    for number in range(3):
        write_npy(root / f"day={number}", night(number))
    cache = settled(root)
    append(root / "day=1" / "items.npy")
    assert cache.changed(str(root), time.time_ns() + LATER)
    assert cache.changed_names == {"day=1"}


def test_a_different_directory_shares_no_entries(root: Path) -> None:
    """After a link is switched to a new target, children of the same names count as different."""
    for place in ("a", "b"):
        write_npy(root / place / "day=1", night(1))
    cache = settled(root / "a")
    assert cache.changed(str(root / "b"), time.time_ns() + LATER)
    assert cache.changed_names == {"day=1"}
    append(root / "b" / "day=1" / "items.npy")
    assert cache.changed(str(root / "b"), time.time_ns() + LATER)


def test_a_thousand_old_snapshots_cost_milliseconds(root: Path) -> None:
    """With a rescan every 15 s, 30 ms of processor time are 0.2 % of a core."""
    first = write_npy(root / "day=0", night(0))
    (first / "_SUCCESS").touch()
    for number in range(1, 1000):
        shutil.copytree(first, root / f"day={number}", copy_function=os.link)
    cache = settled(root)
    files = [path for path in root.rglob("*") if path.is_file()]
    cost, least = [], []
    for _ in range(7):
        begin = time.process_time()
        assert not cache.changed(str(root), time.time_ns() + LATER)
        middle = time.process_time()
        for file in files:
            os.stat(file)  # noqa: PTH116
        cost.append(middle - begin)
        least.append(time.process_time() - middle)
    assert min(cost) < max(0.030, 3 * min(least))  # a slow machine: three times the cost of one stat per file
