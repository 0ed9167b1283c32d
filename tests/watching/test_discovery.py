"""Contents of a watched directory: order, ignored names, evidence of completeness, and memory between scans."""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots.made import model, write_npy
from support.nights import configured
from support.waiting import next_tick

from embsync.config import SnapshotConfig, WatchConfig
from embsync.errors import NotFoundError, SnapshotError, SnapshotIncomplete
from embsync.pipeline.entry import publish_entry
from embsync.snapshots import stamp
from embsync.snapshots.files import Place
from embsync.snapshots.natural_order import natural_key
from embsync.store import Store
from embsync.watching.backlog import Entry
from embsync.watching.completeness import is_open_for_writing
from embsync.watching.discovery import Child, discover
from embsync.watching.source_manifest import verify_listed_files

SNAPSHOT = SnapshotConfig()
AT_ONCE = WatchConfig(settle_seconds=0)


def once(watched: Path, watch: WatchConfig = AT_ONCE, later: float = 0) -> dict[str, Child]:
    """Scan as if ``later`` seconds had passed since the last change."""
    changed = max((path.lstat().st_ctime for path in watched.rglob("*")), default=time.time())
    found = discover(watched, watch, SNAPSHOT, now=changed + 0.001 + later)
    return {child.name: child for child in found.children}


def states(children: dict[str, Child]) -> dict[str, tuple[str, str]]:
    """Return the state and reason of each child."""
    return {name: (child.state, child.reason) for name, child in children.items()}


def write_manifest(folder: Path, **changes: object) -> None:
    """Write a manifest.json with the files of a snapshot."""
    files = [
        {
            "path": str(file.relative_to(folder)),
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
    files[0] |= changes
    (folder / "manifest.json").write_text(json.dumps({"files": files, "made_by": "a test"}))


def test_snapshots_are_in_natural_order(tmp_path: Path) -> None:
    """Numbers sort by value, dates by date; leading zeros only matter between equals."""
    names = ["day=10", "day=9", "2026-01-02", "2026-01-01", "run-007", "run-7", "run-8", "a"]
    for name in names:
        write_npy(tmp_path / name, model(items=3, users=3))
    assert list(once(tmp_path)) == ["2026-01-01", "2026-01-02", "a", "day=9", "day=10", "run-007", "run-7", "run-8"]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=8), unique=True))
def test_natural_order_is_total(names: list[str]) -> None:
    """Any names can be compared, and no two different names are equal."""
    ordered = sorted(names, key=natural_key)
    assert all(natural_key(a) < natural_key(b) for a, b in pairwise(ordered))


def test_snapshots_are_in_order_of_time_if_configured(tmp_path: Path) -> None:
    """The time of a snapshot is that of its newest file, not of its directory."""
    for name, when in (("a", 3000), ("b", 1000), ("c", 2000)):
        write_npy(tmp_path / name, model(items=3, users=3))
        for file in (tmp_path / name).iterdir():
            os.utime(file, (when, when))
    assert list(once(tmp_path, WatchConfig(settle_seconds=0, order="mtime"))) == ["b", "c", "a"]


def test_a_child_that_is_not_a_snapshot_is_skipped_with_a_reason(tmp_path: Path) -> None:
    """Hidden and temporary names, links, FIFOs, and files of no known layout are never opened."""
    for name in (".hidden", "_temporary", "day=1.tmp", "day=1"):
        write_npy(tmp_path / name, model(items=3, users=3))
    (tmp_path / "latest").symlink_to("day=1")
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "README.txt").write_text("notes\n")
    (tmp_path / "train.log").touch()
    np.savez(tmp_path / "day=2.npz", items=np.ones((2, 2), np.float32), item_ids=np.arange(2))
    (tmp_path / "words.txt").write_text("1 2\na 1 2\n")
    (tmp_path / "empty").mkdir()
    assert states(once(tmp_path)) == {
        ".hidden": ("not_a_snapshot", "a name that begins with ."),
        "_temporary": ("not_a_snapshot", "a name that begins with _"),
        "day=1.tmp": ("not_a_snapshot", "a name that ends in .tmp"),
        "day=1": ("ready", "settled"),
        "latest": ("not_a_snapshot", "a link to day=1, which is handled under that name"),
        "fifo.npz": ("not_a_snapshot", "a FIFO"),
        "README.txt": ("not_a_snapshot", "not a file of a known layout"),
        "train.log": ("not_a_snapshot", "not a file of a known layout"),
        "day=2.npz": ("ready", "settled"),
        "words.txt": ("ready", "settled"),
        "empty": ("not_a_snapshot", "an empty directory"),
    }
    assert once(tmp_path)["day=1"].stamp == stamp(tmp_path / "day=1")


@pytest.mark.parametrize(
    ("name", "arrays", "state"),
    [
        ("eval/metrics.npz", {"recall": np.ones(9), "loss": np.float64(1), "epoch": np.arange(9)}, "not_a_snapshot"),
        ("metrics.npz", {"loss": np.ones(3)}, "not_a_snapshot"),
        ("eval/history.npz", {"num_users": np.int64(5), "auc": np.ones(4)}, "not_a_snapshot"),
        ("day=2/model.npz", {"item_factors": np.ones((9, 4)), "user_factors": np.ones((9, 4))}, "ready"),
        ("day=2/model.npz", {"arr_0": np.ones((9, 4)), "arr_1": np.arange(9)}, "ready"),
        ("day=2/model.npz", {"P": np.ones((9, 4)), "Q": np.ones((9, 4))}, "ready"),
        ("day=2/model.npz", {"embeddings": np.ones(36), "names": np.arange(9)}, "ready"),
        ("day=2/model.npz", {"item_ids": np.arange(9)}, "ready"),
        ("items.npz", {"x": np.ones(3)}, "ready"),
        ("day=2/items.npz", {"x": np.ones(3)}, "ready"),
    ],
)
def test_an_archive_without_arrays_of_a_side_is_not_a_snapshot(
    tmp_path: Path, name: str, arrays: dict[str, np.ndarray], state: str
) -> None:
    """A snapshot with a mistake still counts as one: the mistake is reported when it is opened."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    np.savez(tmp_path / name, **arrays)
    assert once(tmp_path)[name.partition("/")[0]].state == state


def test_a_missing_watched_directory_is_reported(tmp_path: Path) -> None:
    """A missing directory raises ``NotFoundError``, a file in its place ``SnapshotError``."""
    with pytest.raises(NotFoundError):
        once(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(SnapshotError):
        once(tmp_path / "file")


def test_a_snapshot_settles_while_nothing_changes(tmp_path: Path) -> None:
    """Every change restarts the period, even one that keeps names and sizes."""
    path = write_npy(tmp_path / "day=1", model())
    watch = WatchConfig(settle_seconds=30)

    def look(now: float, memory: dict) -> tuple[str, str, dict]:
        found = discover(tmp_path, watch, SNAPSHOT, now=now, memory=memory)
        return found.children[0].state, found.children[0].reason, found.memory

    state, reason, memory = look(100, {})
    assert (state, reason) == ("waiting", "30 more seconds without a change")
    state, reason, memory = look(115, memory)
    assert (state, reason) == ("waiting", "15 more seconds without a change")
    np.save(path / "items.npy", model(seed=8).items)
    assert look(130, memory)[:2] == ("waiting", "30 more seconds without a change")
    memory = look(130, memory)[2]
    assert look(159, memory)[0] == "waiting"
    assert look(160, memory)[:2] == ("ready", "settled")


def test_a_single_scan_uses_the_time_of_the_last_change(tmp_path: Path) -> None:
    """Without memory, inode change times are used; an old mtime, as preserved by a copy, is ignored."""
    path = write_npy(tmp_path / "day=1", model())
    for file in path.iterdir():
        os.utime(file, (1000, 1000))
    watch = WatchConfig(settle_seconds=30)
    assert once(tmp_path, watch)["day=1"].state == "waiting"
    assert once(tmp_path, watch, later=31)["day=1"].reason == "settled"


def test_a_marker_completes_at_once_at_the_root_or_in_every_side(tmp_path: Path) -> None:
    """Spark writes a marker into each side's directory; a side without one is incomplete or has not been started."""
    watch = WatchConfig(settle_seconds=1000)
    write_npy(tmp_path / "root", model())
    (tmp_path / "root" / "_SUCCESS").touch()
    for name, marked in (
        ("spark", ("metadata", "userFactors", "itemFactors")),
        ("half", ("metadata", "userFactors")),
        ("sides", ("items", "users")),
        ("one", ("items",)),
        ("unmarked", ()),
    ):
        for side in {"items", "users"} if name in {"sides", "unmarked"} else marked:
            (tmp_path / name / side).mkdir(parents=True)
            (tmp_path / name / side / "part-0.parquet").touch()
        for side in marked:
            (tmp_path / name / side / "_SUCCESS").touch()
    waiting = ("waiting", "1000 more seconds without a change")
    assert states(once(tmp_path, watch)) == {
        "root": ("ready", "marker"),
        "spark": ("ready", "marker"),
        "sides": ("ready", "marker"),
        "one": ("waiting", "1000 more seconds without a change, as users may follow the marked items"),
        "half": waiting,
        "unmarked": waiting,
    }
    assert once(tmp_path, watch, later=1001)["one"].reason == "marker"
    only = once(tmp_path, WatchConfig(complete="marker", settle_seconds=0))
    assert (only["half"].state, only["half"].reason) == ("waiting", "the marker _SUCCESS")
    assert only["root"].state == "ready"


def test_a_marker_older_than_the_data_is_not_trusted_at_once(tmp_path: Path) -> None:
    """If files are copied in the order of names, or overwritten in place, the snapshot must also settle."""
    path = write_npy(tmp_path / "latest", model())
    (path / "_SUCCESS").touch()
    assert once(tmp_path, WatchConfig(settle_seconds=50))["latest"].state == "ready"
    before = once(tmp_path)["latest"].stamp
    next_tick(path / "_SUCCESS")
    np.save(path / "users.npy", model(seed=9).users)
    overwritten = once(tmp_path, WatchConfig(settle_seconds=50))["latest"]
    assert overwritten.state == "waiting"
    assert "users.npy is newer than the marker" in overwritten.reason
    assert overwritten.stamp != before
    assert once(tmp_path, WatchConfig(settle_seconds=50), later=60)["latest"].reason == "marker"


LATE_DATA = {
    "a copy that keeps its old time": lambda file: os.utime(file, (1e9, 1e9)),
    "a file moved in": lambda file: shutil.copy2(file, file.with_name(".x")) and file.with_name(".x").rename(file),
    "an old file overwritten": lambda file: (file.write_bytes(file.read_bytes()), os.utime(file, (1e9, 1e9))),
}


@pytest.mark.parametrize("how", LATE_DATA)
@pytest.mark.parametrize("where", ["", "items"])
def test_marker_and_data_are_compared_by_their_change_times(tmp_path: Path, how: str, where: str) -> None:
    """``cp -p``, ``rsync -t`` and ``touch -d`` set mtimes; only the kernel sets the inode's change time."""
    watch = WatchConfig(settle_seconds=50)
    folder = tmp_path / "day=1" / where
    write_npy(folder, model())
    if where:
        (folder / "part-0.parquet").touch()
        (folder.parent / "users").mkdir()
        (folder.parent / "users" / "part-0.parquet").touch()
        (folder.parent / "users" / "_SUCCESS").touch()
    marker = folder / "_SUCCESS"
    marker.touch()
    os.utime(marker, (4e9, 4e9))
    assert once(tmp_path, watch)["day=1"].reason == "marker"
    next_tick(marker)
    LATE_DATA[how](folder / "items.npy")
    late = once(tmp_path, watch)["day=1"]
    assert (late.state, "is newer than the marker" in late.reason) == ("waiting", True), late.reason
    next_tick(folder / "items.npy")
    marker.unlink()
    marker.touch()
    os.utime(marker, (1e9, 1e9))
    assert once(tmp_path, watch)["day=1"].reason == "marker"


def test_the_name_of_the_marker_is_configurable(tmp_path: Path) -> None:
    """The name need not begin with an underscore."""
    path = write_npy(tmp_path / "day=1", model())
    watch = WatchConfig(complete="marker", marker="done.txt")
    assert once(tmp_path, watch)["day=1"].state == "waiting"
    (path / "done.txt").touch()
    assert once(tmp_path, watch)["day=1"].state == "ready"


def test_a_manifest_completes_when_sizes_agree(tmp_path: Path) -> None:
    """It is complete at once, without reading the files: hashes are compared when the snapshot is handled."""
    path = write_npy(tmp_path / "day=1", model())
    write_manifest(path)
    watch = WatchConfig(settle_seconds=1000)
    found = discover(tmp_path, watch, SNAPSHOT, now=1, memory={})
    assert (found.children[0].state, found.children[0].reason) == ("ready", "manifest")
    again = discover(tmp_path, watch, SNAPSHOT, now=2, memory=found.memory)
    assert again.children[0].state == "ready"
    assert once(tmp_path, WatchConfig(complete="manifest"))["day=1"].state == "ready"


@pytest.mark.parametrize(
    ("changes", "state", "message"),
    [
        ({"bytes": 10**9}, "waiting", "item_ids.npy: 2528 of 1000000000 bytes"),
        ({"path": "more.npy"}, "waiting", "more.npy: 0 of 2528 bytes"),
        (
            {"path": "../day=2/items.npy"},
            "not_a_snapshot",
            "not a path inside the snapshot; found '../day=2/items.npy'",
        ),
        ({"path": "/etc/passwd"}, "not_a_snapshot", "not a path inside the snapshot; found '/etc/passwd'"),
        ({"path": "./item_ids.npy"}, "not_a_snapshot", "not a path inside the snapshot"),
        ({"path": "items.npy"}, "not_a_snapshot", "listed twice"),
    ],
)
def test_a_snapshot_that_differs_from_its_manifest_waits(
    tmp_path: Path, changes: dict[str, object], state: str, message: str
) -> None:
    """Missing files and other sizes are waited for; paths outside the snapshot are never opened."""
    path = write_npy(tmp_path / "day=1", model())
    write_manifest(path, **changes)
    child = once(tmp_path)["day=1"]
    assert (child.state, message in child.reason) == (state, True), child.reason


@pytest.mark.parametrize("complete", ["auto", "manifest"])
def test_hashes_are_compared_wherever_a_manifest_is_evidence(tmp_path: Path, complete: str) -> None:
    """They are compared when the snapshot is handled; other contents are not published."""
    write_manifest(write_npy(tmp_path / "watch/day=1", model()), sha256="0" * 64)
    config = configured(watch__path=str(tmp_path / "watch"), watch__complete=complete)
    (child,) = once(tmp_path / "watch", config.watch).values()
    assert child.state == "ready"
    with pytest.raises(SnapshotIncomplete, match="item_ids"):
        publish_entry(Store(tmp_path / "S"), Entry(child, "next", child.reason), config)
    assert not (tmp_path / "S").exists()


@pytest.mark.parametrize("target", [b"\xff", b"deep/\xff"])
def test_a_link_to_a_name_that_is_not_utf_8_is_skipped_with_a_reason(tmp_path: Path, target: bytes) -> None:
    """The path could not be sent to the process that publishes."""
    path = tmp_path / os.fsdecode(target)
    write_npy(path, model(items=3, users=3))
    (tmp_path / "latest").symlink_to(path.relative_to(tmp_path))
    found = discover(tmp_path, AT_ONCE, SNAPSHOT, now=time.time(), memory={}).children
    (linked,) = (child for child in found if child.link == "latest")
    assert (linked.state, linked.reason) == ("not_a_snapshot", "a link to a name that is not UTF-8")


def test_progress_of_hashing_never_exceeds_100_percent(tmp_path: Path) -> None:
    """It holds even if a file is longer than its manifest says."""
    path = write_npy(tmp_path / "day=1", model())
    shares: list[float] = []
    write_manifest(path)
    verify_listed_files(path, shares.append)
    assert shares[-1] == 1.0
    (path / "manifest.json").unlink()
    write_manifest(path, bytes=1)
    verify_listed_files(path, shares.append)
    assert max(shares) == 1.0


def test_a_file_missing_in_the_manifest_makes_the_snapshot_wait(tmp_path: Path) -> None:
    """A manifest must list all files."""
    path = write_npy(tmp_path / "day=1", model())
    write_manifest(path)
    np.save(path / "item_weights.npy", np.ones(300))
    assert once(tmp_path)["day=1"].reason == "item_weights.npy to be listed in manifest.json"


@pytest.mark.parametrize("text", ["", "{", '{"files": []}', '{"version": 1}', '{"files": [{"path": 1}]}', "[" * 9999])
def test_another_kind_of_manifest_is_not_evidence(tmp_path: Path, text: str) -> None:
    """With ``auto``, the next evidence is used; with ``manifest``, the snapshot waits."""
    path = write_npy(tmp_path / "day=1", model())
    (path / "manifest.json").write_text(text)
    assert once(tmp_path)["day=1"].reason == "settled"
    assert states(once(tmp_path, WatchConfig(complete="manifest")))["day=1"] == ("waiting", "a valid manifest.json")


def test_a_single_file_cannot_have_a_marker(tmp_path: Path) -> None:
    """The reason names the setting that would help."""
    np.savez(tmp_path / "day=2.npz", items=np.ones((2, 2), np.float32), item_ids=np.arange(2))
    assert "watch.complete: settled" in once(tmp_path, WatchConfig(complete="marker"))["day=2.npz"].reason
    assert once(tmp_path, WatchConfig(complete="settled", settle_seconds=0))["day=2.npz"].state == "ready"


def test_a_file_open_for_writing_is_waited_for(tmp_path: Path) -> None:
    """The kernel knows writers that change neither size nor times: an open descriptor, or only a memory map."""
    path = write_npy(tmp_path / "day=1", model())
    target = path / "items.npy"
    _require_leases(target)
    with target.open("r+b") as file:
        assert once(tmp_path)["day=1"].reason == "items.npy to be closed by its writer"
        mapped = mmap.mmap(file.fileno(), 0)
    assert once(tmp_path)["day=1"].reason == "items.npy to be closed by its writer"
    mapped.close()
    assert once(tmp_path)["day=1"].reason == "settled"


def _require_leases(path: Path) -> None:
    """Skip the test unless the kernel grants read leases."""
    with path.open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            pytest.skip(f"no leases here: {error.strerror}")
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def test_a_writer_during_the_check_for_writers_does_no_harm(tmp_path: Path) -> None:
    """A broken lease sends a signal that by default ends a process; neither process is affected."""
    target = tmp_path / "items.npy"
    target.write_bytes(b"data")
    code = f"while True:\n open({str(target)!r}, 'r+b').close()"
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        try:
            end = time.monotonic() + 1
            answers = set()
            while time.monotonic() < end:
                answers.add(is_open_for_writing(Place(target)))
            assert writer.poll() is None
            assert signal.getsignal(signal.SIGIO) == signal.SIG_DFL
        finally:
            writer.kill()


def test_traces_of_a_writer_are_waited_for(tmp_path: Path) -> None:
    """A snapshot that contains a temporary name, or Spark's directory of work in progress, has not settled."""
    path = write_npy(tmp_path / "day=1", model())
    (path / "users.npy").rename(path / "users.npy.tmp")
    assert once(tmp_path)["day=1"].reason.startswith("users.npy.tmp to be renamed or removed")
    (path / "users.npy.tmp").rename(path / "users.npy")
    (path / "items").mkdir()
    (path / "items" / "_temporary").mkdir()
    assert once(tmp_path)["day=1"].reason.startswith("items/_temporary to be renamed or removed")


def test_a_known_snapshot_is_not_inspected_again(tmp_path: Path) -> None:
    """Children that are passed as known are not inspected again; all others are."""
    path = write_npy(tmp_path / "day=1", model())
    write_manifest(path)
    first = discover(tmp_path, AT_ONCE, SNAPSHOT, now=0, memory={})
    shutil.copy(path / "items.npy", path / "copy.npy")
    write_npy(tmp_path / "day=2", model())
    known = {child.name: child for child in first.children}
    found = discover(tmp_path, AT_ONCE, SNAPSHOT, now=0, memory=first.memory, known=known)
    assert found.children[0] is first.children[0]
    assert found.memory["day=1"] == first.memory["day=1"]
    assert found.children[1].name == "day=2"
    found = discover(tmp_path, AT_ONCE, SNAPSHOT, now=0, memory=found.memory, known={})
    assert found.children[0].state == "waiting"


def test_the_watched_directory_is_never_written_to(tmp_path: Path) -> None:
    """The directory may even be read-only, and no time in it changes."""
    path = write_npy(tmp_path / "day=1", model())
    write_manifest(path)
    before = stamp(tmp_path)
    for mode in (0o555, 0o755):
        tmp_path.chmod(mode)
        assert once(tmp_path)["day=1"].state == "ready"
    assert stamp(tmp_path) == before
