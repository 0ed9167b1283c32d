"""A full disk, too little memory, and a store that disappears."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from daemons import PATIENCE, RESCAN, Place, eventually, memory_group
from support import forkserver
from support.disk import mounted
from support.nights import night
from support.stores import assert_intact

from embsync.config import Config, WatchConfig
from embsync.daemon.job import Job
from embsync.daemon.ownership import StoreLostError, only_daemon
from embsync.daemon.report import DaemonState, StatusWriter
from embsync.daemon.worker import Worker
from embsync.errors import StoreError
from embsync.store import Store
from embsync.watching.backlog import Entry
from embsync.watching.discovery import Child
from embsync.watching.scanner import Scanner


def test_publishing_resumes_after_a_full_disk(place: Place) -> None:
    """It is retried with growing pauses, as status reports; a completely full disk damages nothing either."""
    disk = place.file.parent / "disk"
    disk.mkdir()
    filler = disk / "filler"
    place.configure(store={"path": "disk/store"})
    place.store = Store(disk / "store", wait=20.0)
    place.drop(1)
    with mounted(disk, "24m"):
        with place.daemon() as process:
            place.wait_for(1)
            fill(filler, leave=2 << 20)
            place.drop(2)
            eventually(lambda: len(place.logged("error")) >= 3)
            status = place.wait_state("retrying")
            assert status["retry"]["snapshot"] == "day=2"
            assert "space" in status["last_error"]["what"]
            fill(filler, leave=0)
            failed = len(place.logged("error"))
            eventually(lambda: len(place.logged("error")) > failed)
            assert process.poll() is None
            assert assert_intact(place.store.root) == 1
            filler.unlink()
            place.wait_for(2)
            assert place.wait_state("idle")["retry"] is None
        gaps = [later - earlier for earlier, later in pairwise(map(seconds, place.logged("error")[:3]))]
        assert all(gap >= RESCAN * 2**tries for tries, gap in enumerate(gaps))
        assert assert_intact(place.store.root) == 2
        place.assert_at_rest()


def test_a_snapshot_that_uses_all_memory_is_set_aside(place: Place) -> None:
    """The kernel kills the worker, not the daemon; after three crashes, the next snapshot is handled."""
    # A small snapshot takes 23 MiB and this one 406, without libraries if they are loaded before the fork.
    limit = 200 if os.environ.get(forkserver.SWITCH) == "0" else 80
    with memory_group(limit << 20) as group:
        entering = f"import os, runpy; open({str(group)!r}, 'w').write(str(os.getpid()))"
        run = "runpy.run_module('embsync', run_name='__main__', alter_sys=True)"
        place.command = [sys.executable, "-m", "support.script", f"{entering}; {run}"]
        with place.daemon():
            assert_set_aside(place)
    assert all("SIGKILL" in line["reason"] for line in place.logged("crashed"))


@pytest.mark.torture
def test_a_snapshot_whose_allocations_fail_is_set_aside(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed allocation in the worker counts as a crash too."""
    # A forked process has less of its address space left than an executed one: a thread cannot be started there.
    monkeypatch.setenv("PYTEST_FORK_COMMANDS", "0")
    with place.daemon(), limited_workers(place, 160_000):
        assert_set_aside(place)
    assert all("memory" in line["reason"] for line in place.logged("crashed"))


@contextlib.contextmanager
def limited_workers(place: Place, more: int) -> Iterator[None]:
    """Limit the address space of each worker to this many KiB more than the first one uses while it waits."""
    first = int(eventually(place.worker))
    sizes = [0, -1]
    while sizes[-1] != sizes[-2]:  # until it has loaded its modules
        time.sleep(0.3)
        sizes.append(int(field(first, "VmSize").split()[0]))
    limit = (sizes[-1] + more) << 10
    ended = threading.Event()

    def watch() -> None:
        seen: set[int | None] = {None}
        while not ended.wait(0.002):
            worker = place.worker()
            if worker not in seen:
                seen.add(worker)
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(int(worker or 0), resource.RLIMIT_AS, (limit, limit))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        time.sleep(0.1)
        yield
    finally:
        ended.set()
        thread.join()


def assert_set_aside(place: Place) -> None:
    """Write a snapshot whose rows alone are too large; assert that the same daemon publishes the next one."""
    place.drop(1, night(1, items=200_000, users=2_000, width=128))
    failed = eventually(lambda: place.events("failed"), 250)
    assert "set aside" in (failed[0].reason or "")
    place.drop(2)
    place.wait_for(2)
    assert place.process is not None
    assert place.process.poll() is None
    eventually(lambda: len(place.logged("crashed")) >= 3)
    assert len(place.logged("crashed")) == 3
    assert place.published() == ["day=2"]


#: Found by Python at its start; each attempt of the worker fails as if memory ran out.
_FAILING_WORKER = """
import sys

if "embsync.daemon.work" in sys.orig_argv:
    from embsync import errors, pipeline

    def publish_snapshot(*_):
        error = errors.SnapshotChanged("needs too much memory", found="9 GiB", expected="1", hint="add some")
        raise error from MemoryError()

    pipeline.publish_snapshot = publish_snapshot
"""


def test_a_snapshot_that_was_set_aside_keeps_the_details_of_its_last_error(place: Place) -> None:
    """What was found, what was expected and the hint are fields of the status and the log, as after each attempt."""
    (place.file.parent / "sitecustomize.py").write_text(_FAILING_WORKER)
    path = os.pathsep.join([str(place.file.parent), *filter(None, sys.path)])
    place.drop(1)
    with place.daemon(**{forkserver.SWITCH: "0", "PYTHONPATH": path}):
        (line,) = eventually(lambda: place.logged("set_aside"))
        eventually(lambda: "set aside" in (place.status().get("last_error") or {}).get("what", ""))
    assert len(place.logged("crashed")) == 3
    for fields in (*place.logged("crashed"), line, place.status()["last_error"]):
        assert (fields["found"], fields["expected"], fields["hint"]) == ("9 GiB", "1", "add some")


_LESS_LIKELY = [pytest.param(how, marks=pytest.mark.torture) for how in ("renamed", "lock deleted")]


@pytest.mark.parametrize("how", ["deleted", "replaced", *_LESS_LIKELY])
def test_the_daemon_ends_when_its_store_disappears(place: Place, how: str) -> None:
    """The daemon reports it, exits with 5 and writes nothing to a replaced store; a restart opens the new one."""
    place.drop(1)
    other = place.file.parent / "other"
    with place.daemon() as process:
        place.wait_for(1)
        place.wait_state("idle")
        if how == "deleted":
            eventually(lambda: deleted(place.store.root))
        elif how == "lock deleted":
            (place.store.root / "daemon.lock").unlink()
        else:
            place.store.root.rename(other)
        if how == "replaced":
            place.store.root.mkdir()
        assert process.wait(PATIENCE) == 5
    assert len(place.logged("store_lost")) == 1
    assert "moved or replaced while its daemon was running" in place.log.read_text().splitlines()[-1]
    if how == "replaced":
        assert list(place.store.root.iterdir()) == []
    if how == "renamed":
        other.rename(place.store.root)
        with place.daemon():
            place.drop(2)
            place.wait_for(2)


@pytest.mark.parametrize("report", [1, 2])
@pytest.mark.parametrize("moment", ["before the check", "after it"])
def test_each_report_is_written_only_to_the_store_that_was_locked(tmp_path: Path, report: int, moment: str) -> None:
    """The store may be replaced before or after any check: nothing is written to the directory that replaced it."""
    store = Store(tmp_path / "store")
    store.create()
    scanner = Scanner(Config(watch=WatchConfig(path=tmp_path)), store, lambda: None)
    checks = itertools.count(1)

    def replaced() -> None:
        store.root.rename(tmp_path / "other")
        store.root.mkdir()

    with contextlib.closing(scanner), only_daemon(store) as ownership:

        def require() -> None:
            steps = [replaced, ownership.require] if moment == "before the check" else [ownership.require, replaced]
            for step in steps if next(checks) == report else [ownership.require]:
                step()

        with pytest.raises(StoreLostError if moment == "before the check" else StoreError):
            StatusWriter(store).write(DaemonState("idle", "idle", scanner), require)
    assert list(store.root.iterdir()) == []
    assert (tmp_path / "other/status.json").exists() == (report == 2)
    assert not (tmp_path / "other/metrics.prom").exists()


def test_the_queue_survives_trouble_with_the_store(place: Place) -> None:
    """With ``watch.backlog: every``, none is set aside because of the store; after the repair, all are published."""
    with place.daemon():
        place.drop(1)
        place.wait_for(1)
        aside = place.file.parent / "aside"
        place.store.versions.rename(aside)
        place.store.versions.touch()
        for number in (2, 3):
            place.drop(number)
        place.wait_state("retrying")
        eventually(lambda: (place.status()["retry"] or {}).get("attempts", 0) >= 2)
        assert place.status()["queue"] == ["day=2", "day=3"]
        place.store.versions.unlink()
        aside.rename(place.store.versions)
        place.wait_for(2, 3)
    assert place.published() == ["day=1", "day=2", "day=3"]
    assert place.events("failed") == []


@pytest.mark.torture
def test_a_snapshot_that_never_fits_does_not_block_the_queue(root: Path) -> None:
    """After ten failed attempts the next one is tried; once it is published, the first is skipped."""
    disk = root / "disk"
    disk.mkdir()
    place = Place(root, rescan_seconds=0.005)
    place.configure(store={"path": "disk/store"})
    place.store = Store(disk / "store", wait=20.0)
    place.drop(1, night(1, items=20_000, users=2_000, width=32))
    place.drop(2)
    with mounted(disk, "8m"), place.daemon():
        place.wait_for(2)
        assert len(place.logged("error")) >= 10
        eventually(lambda: place.status()["state"] == "idle")
        assert place.status()["retry"] is None
        assert place.published() == ["day=2"]


def test_stalled_work_is_ended(place: Place) -> None:
    """A worker without progress counts as crashed after ``stall_seconds``."""
    place.store.create()
    folder = place.drop(1, night(1, items=40_000, users=2_000, width=32))
    place.configure(index={"factory": "HNSW32"})
    entry = Entry(Child("day=1", folder, "ready", "marker", None, 0), "next", "marker")
    job = Job(place.store.root, msgspec.convert(place.settings, Config), entry)
    worker = Worker(lambda: None, stall_seconds=3600.0)
    worker.begin(job, time.monotonic())
    try:
        eventually(lambda: worker.poll(time.monotonic()) is None and worker.step)
        pid = worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        hours = itertools.count(time.monotonic(), 3601.0)  # its earlier messages are read first
        outcome = eventually(lambda: worker.poll(next(hours)))
        assert (outcome.kind, outcome.what) == ("crashed", "made no progress for 3600 s")
        assert not Path(f"/proc/{pid}").exists()
    finally:
        worker.kill()


def deleted(root: Path) -> bool:
    """Delete a directory to which a process may be writing; return whether it is gone."""
    shutil.rmtree(root, ignore_errors=True)
    return not root.exists()


def fill(path: Path, leave: int) -> None:
    """Fill a file system until this number of bytes is free."""
    free = os.statvfs(path.parent)
    size = path.stat().st_size if path.exists() else 0
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, size + free.f_bavail * free.f_frsize - leave)


def seconds(line: dict[str, str]) -> float:
    """Return the time of a log line, in seconds."""
    return dt.datetime.fromisoformat(line["time"]).timestamp()


def field(process: int, name: str) -> str:
    """Return a field of a process's status."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines)[name].strip()
