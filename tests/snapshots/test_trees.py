"""Trees too deep, too large or disappearing, and chains of links, are reported and never fatal."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from snapshots.made import model, write_npy
from support.quick import quick_directory
from support.trees import chain, deep

from embsync.cli.main import run
from embsync.config import SnapshotConfig, WatchConfig
from embsync.errors import EmbsyncError, NotFoundError, SnapshotError
from embsync.snapshots import files, open_snapshot, stamp
from embsync.store import removal
from embsync.store.removal import remove_tree
from embsync.watching.discovery import discover
from embsync.watching.stat_cache import StatCache

DEEP = [(9, "d"), (1200, "d"), (5000, "d"), (100, "n" * 255), (300, "n" * 255)]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory that is removed at any depth."""
    with quick_directory() as path:
        yield path
        for child in path.iterdir():
            if child.is_dir() and not child.is_symlink():
                remove_tree(child)


def look(watched: Path) -> dict[str, tuple[str, str]]:
    """Return the state and the reason of every child."""
    found = discover(watched, WatchConfig(path=str(watched)), SnapshotConfig(), now=time.time())
    return {child.name: (child.state, child.reason) for child in found.children}


@pytest.mark.parametrize(("levels", "name"), DEEP)
def test_a_deep_tree_in_the_watched_directory_is_not_a_snapshot(place: Path, levels: int, name: str) -> None:
    """The scan reports the limit and finds the snapshot beside it, also with the cache."""
    deep(place / "day=1", levels, name)
    write_npy(place / "day=2", model())
    (place / "day=2/_SUCCESS").touch()
    found = look(place)
    assert found["day=1"] == (
        "not_a_snapshot",
        f"{place}/day=1: directories nested too deeply; expected at most {files.DEEPEST}",
    )
    assert found["day=2"][0] == "ready"
    cache = StatCache()
    for _ in range(3):
        assert cache.changed(str(place), time.time_ns() + 10**10)
        assert "day=1" in cache.changed_names
    assert "day=2" not in cache.changed_names


@pytest.mark.parametrize(("levels", "name"), DEEP)
@pytest.mark.parametrize("where", ["", "items", "users/more"])
def test_a_deep_tree_given_as_a_snapshot_is_refused(place: Path, where: str, levels: int, name: str) -> None:
    """For any apparent layout, the message is one line with exit code 3."""
    write_npy(place / "day=1", model())
    deep(place / "day=1" / where, levels, name)
    with pytest.raises(SnapshotError, match="directories nested too deeply"):
        stamp(place / "day=1")
    assert run(["sync", str(place / "day=1"), "--store", str(place / "S")]) == 3
    shutil.rmtree(place / "S", ignore_errors=True)


@pytest.mark.parametrize(("levels", "name"), DEEP)
def test_a_deep_tree_is_removed(place: Path, levels: int, name: str) -> None:
    """At any place, a deep tree is removed like other leftovers."""
    (place / "S/versions").mkdir(parents=True)
    deep(place / f"S/versions/{removal.PRUNED_PREFIX}000001-ab", levels, name)
    deep(place / f"S/versions/{removal.STAGING_PREFIX}1-ab", levels, name)
    assert len(removal.sweep(place / "S", place / "S/versions")) == 2
    assert list((place / "S/versions").iterdir()) == []


def test_a_link_out_of_a_tree_is_removed_and_not_followed(place: Path) -> None:
    """The target of the link is kept."""
    (place / "kept").mkdir()
    (place / "kept/file").touch()
    bottom = deep(place / "doomed", 1500)
    (bottom / "d/link").symlink_to(place / "kept")
    remove_tree(bottom)
    assert not bottom.exists()
    assert (place / "kept/file").is_file()


def test_a_huge_directory_is_not_a_snapshot(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory above the limit, here 500 files, is refused, flat or nested."""
    for module in (files, __import__("embsync.watching.stat_cache", fromlist=["x"])):
        monkeypatch.setattr(module, "MOST_ENTRIES", 500)
    (place / "flat").mkdir()
    for number in range(501):
        (place / f"flat/{number}").touch()
    for folder in range(6):
        (place / f"folders/{folder}").mkdir(parents=True)
        for number in range(99):
            (place / f"folders/{folder}/{number}").touch()
    (place / "small").mkdir()
    (place / "small/items.npy").touch()
    found = look(place)
    assert "too many files" in found["flat"][1]
    assert "too many files" in found["folders"][1]
    assert "expected at most 500" in found["flat"][1]
    assert "too many" not in found["small"][1]
    cache = StatCache()
    for _ in range(3):
        cache.changed(str(place), time.time_ns() + 10**10)
    assert cache.changed_names == {"flat", "folders"}


@pytest.mark.fuzz
def test_a_hundred_thousand_files_are_scanned_within_seconds(place: Path) -> None:
    """As many files as the limit in one child are accepted, one more is refused."""
    (place / "day=1").mkdir()
    for number in range(files.MOST_ENTRIES - 1):
        (place / f"day=1/{number}").touch()
    for too_many in (False, True):
        began = time.monotonic()
        assert ("too many files" in look(place)["day=1"][1]) == too_many
        StatCache().changed(str(place), time.time_ns())
        assert time.monotonic() - began < 30
        (place / "day=1/one").touch()
        (place / "day=1/two").touch()


def test_names_of_the_maximum_length_are_read(place: Path) -> None:
    """A child and files with names of 255 bytes are read, and hundreds of digits are a number."""
    for name in ("n" * 255, "9" * 255, "ä" * 127):
        write_npy(place / name, model(items=20, users=20))
        (place / name / ("x" * 255)).touch()
    assert all("more seconds without a change" in reason for _, reason in look(place).values())
    assert run(["sync", str(place / ("9" * 255)), "--store", str(place / "S")]) in (0, 3)
    assert run(["sync", str(place / ("9" * 256)), "--store", str(place / "S")]) == 6


def test_entries_that_disappear_during_a_scan_are_ignored(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is deleted after it was listed counts as a change, not as an error."""
    write_npy(place / "day=1/items", model())
    real = os.scandir

    def then_gone(descriptor: int) -> object:
        entries = list(real(descriptor))
        if any(entry.name == "items" for entry in entries):
            shutil.rmtree(place / "day=1/items", ignore_errors=True)
        return _Listed(entries)

    monkeypatch.setattr(os, "scandir", then_gone)
    assert look(place)["day=1"][0] in {"waiting", "not_a_snapshot"}


class _Listed(list):
    def __enter__(self) -> _Listed:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_directory_that_cannot_be_listed_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error while listing one child does not affect the others."""
    write_npy(place / "day=1", model())
    write_npy(place / "day=2", model())
    real, identity = os.scandir, (place / "day=1").stat().st_ino

    def broken(descriptor: int) -> object:
        if os.fstat(descriptor).st_ino == identity:
            raise OSError(5, "Input/output error")
        return real(descriptor)

    monkeypatch.setattr(os, "scandir", broken)
    found = look(place)
    assert found["day=1"] == ("waiting", "changes to stop")
    assert "without a change" in found["day=2"][1]


@pytest.mark.parametrize("links", [39, 41, 1200, 3000])
def test_chains_of_links_are_limited(place: Path, links: int) -> None:
    """As many links as the kernel follows are followed; more are a one-line error with exit code 6."""
    target = write_npy(place / "day=1", model())
    link = chain(place / "link", links, target)
    if links < 40:
        assert open_snapshot(link, SnapshotConfig()).items.count == 300
        return
    with pytest.raises(NotFoundError):
        open_snapshot(link, SnapshotConfig())
    assert run(["sync", str(link), "--store", str(place / "S")]) == 6
    with pytest.raises(EmbsyncError):
        look(link)
    assert files.real_path(link) in (str(link), str(target))


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"files":' * 100_000, '{"files": [{"path": "' + "../" * 5000 + '"}]}']
)
def test_a_deeply_nested_manifest_is_refused(place: Path, text: str) -> None:
    """The snapshot is handled as if it had no manifest."""
    write_npy(place / "day=1", model())
    (place / "day=1/manifest.json").write_text(text)
    assert look(place)["day=1"][0] in {"waiting", "not_a_snapshot"}


def test_a_deeply_nested_header_is_ill_formed(place: Path) -> None:
    """It applies to headers of arrays and of safetensors."""
    write_npy(place / "day=1", model())
    data = (place / "day=1/items.npy").read_bytes()
    header = b"{'descr': " + b"(" * 3000
    (place / "day=1/items.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)
    text = ('{"vectors":' * 100_000).encode()
    (place / "day=2").mkdir()
    for side in ("items", "users"):
        (place / f"day=2/{side}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    for name in ("day=1", "day=2"):
        with pytest.raises(SnapshotError):
            open_snapshot(place / name, SnapshotConfig())


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1500,
        "{a: " * 1500,
        "- " * 1500,
        "a: 2026-13-45",
        "a: " + "1" * 5000,
        "checks: &a {x: *a}",
        "store: {path: &x [*x]}",
        "\0",
        "a: !!python/name:os.system",
    ],
)
def test_a_deeply_nested_configuration_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    """In the file and in the environment, the error has exit code 2 and one line that fits a screen."""
    (place / "c.yaml").write_text(text)
    assert run(["check-config", "-c", str(place / "c.yaml")]) == 2
    monkeypatch.setenv("EMBSYNC_STORE__PATH", text.replace("\0", "["))
    (place / "c.yaml").write_text("")
    assert run(["check-config", "-c", str(place / "c.yaml")]) == 2
    printed = capfd.readouterr().err
    assert len(printed.splitlines()) == 2
    assert len(printed) < 4000


def test_a_deep_tree_in_the_store_does_not_stop_commands(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The tree may be beside the versions, inside one, or in place of one."""
    path = write_npy(place / "day=1", model())
    root = place / "S"
    assert run(["sync", str(path), "--store", str(root)]) == 0
    for where in ("deep", "versions/deep", "versions/000001/deep", "versions/000009", "versions/.staging-7-x"):
        deep(root / where, 1200)
    for command in (["status"], ["history"], ["verify"], ["prune"], ["hold"], ["resume"], ["sync", str(path)]):
        assert run([*command, "--store", str(root)]) in (0, 5), capfd.readouterr()
    assert not (root / "versions/.staging-7-x").exists()
    assert run(["prune", "--keep", "1", "--store", str(root)]) in (0, 5)


def test_several_processes_may_remove_one_deep_tree(place: Path) -> None:
    """Each process moves the deepest directory up; none fails because of the others."""
    deep(place / "tree", 1200)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(remove_tree, [place / "tree"] * 3))
    assert not (place / "tree").exists()


def test_several_writers_may_remove_one_tree(tmp_path: Path) -> None:
    """Writers remove leftovers of a replaced snapshot and of others; none fails because of the others."""
    for round_ in range(5):
        tree = tmp_path / f"tree {round_}"
        for folder in range(20):
            (tree / str(folder)).mkdir(parents=True)
            for file in range(20):
                (tree / str(folder) / str(file)).touch()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(remove_tree, [tree] * 4))
        assert not tree.exists()
