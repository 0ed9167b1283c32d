"""Files that a version takes from its parent are hashed first: damage is reported and not copied."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.damage import SIZES, build, config_of, copy, drop, flip, next_night, waiting
from support.quick import quick_directory
from support.stores import VERSION_FILES, assert_at_rest, assert_intact

from embsync.cli.main import run
from embsync.errors import StoreDamaged
from embsync.file_hashes import FileEntry
from embsync.pipeline import Request, parent, publish_snapshot
from embsync.pipeline.entry import publish_entry
from embsync.pipeline.widen import widen
from embsync.reader import open_version
from embsync.store import Store, layout
from embsync.store.staging import Staging

CARRIED = sorted(VERSION_FILES - {layout.INDEX, layout.INDEX_ROWS})


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A watched directory with a store of three versions, and a fifth night that is not yet handled."""
    with quick_directory() as place:
        build(place)
        drop(place, 5)
        yield place


@pytest.fixture
def root(directory: Path) -> Path:
    """A copy of the store."""
    return copy(directory / "S", directory / "copy")


def as_printed(hint: str) -> int:
    """Run a command as a message prints it; return its exit code."""
    words = shlex.split(hint)
    if words[0] == "embsync":
        words[:1] = [sys.executable, "-m", "embsync"]
    return subprocess.run(words, check=False, capture_output=True).returncode


@pytest.mark.parametrize("where", ["header", "middle", "last"])
@pytest.mark.parametrize("name", CARRIED)
def test_one_bit_of_the_parent_stops_the_next_night(root: Path, directory: Path, name: str, where: str) -> None:
    """The error names the file and its version and has exit code 5; nothing is published or journaled."""
    path = root / "versions/000003" / name
    flip(path, {"header": 40, "middle": 128 + (path.stat().st_size - 128) // 2, "last": -1}[where], bit=6)
    before = (root / layout.JOURNAL).read_bytes()
    (entry,) = waiting(root, directory)
    with pytest.raises(StoreDamaged) as caught:
        publish_entry(Store(root), entry, config_of(directory))
    assert (caught.value.exit_code, caught.value.where) == (5, str(path))
    assert "version 3 is damaged" in str(caught.value)
    assert (root / layout.JOURNAL).read_bytes() == before
    assert Store(root).numbers() == [1, 2, 3]
    with pytest.raises(StoreDamaged, match="version 3"):
        widen(Store(root), 6, config_of(directory))
    assert Store(root).numbers() == [1, 2, 3]


def test_the_command_in_the_message_repairs_the_store(root: Path, directory: Path) -> None:
    """It rolls back to the newest intact version, on which the night is published."""
    flip(root / "versions/000003/items/vectors.npy", 200)
    flip(root / "versions/000002/items/vectors.npy", 200)
    (entry,) = waiting(root, directory)
    with pytest.raises(StoreDamaged) as caught:
        publish_entry(Store(root), entry, config_of(directory))
    assert caught.value.hint == f"embsync rollback 1 --store {root}"
    assert as_printed(caught.value.hint) == 0
    assert publish_entry(Store(root), entry, config_of(directory)).parent == 1
    assert_intact(root)


def test_an_identical_file_of_an_older_version_is_offered_as_repair(root: Path, directory: Path) -> None:
    """A damaged start sample, which is copied unchanged, is restored from a version where it is intact."""
    path = root / "versions/000003/start/users.npy"
    flip(path, 200)
    (entry,) = waiting(root, directory)
    with pytest.raises(StoreDamaged) as caught:
        publish_entry(Store(root), entry, config_of(directory))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("cp --remove-destination ")
    assert as_printed(caught.value.hint) == 0
    assert publish_entry(Store(root), entry, config_of(directory)).parent == 3
    assert_at_rest(root)


def test_a_store_without_an_intact_version_starts_a_new_space(
    root: Path, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The hint leads to the command that starts it, whichever file of the current version is damaged."""
    for name in ("items/vectors.npy", "manifest.json"):
        copy(directory / "S", root)
        for number in (1, 2, 3):
            flip(root / f"versions/00000{number}" / name, 200)
        snapshot = str(directory / "watch/day=5")
        assert run(["sync", snapshot, "--store", str(root)]) == 5
        begins = f"embsync accept {directory}/watch/day=3 --new-space --store {root}\n"
        leads_on = begins if name != "manifest.json" else f"embsync rollback --store {root}\n"
        assert capfd.readouterr().err.endswith(leads_on)
        assert run(["rollback", "--store", str(root)]) == 5
        assert capfd.readouterr().err.endswith(begins)
        assert run(["accept", snapshot, "--new-space", "--store", str(root)]) == 0
        assert Store(root).manifest(4).parent is None
        assert run(["verify", "--store", str(root)]) == 0
        capfd.readouterr()


def test_a_new_space_begins_where_the_link_is_damaged(root: Path, directory: Path) -> None:
    """Nothing is taken from a version that cannot be identified."""
    (root / "current").unlink()
    (root / "current").symlink_to("versions/00000")
    publish_snapshot(Store(root), Request(directory / "watch/day=5", new_space=True), config_of(directory))
    assert assert_intact(root) == 4


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("name", ["anchors/items.npy", "users/vectors.npy", "transform/items.npy"])
def test_forged_numbers_of_the_parent_are_damage_and_no_refusal(
    root: Path, directory: Path, name: str, number: float
) -> None:
    """NaN in a file of the parent is reported as damage of the store; the snapshot is neither refused nor failed."""
    path = root / "versions/000003" / name
    array = np.load(path)
    array[::2] = number
    path.unlink()
    np.save(path, array)
    assert next_night(root, directory) == {"StoreDamaged": 1}
    assert [entry.child.name for entry in waiting(root, directory)] == ["day=5"]


def test_nothing_is_switched_before_all_is_hashed(root: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds even if hashing takes longer than the other work."""
    hashing, real = threading.Event(), parent.verify

    def late(*arguments: Any, **options: Any) -> None:
        hashing.wait(10)
        real(*arguments, **options)

    def sealed(staging: Staging) -> list[FileEntry]:
        hashing.set()
        return seal(staging)

    seal = Staging.seal
    monkeypatch.setattr(parent, "verify", late)
    monkeypatch.setattr(Staging, "seal", sealed)
    flip(root / "versions/000003/start/items.npy", -1)
    assert next_night(root, directory) == {"StoreDamaged": 1}
    assert Store(root).numbers() == [1, 2, 3]


@pytest.mark.parametrize("behind", [0.0, 0.3])
def test_damage_that_looks_like_another_model_is_not_a_refusal(
    root: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, behind: float
) -> None:
    """Anchors of other ids fail the checks, but the damage is reported, even if hashing takes longer."""
    real = parent.verify

    def late(*arguments: Any, **options: Any) -> None:
        time.sleep(behind)
        real(*arguments, **options)

    monkeypatch.setattr(parent, "verify", late)
    path = root / "versions/000003/anchors/items.npy"
    array = np.load(path)
    path.unlink()
    np.save(path, array[::-1].copy())
    before = (root / layout.JOURNAL).read_bytes()
    assert next_night(root, directory) == {"StoreDamaged": 1}
    assert (root / layout.JOURNAL).read_bytes() == before


@pytest.mark.parametrize("name", [layout.INDEX, layout.INDEX_ROWS])
def test_a_damaged_index_is_rebuilt(root: Path, directory: Path, name: str) -> None:
    """The index is the only part that can be rebuilt; the journal records the damage."""
    flip(root / "versions/000003" / name, -1)
    assert next_night(root, directory) == {"published": 1}
    assert assert_intact(root) == 4
    assert Store(root).manifest(4).index.action == "rebuilt"
    *_, event = Store(root).journal.events()
    assert event.error is not None
    assert name in str(event.error["where"])


def test_an_ill_formed_snapshot_is_reported_despite_a_damaged_parent(root: Path, directory: Path) -> None:
    """If the parent is intact, an ill-formed snapshot is reported as such."""
    items = drop(directory, 6) / "items.npy"
    try:
        items.write_bytes(items.read_bytes()[:-1])
        (items.parent / "_SUCCESS").touch()
        assert next_night(root, directory) == {"published": 1, "SnapshotError": 1}
    finally:
        shutil.rmtree(items.parent)


def test_versions_of_earlier_releases_can_be_parents(root: Path, directory: Path) -> None:
    """They have no ``manifest.sha256``; the next version has one."""
    for number in (1, 2, 3):
        (root / f"versions/00000{number}/manifest.sha256").unlink()
    assert next_night(root, directory) == {"published": 1}
    assert (root / "versions/000004/manifest.sha256").is_file()


def test_show_prints_the_manifest_of_an_earlier_release_unchanged(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """``show --json`` prints the file, which does not list its own hash."""
    assert run(["show", "--json", "--store", str(root)]) == 0
    printed = capfd.readouterr().out
    assert printed == (root / "versions/000003/manifest.json").read_text()
    assert {entry["path"] for entry in json.loads(printed)["files"]} == VERSION_FILES
    with open_version(root, 3) as version:
        assert version.record.items.live == SIZES["items"]
