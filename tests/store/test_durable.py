"""The store after a crash, a full disk, a failing disk and a disk that stores wrong bytes: either old or new."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import assert_at_rest, assert_intact, snapshot_of, sync

from embsync.errors import OutOfSpace, StoreError
from embsync.file_hashes import FileEntry, hash_file
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store, durable, removal, staging
from embsync.store.durable import append_line, replace_file, switch_link
from embsync.store.staging import ArrayFile, Staging

SIZES = {"items": 60, "users": 50, "width": 4}


@pytest.fixture
def store() -> Iterator[Path]:
    """A store with one version."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, **SIZES), "n0")
        yield directory / "S"


# crashes


@pytest.mark.parametrize(
    ("scenario", "outcomes", "step", "least"),
    [
        ("publish", {2, 3}, 12, 20),
        ("rollback", {2, 1}, 4, 6),
        *(
            pytest.param(*one, marks=pytest.mark.torture)
            for one in (("publish", {2, 3}, 1, 100), ("rollback", {2, 1}, 1, 6), ("widen", {2, 3}, 1, 40))
        ),
    ],
)
def test_a_kill_before_any_call_leaves_the_old_or_the_new_version(
    scenario: str, outcomes: set[int], step: int, least: int
) -> None:
    """After SIGKILL before each system call, readers find a complete version, from which the next command continues.

    The next command leaves only final files, and the journal contains the version that is served.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with quick_directory() as directory:
        command = [
            sys.executable,
            "-W",
            "error",
            Path(__file__).with_name("crash_points.py"),
            scenario,
            directory,
            str(step),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    crashes = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [crash for crash in crashes if "error" in crash or not (crash["killed"] and crash["journaled"])]
    assert wrong == []
    assert {crash["current"] for crash in crashes} == outcomes
    followed = [crash for crash in crashes if "next" in crash]
    assert all(crash["parent"] == crash["current"] and crash["served"] == crash["next"] for crash in followed)
    assert len(followed) >= 3
    # Once the new version is current, it stays current: the switch is one point in time.
    order = [crash["current"] != 2 for crash in crashes]
    assert order == sorted(order)
    assert len(crashes) >= least


# full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _fill(place: Path, leave: int) -> Path:
    """Fill a disk until ``leave`` bytes are free."""
    ballast = place / "ballast"
    free = os.statvfs(place)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leave)
    return ballast


@pytest.mark.parametrize("stage", ["writing", "indexing", "publishing"])
@pytest.mark.parametrize("leave", [0, 8192])
def test_a_disk_that_fills_up_leaves_the_store_unchanged(small_disk: Path, stage: str, leave: int) -> None:
    """At each stage, the error is ``OutOfSpace`` and the store unchanged; with space again, the next run publishes."""
    root = small_disk / "S"
    first = write_npy(small_disk.parent / "n0", night(0, items=800, users=500))
    second = write_npy(small_disk.parent / "n1", night(1, items=800, users=500))
    config = configured()
    publish_snapshot(Store(root), Request(first), config)
    before = snapshot_of(root)
    ballast: list[Path] = []

    def fill(at: str, _: float) -> None:
        if at == stage and not ballast:
            ballast.append(_fill(small_disk, leave))

    with pytest.raises(OutOfSpace) as raised:
        publish_snapshot(Store(root), Request(second), config, fill)
    assert raised.value.exit_code == 5
    assert raised.value.transient
    assert snapshot_of(root) == before
    ballast[0].unlink()
    assert publish_snapshot(Store(root), Request(second), config).version == 2
    assert assert_intact(root) == 2
    assert_at_rest(root)


def test_too_little_space_is_detected_before_anything_is_written(small_disk: Path) -> None:
    """The estimate is checked first, and the error says how much is free and how much is needed."""
    root = small_disk / "S"
    sync(root, night(0, **SIZES), "n0")
    before = snapshot_of(root)
    _fill(small_disk, 3 * 2**20)
    path = write_npy(small_disk.parent / "n1", night(1, **SIZES))
    with pytest.raises(OutOfSpace, match=r"too little space for a version; found [\d,]+ bytes free; expected"):
        publish_snapshot(Store(root), Request(path), configured())
    assert snapshot_of(root) == before


@contextlib.contextmanager
def _largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [200, 700, 1500])
def test_a_file_size_limit_leaves_the_store_unchanged(store: Path, size: int) -> None:
    """Exceeding the limit is a store error, whichever file exceeds it."""
    path = write_npy(store.parent / "n1", night(1, **SIZES))
    before = snapshot_of(store)
    with pytest.raises(StoreError), _largest_file(size):
        publish_snapshot(Store(store), Request(path), configured())
    assert snapshot_of(store) == before


# disks that fail or store wrong bytes


def _failing(monkeypatch: pytest.MonkeyPatch, name: str, at: int, code: int) -> list[int]:
    """Make call ``at`` of ``os.<name>`` fail; return the threads of the calls."""
    real: Callable[..., Any] = getattr(os, name)
    calls: list[int] = []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(threading.get_ident())
        if len(calls) == at + 1:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)
    return calls


@pytest.mark.parametrize("name", ["fsync", "rename", "replace", "symlink", "posix_fallocate"])
def test_a_call_that_fails_changes_nothing(store: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """EIO from any call is a store error: the old version is served, nothing is left over, and the next run works.

    After a later error, the switch is reverted, and the journal may have a line about it.
    """
    path = write_npy(store.parent / "n1", night(1, **SIZES))
    before = _without_journal(store)
    at = 0
    while True:
        with monkeypatch.context() as patch:
            calls = _failing(patch, name, at, 5)
            failure = _failure(store, path)
        if failure is None:
            break
        assert failure.exit_code == 5
        assert not isinstance(failure, OutOfSpace)
        later = calls[at + 1 :].count(calls[at])  # another thread may have begun with another file
        assert later <= 1, "a failed call was tried again"
        assert _without_journal(store) == before, f"{name} number {at}"
        at += 1
    assert at >= 1
    assert assert_intact(store) > 1


def _without_journal(store: Path) -> dict[str, bytes | str]:
    return {name: data for name, data in snapshot_of(store).items() if name != "journal.jsonl"}


def _failure(store: Path, path: Path) -> StoreError | None:
    try:
        publish_snapshot(Store(store), Request(path), configured())
    except StoreError as error:
        return error
    return None


def test_a_rename_that_cannot_be_made_durable_is_reverted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If fsync fails between the rename into place and the switch, the version is removed."""
    path = write_npy(store.parent / "n1", night(1, **SIZES))
    before = snapshot_of(store)
    real = durable.sync_directory

    def failing(folder: Path) -> None:
        if folder.name == "versions":
            raise OSError(5, os.strerror(5))
        real(folder)

    monkeypatch.setattr(staging, "sync_directory", failing)
    with pytest.raises(StoreError):
        publish_snapshot(Store(store), Request(path), configured())
    assert snapshot_of(store) == before


def _switched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record when ``current`` is replaced."""
    real = Path.replace
    switched: list[bool] = []

    def replace(self: Path, target: Path) -> Path:
        done = real(self, target)
        if Path(target).name == "current":
            switched.append(True)
        return done

    monkeypatch.setattr(Path, "replace", replace)
    return switched


def test_an_error_after_the_switch_does_not_fail_the_publish(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the journal cannot be written after the switch, the publish is reverted or succeeds.

    "An error anywhere discards the staging directory and leaves current as it was."
    """

    def full(path: Path, line: bytes) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr("embsync.store.journal.append_line", full)
    path = write_npy(store.parent / "n1", night(1, **SIZES))
    try:
        publish_snapshot(Store(store), Request(path), configured())
    except StoreError:
        assert Store(store).current() == 1
    else:
        assert Store(store).current() == 2


FILES = [
    "items/vectors.npy",
    "users/ids.npy",
    "items/last_seen.npy",
    "users/moments.npy",
    "neighbours.npy",
    "anchors/users.npy",
    "start/item_ids.npy",
    "transform/items.npy",
    "index.faiss",
    "index_rows.npy",
    "lineage.npy",
    "lineage_times.npy",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.05, 0.5, 0.999])
def test_false_success_of_system_calls_is_detected(
    store: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: float
) -> None:
    """If one bit of any file reads back differently from what was written, the version is not published."""
    path = write_npy(store.parent / "n1", night(1, **SIZES))
    before = snapshot_of(store)
    real = os.posix_fadvise
    lied: list[str] = []

    def lying(descriptor: int, *advice: Any) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if str(path).endswith(name):
            with path.open("rb+") as same:
                same.seek(int(where * os.fstat(descriptor).st_size))
                byte = same.read(1)[0]
                same.seek(-1, 1)
                same.write(bytes([byte ^ 4]))
            lied.append(name)
        real(descriptor, *advice)

    monkeypatch.setattr(os, "posix_fadvise", lying)
    with pytest.raises(StoreError, match="does not read back"):
        publish_snapshot(Store(store), Request(path), configured())
    assert lied
    monkeypatch.undo()
    assert snapshot_of(store) == before


# array files and staging


def test_an_array_file_equals_that_of_numpy(tmp_path: Path) -> None:
    """An array that is filled in any order equals the ``.npy`` file of NumPy byte for byte."""
    array = np.random.default_rng(1).standard_normal((100, 7)).astype(np.float32)
    with Staging(tmp_path) as staging:
        file = staging.array("a/b.npy", array.shape, array.dtype)
        for rows in (np.arange(60, 100), slice(0, 30), np.arange(59, 29, -1)):
            file.put(rows, array[rows])
        staging.save("c.npy", array[:, ::2])
        staging.save("d.npy", np.array([b"x", b"yz"]))
        entries = {entry.path: entry for entry in staging.seal()}
        np.save(tmp_path / "plain.npy", array)
        assert (staging.path / "a/b.npy").read_bytes() == (tmp_path / "plain.npy").read_bytes()
        np.testing.assert_array_equal(np.load(staging.path / "c.npy"), array[:, ::2])
        np.testing.assert_array_equal(np.load(staging.path / "d.npy"), [b"x", b"yz"])
        for name, entry in entries.items():
            assert hash_file(staging.path / name) == (entry.bytes, entry.sha256)
        assert list(entries) == ["a/b.npy", "c.npy", "d.npy"]


def test_long_runs_of_rows_survive_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of live rows between carried ones are written to the file, and the carried rows through the memory map."""
    calls: list[int] = []

    def pwrite(descriptor: int, data: memoryview, place: int, write: Any = os.pwrite) -> int:
        calls.append(place)
        return int(write(descriptor, data[: 1 + len(data) * 2 // 3], place))

    monkeypatch.setattr(staging.os, "pwrite", pwrite)
    array = np.random.default_rng(1).standard_normal((2000, 64)).astype(np.float32)
    carried = np.arange(99, 2000, 100)
    with Staging(tmp_path) as made:
        file = made.array("a.npy", array.shape, array.dtype)
        live = np.setdiff1d(np.arange(2000), carried)
        for part in np.array_split(live, 3):
            file.put(part, array[part])
        assert len(calls) > 20
        calls.clear()
        file.put(carried, array[carried])
        assert calls == []
        np.testing.assert_array_equal(file.array, array)
        made.seal()
        np.testing.assert_array_equal(np.load(made.path / "a.npy"), array)


def test_a_file_that_changes_while_it_is_copied_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hard links, a copied file whose hash differs from its entry is refused, even at the same size."""

    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(staging.os, "link", refused)
    (tmp_path / "ids.npy").write_bytes(b"old")
    entry = FileEntry("ids.npy", *hash_file(tmp_path / "ids.npy"))
    with Staging(tmp_path) as made:
        made.link(entry, tmp_path)
        assert made.seal() == [entry]
    (tmp_path / "ids.npy").write_bytes(b"new")
    with Staging(tmp_path) as made, pytest.raises(StoreError, match="a file changed while it was copied; found sha256"):
        made.link(entry, tmp_path)


def test_rows_that_were_never_written_are_detected(tmp_path: Path) -> None:
    """A row that was changed without ``put`` prevents sealing."""
    file = ArrayFile(tmp_path / "a.npy", (10, 2), np.dtype(np.float32))
    file.put(slice(0, 10), np.ones((10, 2)))
    file.array.setflags(write=True)
    file.array[3, 1] = 2.0
    with pytest.raises(StoreError, match="does not read back"):
        file.seal(tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, "S3"])
@pytest.mark.parametrize("apart", [1, 7])
def test_exchanged_rows_are_detected(tmp_path: Path, dtype: Any, apart: int) -> None:
    """Two exchanged rows, with all bytes present, prevent sealing."""
    rows = np.arange(60).reshape(20, 3).astype(dtype)
    file = ArrayFile(tmp_path / "a.npy", rows.shape, rows.dtype)
    file.put(slice(0, 20), rows)
    file.array.setflags(write=True)
    file.array[[4, 4 + apart]] = file.array[[4 + apart, 4]]
    with pytest.raises(StoreError, match="does not read back"):
        file.seal(tmp_path)


def test_an_empty_array_is_written(tmp_path: Path) -> None:
    """A side of the anchors without rows is a file with a header only."""
    with Staging(tmp_path) as staging:
        staging.save("e.npy", np.empty((0, 5), np.float32))
        staging.array("f.npy", (0, 5), np.float32)
        staging.seal()
        for name in ("e.npy", "f.npy"):
            assert np.load(staging.path / name).shape == (0, 5)


def test_discarding_removes_and_publishing_keeps_the_version(tmp_path: Path) -> None:
    """A staging directory is removed when its context ends, unless it was kept."""
    with Staging(tmp_path) as staging:
        staging.save("a.npy", np.arange(3))
        assert staging.path.name.startswith(removal.STAGING_PREFIX)
    assert list(tmp_path.iterdir()) == []
    with Staging(tmp_path) as staging:
        staging.save("a.npy", np.arange(3))
        staging.move(tmp_path / "000001")
    assert list(tmp_path.iterdir()) == [], "moved, and discarded all the same"
    with Staging(tmp_path) as staging:
        staging.save("a.npy", np.arange(3))
        staging.move(tmp_path / "000001")
        staging.keep()
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]


def test_small_files_and_links_are_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure, the old one is unchanged and no temporary file is left."""
    file, link = tmp_path / "f", tmp_path / "current"
    replace_file(file, b"old")
    switch_link(link, "a")
    replace_file(file, b"new")
    switch_link(link, "b")
    assert (file.read_bytes(), link.readlink()) == (b"new", Path("b"))

    def fail(self: Path, target: Path) -> Path:
        raise OSError(5, "no")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"):
        replace_file(file, b"newer")
    with pytest.raises(OSError, match="no"):
        switch_link(link, "c")
    assert {path.name for path in tmp_path.iterdir()} == {"f", "current"}
    assert (file.read_bytes(), link.readlink()) == (b"new", Path("b"))


def test_a_line_is_appended_completely_after_a_torn_one(tmp_path: Path) -> None:
    """A torn last line is ended first, so that no other line is affected."""
    path = tmp_path / "lines"
    append_line(path, b"one")
    with path.open("ab") as file:
        file.write(b'{"torn')
    append_line(path, b"two")
    append_line(path, b"three")
    assert path.read_bytes() == b'one\n{"torn\ntwo\nthree\n'
