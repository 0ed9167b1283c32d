"""Links in a watched directory: a snapshot by the name of what they lead to, once, or a reason."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from snapshots.made import model, write_npy

from embsync.config import SnapshotConfig, WatchConfig
from embsync.service.glance import Glance
from embsync.snapshots import Child, discover

WATCH = WatchConfig(settle_seconds=0)


def once(watched: Path) -> dict[str, Child]:
    """Look once."""
    return {child.name: child for child in discover(watched, WATCH, SnapshotConfig(), now=time.time()).children}


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    folder = tmp_path / "watch"
    folder.mkdir()
    return folder


def snapshot(path: Path) -> Path:
    """Leave a small snapshot."""
    return write_npy(path, model(items=3, users=3))


def test_a_link_beside_its_target_is_no_second_snapshot(watched: Path) -> None:
    """``latest -> run-17``, also by an absolute path and through another link."""
    snapshot(watched / "run-17")
    (watched / "latest").symlink_to("run-17")
    (watched / "absolute").symlink_to(watched / "run-17")
    (watched / "current").symlink_to("latest")
    found = once(watched)
    assert [name for name, child in found.items() if child.state == "ready"] == ["run-17"]
    assert found["latest"].reason == found["current"].reason == "a link to run-17, which is taken by that name"


@pytest.mark.parametrize("inside", ["archive/run-17", ".releases/run-17", "a/b/run-17", ".run-17"])
def test_a_link_leads_to_a_snapshot_deeper_inside(watched: Path, inside: str) -> None:
    """It goes by the name of what it leads to, once however many lead there, and is looked at where it lies."""
    (watched / inside).parent.mkdir(parents=True, exist_ok=True)
    snapshot(watched / inside)
    (watched / "latest").symlink_to(inside)
    (watched / "stable").symlink_to(inside)
    found = once(watched)
    (child,) = (child for child in found.values() if child.state == "ready")
    assert (child.name, child.path, child.link) == (inside, watched / inside, "latest")
    assert found["stable"].reason == f"a link to {inside}, which is taken by that name"


def test_a_link_that_moves_leads_to_another_snapshot(watched: Path) -> None:
    """A deployment tool swaps it each night."""
    names = []
    for number in (16, 17):
        snapshot(watched / ".releases" / f"run-{number}")
        (watched / "latest").unlink(missing_ok=True)
        (watched / "latest").symlink_to(f".releases/run-{number}")
        names += [name for name, child in once(watched).items() if child.state == "ready"]
    assert names == [".releases/run-16", ".releases/run-17"]


@pytest.mark.parametrize(("target", "reason"), [
    ("../elsewhere", "a link that leads out of the watched directory, to "),
    ("/", "a link that leads out of the watched directory, to /"),
    (".", "a link to the watched directory itself"),
    ("nothing", "a link that leads nowhere: No such file or directory"),
    ("link", "a link that leads nowhere: Too many levels of symbolic links"),
    ("day=1/..data", "a link into day=1, which is a snapshot"),
    ("logs", "a link to logs"),
])
def test_other_links_say_why_they_are_not_taken(watched: Path, target: str, reason: str) -> None:
    """Out of the directory, to nowhere, into the middle of a snapshot, to what is none."""
    snapshot(watched.parent / "elsewhere")
    snapshot(watched / "day=1")
    shutil.copytree(watched / "day=1", watched / "day=1" / "..data")
    (watched / "logs").mkdir()
    (watched / "link").symlink_to(target)
    child = once(watched)["link"]
    assert child.state == "not_a_snapshot"
    assert child.reason.startswith(reason)


def test_a_directory_of_links_says_what_makes_files_of_them(watched: Path) -> None:
    """A projected volume of Kubernetes, or a cache of Hugging Face: links inside are not followed."""
    snapshot(watched / "day=1" / "..2026_11_25")
    (watched / "day=1" / "..data").symlink_to("..2026_11_25")
    for file in (watched / "day=1" / "..2026_11_25").iterdir():
        (watched / "day=1" / file.name).symlink_to(f"..data/{file.name}")
    child = once(watched)["day=1"]
    assert child.state == "not_a_snapshot"
    assert "cp -rL" in child.reason


def test_what_a_link_leads_to_is_watched_too(watched: Path) -> None:
    """Nothing in the directory itself changes when a file behind the link does."""
    old = time.time_ns() + 60 * 10**9
    folder = snapshot(watched / ".releases" / "run-17")
    (watched / "latest").symlink_to(".releases/run-17")
    glance = Glance()
    assert glance.changed(str(watched), old)
    assert not glance.changed(str(watched), old)
    (folder / "more.npy").write_bytes(b"x")
    assert glance.changed(str(watched), old)
    assert glance.stirred == {"latest"}
