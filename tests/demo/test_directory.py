"""The demo never changes files in its directory that it did not write."""

from __future__ import annotations

from pathlib import Path

import pytest

from embsync.demo.directory import DemoDirectory
from embsync.demo.story import run
from embsync.demo.taste import World
from embsync.errors import UsageError


def test_a_directory_with_other_files_is_refused_and_unchanged(tmp_path: Path) -> None:
    """The error names the files found and an alternative."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "precious").write_text("kept")
    with pytest.raises(UsageError) as caught:
        run(tmp_path)
    assert "store" in str(caught.value)
    assert "name another: embsync demo " in str(caught.value)
    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["store", "precious"]


def test_only_some_of_many_other_files_are_listed(tmp_path: Path) -> None:
    """The message has three names and the number of the others."""
    for name in "abcde":
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="found a, b, c and 2 more"):
        DemoDirectory(tmp_path).prepare()


def test_a_marker_of_another_program_is_not_a_demo(tmp_path: Path) -> None:
    """A file that happens to have the marker's name does not allow the directory to be replaced."""
    (tmp_path / "EMBSYNC-DEMO").write_text("notes about the demo")
    with pytest.raises(UsageError, match="other than a demo"):
        DemoDirectory(tmp_path).prepare()
    assert (tmp_path / "EMBSYNC-DEMO").read_text() == "notes about the demo"


def test_a_file_in_the_way_is_reported(tmp_path: Path) -> None:
    """A path that is a file, or leads through one, is a usage error."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="not a directory"):
        DemoDirectory(file).prepare()
    with pytest.raises(UsageError, match="cannot use this directory"):
        DemoDirectory(file / "demo").prepare()


def test_a_link_to_a_store_is_not_followed(tmp_path: Path) -> None:
    """If the store of an earlier demo became a link, its target is not deleted."""
    place, elsewhere = DemoDirectory(tmp_path / "demo"), tmp_path / "elsewhere"
    place.prepare()
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    place.store.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="cannot use this directory"):
        place.prepare()
    assert (elsewhere / "precious").exists()


def test_only_an_earlier_demo_is_replaced(tmp_path: Path, small: World) -> None:
    """A second run starts from an empty store; other files are kept."""
    run(tmp_path / "demo", 3, world=small)
    (tmp_path / "demo" / "notes.txt").write_text("kept")
    played = run(tmp_path / "demo", 2, world=small)
    assert [night.version for night in played.nights] == [1, 2]
    assert sorted(path.name for path in played.snapshots.iterdir()) == ["day=1", "day=2"]
    assert (tmp_path / "demo" / "notes.txt").read_text() == "kept"


def test_a_directory_beside_a_store_is_suggested(tmp_path: Path) -> None:
    """If the store's path has other files, the message suggests a directory beside the store."""
    (tmp_path / "S" / "versions").mkdir(parents=True)
    with pytest.raises(UsageError, match=f"embsync demo {tmp_path}/S-2$"):
        DemoDirectory(tmp_path / "S").prepare()


def test_an_interrupted_demo_can_be_run_again(tmp_path: Path) -> None:
    """The marker is written first, so the remains of an interrupted run are recognised."""
    place = DemoDirectory(tmp_path / "demo")
    place.prepare()
    place.snapshot(1).mkdir(parents=True)
    place.prepare()
    assert [path.name for path in place.root.iterdir()] == ["EMBSYNC-DEMO"]
