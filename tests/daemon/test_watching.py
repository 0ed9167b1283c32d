"""The daemon finds the next snapshot, however its watch on the directory is lost."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from daemons import OBEYING, RESCAN, Place, eventually
from support.disk import mounted
from support.nights import night
from support.trees import deep
from support.waiting import next_tick

from embsync.store.removal import remove_tree

#: Runs the daemon with a fault that cannot be caused from outside.
FAULTY = "import runpy, sys; {} sys.argv[0] = 'embsync'; runpy.run_module('embsync', run_name='__main__')"


def test_a_snapshot_is_handled_after_an_event_without_a_rescan(root: Path) -> None:
    """A snapshot is published although the next rescan is a day away."""
    place = Place(root, rescan_seconds=86_400.0)
    with place.daemon():
        place.wait_state("idle")
        eventually(lambda: place.status()["watch"]["health"] == "events")
        folder = place.drop(1, marker=False)
        eventually(lambda: place.status()["waiting"] == {"day=1": "the marker _SUCCESS"})
        (folder / "_SUCCESS").touch()
        place.wait_for(1)


def test_existing_snapshots_are_published_in_order(place: Place) -> None:
    """A backlog is published in natural order; an incomplete snapshot waits, with the reason in the status."""
    for number in (10, 9, 2):
        place.drop(number)
    place.drop(11, marker=False)
    with place.daemon():
        place.wait_for(2, 9, 10)
        status = eventually(lambda: (found := place.status())["state"] == "idle" and found)
    assert place.published() == ["day=2", "day=9", "day=10"]
    assert status["waiting"] == {"day=11": "the marker _SUCCESS"}
    place.assert_at_rest()


@pytest.mark.parametrize("order", ["name", "mtime"])
def test_no_older_snapshot_is_published_when_the_newest_is_deleted(root: Path, order: str) -> None:
    """Nothing that comes before a handled snapshot is published, even if that snapshot is deleted."""
    place = Place(root, backlog="newest", order=order)
    for number in (1, 2, 3):
        place.drop(number)
    with place.daemon():
        place.wait_for(3)
        place.wait_state("idle")
        shutil.rmtree(place.watch / "day=3")
        place.wait_looks()
        place.drop(4)
        place.wait_for(4)
    assert place.published() == ["day=3", "day=4"]


def test_the_watched_directory_may_be_missing_at_the_start(place: Place) -> None:
    """The daemon reports the state blind, and notices when the directory appears."""
    place.remove_root()
    with place.daemon():
        assert place.wait_state("blind")["watch"]["health"] == "missing"
        place.watch.mkdir()
        place.drop(1)
        place.wait_for(1)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("a file", "Not a directory"),
        ("closed", "Permission denied"),
        ("a circle", "Too many levels of symbolic links"),
    ],
)
def test_a_watched_directory_that_cannot_be_listed_counts_as_missing(place: Place, how: str, reason: str) -> None:
    """The directory counts as missing, logged once, until it can be listed, although the kernel can watch a file."""
    place.command = OBEYING
    with place.daemon():
        place.wait_state("idle")
        if how == "closed":
            place.watch.chmod(0)
        else:
            place.remove_root()
            if how == "a file":
                place.watch.write_text("not a directory")
            else:
                place.watch.symlink_to(place.watch.name)
        eventually(lambda: place.status()["watch"]["reason"] == reason)
        place.wait_looks(4)
        assert place.status()["state"] == "blind"
        if how == "closed":
            place.watch.chmod(0o755)
        else:
            place.watch.unlink()
            place.watch.mkdir()
        place.drop(1)
        place.wait_for(1)
    assert sum(line["reason"] == reason for line in place.logged("watch")) == 1


def test_an_unreadable_snapshot_is_waited_for(place: Place) -> None:
    """It waits with the reason in the status; warnings of libraries are logged as JSON lines too."""
    place.command = OBEYING
    folder = place.drop(1)
    folder.chmod(0)
    place.drop(2, marker=False).chmod(0)
    with place.daemon():
        eventually(lambda: "Permission denied" in place.status().get("waiting", {}).get("day=1", ""))
        folder.chmod(0o755)
        place.wait_for(1)
    assert all(line.startswith("{") for line in place.log.read_text().splitlines())


def test_the_watched_directory_may_be_deleted_and_recreated(place: Place) -> None:
    """The watch is armed again on the new directory, whose snapshots are found."""
    with place.daemon():
        place.drop(1)
        place.wait_for(1)
        place.remove_root()
        place.wait_state("blind")
        place.watch.mkdir()
        eventually(lambda: place.status()["watch"]["armed"] == 2)
        place.drop(2)
        place.wait_for(2)


def test_the_watched_directory_may_be_renamed_and_replaced(place: Place) -> None:
    """Changes in the directory that was moved away are ignored."""
    with place.daemon():
        place.drop(1)
        place.wait_for(1)
        place.replace_root("aside")
        shutil.copytree(place.watch.parent / "aside" / "day=1", place.watch.parent / "aside" / "day=7")
        place.drop(2)
        place.wait_for(2)
        assert "day=7" not in place.published()


def test_the_watched_directory_may_be_a_changing_link(place: Place) -> None:
    """The current target of the link is watched."""
    for name in ("one", "two"):
        (place.watch.parent / name).mkdir()
    place.watch.rmdir()
    place.watch.symlink_to("one")
    with place.daemon():
        place.drop(1)
        place.wait_for(1)
        place.watch.unlink()
        place.watch.symlink_to("two")
        place.drop(2)
        place.wait_for(2)


def test_a_mount_over_the_watched_directory_is_noticed(place: Place) -> None:
    """Snapshots are found on the file system that is mounted there, and in the old directory after it is unmounted."""
    with place.daemon():
        place.drop(1)
        place.wait_for(1)
        with mounted(place.watch, "16m"):
            place.drop(2)
            place.wait_for(2)
        place.drop(3)
        place.wait_for(3)


def test_an_overflow_of_the_event_queue_loses_nothing(place: Place) -> None:
    """Snapshots are found although their events exceeded the kernel's limit and were dropped."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    litter = place.watch / "litter"
    litter.mkdir()
    with place.daemon():
        place.drop(1)
        place.wait_for(1)
        place.send(signal.SIGSTOP)  # so that the queue is not read
        for number in range(limit + 1):  # each write causes at least one event
            (litter / str(number % 100)).write_bytes(b"x")
        shutil.rmtree(litter)
        place.drop(2)
        place.send(signal.SIGCONT)
        place.wait_for(2)
        place.drop(3)
        place.wait_for(3)


def test_a_name_that_is_not_utf_8_stops_nothing(place: Place) -> None:
    """Bytes that are not UTF-8 in names are escaped, and do not affect other snapshots."""
    stray = Path(os.fsdecode(b"\xff\xfe"))
    with place.daemon() as process:
        (place.watch / stray).mkdir()
        folder = place.drop(1, marker=False)
        place.send(signal.SIGSTOP)  # otherwise the daemon may find the marker before the newer file
        (folder / "_SUCCESS").touch()
        next_tick(folder / "_SUCCESS")
        (folder / stray).write_bytes(b"newer than the marker")
        place.send(signal.SIGCONT)
        eventually(lambda: "\\udcff" in place.status().get("waiting", {}).get("day=1", ""))
        place.drop(2)
        place.wait_for(2)
        assert process.poll() is None
        shown = json.loads(place.run("status", "--json").stdout)["snapshots"]
        assert ("\\udcff\\udcfe", "not_a_snapshot") in {(entry["name"], entry["state"]) for entry in shown}
    assert place.run("sync", str(place.watch / stray)).returncode == 3


def test_a_failed_event_handler_is_replaced(place: Place) -> None:
    """If the thread that dispatches events ends with an exception, the watch is armed again."""
    place.command = [
        sys.executable,
        "-m",
        "support.script",
        FAULTY.format(
            "import embsync.watching.events as w; real = w._EventHandler.on_any_event; once = [True];"
            "w._EventHandler.on_any_event = lambda self, event: 1 // 0 if once and once.pop() else real(self, event);"
        ),
    ]
    with place.daemon():
        eventually(lambda: place.status().get("watch", {}).get("armed") == 1)
        (place.watch / "anything").mkdir()
        eventually(lambda: place.status()["watch"]["armed"] == 2)
        place.drop(1)
        place.wait_for(1)
        assert place.status()["watch"]["health"] == "events"
    assert "ZeroDivisionError" in place.log.read_text()


#: Enters a user namespace in which the kernel allows three inotify watches.
_FEW_WATCHES = """
import ctypes, os
from pathlib import Path
CLONE_NEWUSER = 0x10000000
maps = {"setgroups": "deny", "uid_map": "0 %d 1" % os.getuid(), "gid_map": "0 %d 1" % os.getgid()}
assert ctypes.CDLL(None).unshare(CLONE_NEWUSER) == 0
for name, text in maps.items():
    Path("/proc/self", name).write_text(text)
Path("/proc/sys/user/max_inotify_watches").write_text("3")
"""


def test_reaching_the_inotify_limit_is_harmless(place: Place) -> None:
    """Snapshots in directories that cannot be watched are found by the rescan."""
    if subprocess.run([sys.executable, "-c", _FEW_WATCHES], capture_output=True, check=False).returncode != 0:
        pytest.skip("no namespace of users with a limit of its own can be made here")
    for number in range(5):
        place.drop(number, marker=False)
    place.command = [sys.executable, "-m", "support.script", FAULTY.format(f"exec({_FEW_WATCHES!r});")]
    with place.daemon():
        place.wait_state("idle")
        for number in range(5):
            (place.watch / f"day={number}" / "_SUCCESS").touch()
            place.wait_for(number)
        place.drop(5)
        place.wait_for(5)
        assert place.status()["watch"]["armed"] <= 3


def test_without_events_the_rescan_finds_everything(place: Place) -> None:
    """Without kernel watches, as on a network file system, rescans find everything, and status reports the reason."""
    place.command = [
        sys.executable,
        "-m",
        "support.script",
        FAULTY.format(
            "from watchdog.observers.api import BaseObserver;"
            "BaseObserver.start = lambda self: (_ for _ in ()).throw(OSError(28, 'inotify watch limit reached'));"
        ),
    ]
    with place.daemon():
        watch = eventually(lambda: place.status().get("watch"))
        assert (watch["health"], watch["reason"]) == ("rescan", "inotify watch limit reached")
        place.drop(1)
        place.wait_for(1)


def test_a_burst_of_files_causes_one_scan(place: Place) -> None:
    """A snapshot is published even if its events are lost among those of 12,000 files."""
    place.drop(1)
    with place.daemon() as process:
        place.wait_for(1)
        litter = place.watch / "_litter"
        litter.mkdir()
        for number in range(12_000):
            (litter / str(number)).touch()
        place.drop(2)
        place.wait_for(2)
        place.wait_state("idle")

        def calm() -> bool:
            used, begin, looks = processor_seconds(process.pid), time.monotonic(), place.looks()
            place.wait_looks(5)
            passed = time.monotonic() - begin
            # no scans for earlier events
            return (
                processor_seconds(process.pid) - used < 0.25 * passed and place.looks() - looks <= 2 + passed / RESCAN
            )

        eventually(calm)


def test_a_slow_writer_through_a_memory_map_is_waited_for(root: Path) -> None:
    """A file of full size with an old time is not complete while it is open for writing."""
    place = Place(root, complete="settled", settle_seconds=0.3)
    made = night(1)
    folder = place.drop(1, made, marker=False)
    items = np.load(folder / "items.npy")
    (folder / "items.npy").unlink()
    mapped = np.lib.format.open_memmap(folder / "items.npy", "w+", items.dtype, items.shape)
    with place.daemon():
        eventually(lambda: "closed by its writer" in place.status().get("waiting", {}).get("day=1", ""))
        mapped[:] = items
        mapped.flush()
        assert place.published() == []
        del mapped
        place.wait_for(1)


def test_contents_that_do_not_match_the_manifest_are_waited_for(root: Path) -> None:
    """A snapshot whose hashes differ waits; another is published meanwhile, and it is too once it is corrected."""
    place = Place(root, complete="auto")
    folder = place.drop(2, marker=False)
    list_files(folder, sha256="0" * 64)
    begin = time.monotonic()
    with place.daemon():
        eventually(lambda: "differs from the manifest" in place.status().get("waiting", {}).get("day=2", ""))
        list_files(place.drop(1, marker=False))
        place.wait_for(1)
        place.wait_looks()
        assert place.published() == ["day=1"]
        list_files(folder)
        place.wait_for(2)
    # Each wait is as long as all previous ones together, and at least one rescan interval.
    assert len(place.logged("incomplete")) <= 2 + math.log2(max((time.monotonic() - begin) / RESCAN, 1.0))


def test_contents_changed_in_place_are_a_new_snapshot(root: Path) -> None:
    """Changed values in a file with the same name and size are found."""
    place = Place(root, settle_seconds=0.5)
    folder = place.drop(1)
    with place.daemon():
        place.wait_for(1)
        overwrite(folder / "items.npy")
        eventually(lambda: len(place.published()) == 2)


def list_files(folder: Path, **changes: object) -> None:
    """Write manifest.json with the snapshot's files, atomically."""
    files = [
        {
            "path": file.name,
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            **changes,
        }
        for file in sorted(folder.glob("*.npy"))
    ]
    (folder / "manifest.json.tmp").write_text(json.dumps({"files": files}))
    (folder / "manifest.json.tmp").rename(folder / "manifest.json")


def overwrite(path: Path) -> None:
    """Change the last value of a file in place."""
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(0.5).tobytes())


def processor_seconds(process: int) -> float:
    """Return the processor time of a process, without its children."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def test_very_deep_trees_do_not_stop_the_daemon(place: Place) -> None:
    """Snapshots beside trees that exist at the start or are moved in later are published by the same daemon."""
    deep(place.watch / "bottomless", 1200)
    place.drop(1)
    try:
        with place.daemon() as process:
            place.wait_for(1)
            assert "too deep" in place.status()["watch"]["reason"] or place.status()["watch"]["health"] == "events"
            deep(place.file.parent / "elsewhere", 3000).rename(place.watch / "abyss")
            place.drop(2)
            place.wait_for(2)
            assert process.poll() is None
            assert place.events("failed", "refused") == []
        assert place.process is not None
        assert place.process.returncode == 0
        output = place.run("status", "--json").stdout
        assert "directories nested too deeply" in output
    finally:
        for name in ("bottomless", "abyss"):
            remove_tree(place.watch / name)
