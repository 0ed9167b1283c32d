"""Rollback, pruning and sweeps, with readers in other processes."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.hints import printed_command, run_as_printed
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import assert_at_rest, assert_intact, next_line, published_nights, running, snapshot_of, sync
from support.waiting import PATIENCE

import embsync
from embsync.cli.main import run
from embsync.errors import NotFoundError, StoreError
from embsync.pipeline import Request, publish_snapshot
from embsync.reader import open_version
from embsync.store import Store, durable, layout, removal
from embsync.store.journal import Event
from embsync.store.removal import sweep
from embsync.store.staging import Staging

SIZES = {"items": 60, "users": 50, "width": 4}
PIN = """
import pathlib, sys, embsync.reader
version = embsync.reader.open_version(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
print("pinned", flush=True)
sys.stdin.readline()
print(int(version.items.vectors.sum() * 0) + version.number, flush=True)
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A store with four versions."""
    with published_nights(4, **SIZES) as store:
        yield store


def _prune(root: Path, keep: int) -> tuple[list[int], list[int]]:
    store = Store(root)
    with store.locked():
        return store.prune(keep)


def test_prune_keeps_the_newest_and_the_current_version(root: Path) -> None:
    """These are the highest numbers and the current version; the journal records what was removed."""
    Store(root).rollback(1)
    assert _prune(root, 2) == ([2], [])
    assert Store(root).numbers() == [1, 3, 4]
    assert assert_intact(root) == 1
    assert_at_rest(root)
    assert [event.version for event in Store(root).journal.events() if event.event == "pruned"] == [2]
    assert _prune(root, 2) == ([], [])


def test_a_version_in_use_by_another_process_is_not_deleted(root: Path) -> None:
    """It stays intact while it is pinned; a reader that was killed by SIGKILL no longer pins it."""
    with running(PIN, root, 2) as reader:
        assert next_line(reader) == "pinned"
        assert _prune(root, 1) == ([1, 3], [2])
        assert Store(root).numbers() == [2, 4]
        assert Store(root).damaged_files(2) == []
        reader.send_signal(signal.SIGKILL)
        reader.wait(PATIENCE)
        assert _prune(root, 1) == ([2], [])


def test_a_closed_reader_releases_its_version(root: Path) -> None:
    """Mapped arrays remain readable even after their files were deleted."""
    with open_version(root, 1) as version:
        vectors = version.items.vectors
        total = vectors.sum()
        assert _prune(root, 3) == ([], [1])
    assert _prune(root, 3) == ([1], [])
    assert vectors.sum() == total


def test_rollback_goes_to_the_parent_or_the_given_version(root: Path) -> None:
    """Rollback follows the lineage, not the numbers; other files are unchanged."""
    store = Store(root)
    before = snapshot_of(root / "versions")
    assert store.rollback(None) == (4, 3)
    assert store.rollback(1) == (3, 1)
    assert snapshot_of(root / "versions") == before
    five = sync(root, night(4, **SIZES), "n4")
    assert (five.version, five.parent) == (5, 1)
    assert store.rollback(None) == (5, 1)
    assert [event.event for event in store.journal.events()][-3:] == ["rolled_back", "published", "rolled_back"]
    assert_at_rest(root)


def test_rollback_to_a_missing_version_is_refused(root: Path) -> None:
    """The version before the first, a missing one and a damaged one are refused, and nothing changes."""
    store = Store(root)
    with pytest.raises(NotFoundError, match=r"no version 9; found versions 1, 2, 3, 4"):
        store.rollback(9)
    vectors = root / "versions/000002/items/vectors.npy"
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    with pytest.raises(StoreError, match=r"version 2 is damaged; found items/vectors\.npy: sha256"):
        store.rollback(2)
    assert store.current() == 4
    store.rollback(1)
    with pytest.raises(NotFoundError, match="nothing to roll back to; found version 1, the first"):
        store.rollback(None)


def test_version_numbers_are_never_reused(root: Path) -> None:
    """The next number is the highest ever used plus one, even after that version was rolled back and pruned."""
    store = Store(root)
    store.rollback(1)
    with store.locked():
        for number in (2, 3, 4):
            removal.remove_unpublished(store.path(number))
    assert store.next_number() == 5
    assert sync(root, night(4, **SIZES), "n4").version == 5


def _make(path: Path, kind: str) -> None:
    if kind == "link":
        path.symlink_to("nowhere")
    elif kind == "file":
        path.touch()
    else:
        path.mkdir()
        if kind == "files":
            (path / "copied.txt").touch()


@pytest.mark.parametrize("kind", ["empty", "files", "link", "file"])
@pytest.mark.parametrize("name", ["000005", "20260101", "9" * 18])
def test_directories_that_only_look_like_versions_are_ignored(
    root: Path, name: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such a directory sets no number, is not counted by prune, and is reported but not removed."""
    stray = root / "versions" / name
    _make(stray, kind)
    expected = 6 if name == "000005" else 5
    assert Store(root).next_number() == expected
    assert sync(root, night(4, **SIZES), "n4").version == expected
    with Store(root).locked():
        assert Store(root).prune(2)[0] == [1, 2, 3]
    assert Store(root).current() == expected
    assert os.path.lexists(stray)
    run(["status", "--store", str(root)])
    said = capfd.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if "or not a version" in line]
    assert len(lines) == (kind in {"empty", "files"})
    for line in lines:
        command = printed_command(line)
        assert command is not None
        assert run_as_printed(command) == 0
        assert Store(root).damage() == []


def test_a_version_without_manifest_is_pruned_in_order(root: Path) -> None:
    """It is not counted, and is pruned once enough newer versions exist."""
    (root / "versions/000003/manifest.json").unlink()
    with Store(root).locked():
        assert Store(root).prune(2) == ([1], [])
        assert Store(root).prune(1) == ([2, 3], [])


def test_version_numbers_are_limited(root: Path) -> None:
    """The error is raised before anything is created."""
    Store(root).journal.append(Event(event="published", version=10**18 - 1))
    with pytest.raises(StoreError, match="version numbers are exhausted"):
        sync(root, night(4, **SIZES), "n4")
    assert Store(root).current() == 4


def test_publishing_prunes_to_the_configured_number() -> None:
    """``keep_versions: 1`` leaves one version once no reader uses the others."""
    with quick_directory() as directory:
        for number in range(3):
            sync(directory / "S", night(number, **SIZES), f"n{number}", configured(store__keep_versions=1))
        assert Store(directory / "S").numbers() == [3]


MAKE = """
import sys
from pathlib import Path
import numpy as np
from embsync.store.staging import Staging
staging = Staging(Path(sys.argv[1]))
staging.save("a.npy", np.arange(3))
print(staging.path.name, flush=True)
sys.stdin.readline()
"""


def test_a_sweep_removes_only_leftovers_of_dead_processes(root: Path) -> None:
    """The staging directory of a running process stays; once it is killed, the next command removes the directory."""
    versions = root / "versions"
    with running(MAKE, versions) as maker:
        name = next_line(maker)
        with Store(root).locked():
            pass
        assert (versions / name / "a.npy").is_file()
        maker.send_signal(signal.SIGKILL)
        maker.wait(PATIENCE)
    (versions / ".pruned-000007-ab").mkdir()
    (versions / ".pruned-000007-ab" / "x").touch()
    (root / ".current-1234").symlink_to("versions/000001")
    assert set(sweep(root, versions)) == {name, ".pruned-000007-ab", ".current-1234"}
    assert_at_rest(root)


@pytest.mark.parametrize("where", ["before it is opened", "before it is locked"])
@pytest.mark.parametrize("what", ["staging", "small file"])
def test_a_staged_version_is_protected_from_the_start(
    root: Path, monkeypatch: pytest.MonkeyPatch, where: str, what: str
) -> None:
    """If a sweep removes it between its creation and its lock, another is created, which stays."""
    versions = root / "versions"
    swept: list[str] = []

    def once(*_: object) -> None:
        if not swept:
            swept.append("")
            swept.extend(sweep(root, versions))

    if where == "before it is opened":
        real = os.open

        def opened(path: object, *rest: int, **options: int) -> int:
            if Path(str(path)).name.startswith(removal.STAGING_PREFIX):
                once()
            return real(path, *rest, **options)

        monkeypatch.setattr(os, "open", opened)
    else:
        lock = fcntl.flock

        def locked(descriptor: int, how: int) -> None:
            if how == fcntl.LOCK_EX:
                once()
            lock(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", locked)
    if what == "small file":
        durable.replace_file(root / "hold", b"{}")
        assert (root / "hold").read_bytes() == b"{}"
        assert len(swept) == (2 if where == "before it is locked" else 0)
        return
    with Staging(versions) as staging:
        assert len(swept) == 2
        assert staging.path.name not in swept
        staging.save("a.npy", np.arange(3))
        assert (staging.path / "a.npy").is_file()
        assert sweep(root, versions) == []
        staging.move(versions / "000009")
        assert (versions / "000009" / "a.npy").is_file()


def test_a_directory_with_other_files_is_no_store(tmp_path: Path) -> None:
    """A wrong ``--store`` puts no versions among other files."""
    (tmp_path / "S").mkdir()
    (tmp_path / "S" / "letter.txt").touch()
    path = write_npy(tmp_path / "n0", night(0, **SIZES))
    with pytest.raises(StoreError, match="the directory is not a store; found other files"):
        publish_snapshot(Store(tmp_path / "S"), Request(path), configured())
    assert [entry.name for entry in (tmp_path / "S").iterdir()] == ["letter.txt"]


def test_current_that_is_no_link_to_a_version_is_damage(root: Path) -> None:
    """It holds for a file and for a link that points elsewhere."""
    current = root / "current"
    current.unlink()
    current.symlink_to("versions/../../elsewhere")
    with pytest.raises(StoreError, match="'current' does not name a version; found versions/"):
        embsync.open(root)
    current.unlink()
    current.touch()
    with pytest.raises(StoreError, match="'current' is not a link"):
        Store(root).current()


def test_a_store_that_another_process_creates_meanwhile_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two concurrent first pulls, the second uses the directories that the first has made."""
    root = tmp_path / "store"
    monkeypatch.setattr(layout, "require_directory", lambda root: (root / "versions").mkdir(parents=True))
    Store(root).make()
    assert [path.name for path in root.iterdir()] == ["versions"]
