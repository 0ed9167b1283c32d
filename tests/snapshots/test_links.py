"""Links as paths given by hand: the link's own name is used, and links inside must stay in their tree."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from snapshots.made import assert_reads, model, write_npy, write_npz

from embsync.config import SnapshotConfig
from embsync.errors import NotFoundError, SnapshotError
from embsync.snapshots import open_snapshot

CONFIG = SnapshotConfig()


def cache(root: Path, *, absolute: bool = False) -> Path:
    """Write a snapshot as in a Hugging Face cache: links into blobs."""
    real = write_npy(root / "blobs", model())
    inside = root / "snapshots" / "42f548f3"
    inside.mkdir(parents=True)
    for number, file in enumerate(sorted(real.iterdir())):
        blob = file.rename(file.with_name(f"9f86d08{number}"))
        (inside / file.name).symlink_to(blob if absolute else os.path.relpath(blob, inside))
    return inside


@pytest.mark.parametrize("name", ["day=1.npz", "model.npz"])
def test_a_link_keeps_its_own_name(tmp_path: Path, name: str) -> None:
    """git-annex, DVC and hf_hub_download link to content-addressed files without suffixes."""
    made = model()
    (tmp_path / "blobs").mkdir()
    write_npz(tmp_path / "blobs" / "x.npz", made).rename(tmp_path / "blobs" / "9f86d081")
    (tmp_path / name).symlink_to("blobs/9f86d081")
    opened = open_snapshot(tmp_path / name, CONFIG)
    assert_reads(opened, made)
    assert opened.name == name


@pytest.mark.parametrize("name", ["latest", "run.v2"])
def test_a_link_without_a_data_suffix_takes_the_name_of_its_target(tmp_path: Path, name: str) -> None:
    """``latest -> day=1.npz`` and ``latest -> day=1`` are read with the name latest."""
    made = model()
    write_npz(tmp_path / "day=1.npz", made)
    (tmp_path / name).symlink_to("day=1.npz")
    (tmp_path / f"d{name}").symlink_to(write_npy(tmp_path / "day=2", made))
    for path in (tmp_path / name, tmp_path / f"d{name}"):
        assert_reads(open_snapshot(path, CONFIG), made)
        assert open_snapshot(path, CONFIG).name == path.name


@pytest.mark.parametrize("absolute", [False, True])
def test_links_into_the_blobs_of_a_cache_are_read(tmp_path: Path, absolute: bool) -> None:
    """It applies to a path given by hand; in a watched directory they are refused by name."""
    inside = cache(tmp_path / "models--shop--als", absolute=absolute)
    assert_reads(open_snapshot(inside, CONFIG), model())
    with pytest.raises(SnapshotError, match="will not be opened; found a link"):
        open_snapshot(inside, CONFIG, follow_link=False)


def test_a_projected_volume_is_read(tmp_path: Path) -> None:
    """Kubernetes links each name through ``..data``, itself a link to the current directory."""
    made = model()
    path = tmp_path / "volume"
    real = write_npy(path / "..2026_11_25", made)
    (path / "..data").symlink_to("..2026_11_25")
    for file in real.iterdir():
        (path / file.name).symlink_to(f"..data/{file.name}")
    opened = open_snapshot(path, CONFIG)
    assert_reads(opened, made)
    assert opened.unread == ()


def test_sides_that_are_links_to_directories_are_read(tmp_path: Path) -> None:
    """The target directories are inside the snapshot."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from snapshots.test_half import parquet_side

    made = model()
    parquet_side(tmp_path / "s" / "run-17" / "x", made.item_ids, made.items)
    (tmp_path / "s" / "items").symlink_to("run-17/x")
    opened = open_snapshot(tmp_path / "s", SnapshotConfig(sides="items"))
    np.testing.assert_array_equal(opened.items.ids(), made.item_ids)


@pytest.mark.parametrize("target", ["outside.npy", "../outside.npy", "/etc/hostname", "items.npy", "nowhere", "fifo"])
def test_links_that_leave_the_tree_are_refused_by_name(tmp_path: Path, target: str) -> None:
    """A file outside is not read through a snapshot; cycles and dangling links are not files."""
    path = write_npy(tmp_path / "s", model())
    (path / "items.npy").rename(tmp_path / "outside.npy")
    os.mkfifo(path / "fifo")
    (path / "items.npy").symlink_to(tmp_path / target if target == "outside.npy" else target)
    with pytest.raises(SnapshotError, match=r"items\.npy"):
        open_snapshot(path, CONFIG)


def test_a_link_from_one_cache_into_another_is_refused(tmp_path: Path) -> None:
    """Links into the blobs of another model, and from a directory merely named snapshots, are refused."""
    inside = cache(tmp_path / "mine")
    other = tmp_path / "other" / "blobs"
    other.mkdir(parents=True)
    (tmp_path / "mine" / "blobs" / "9f86d080").rename(other / "x")
    (inside / "item_ids.npy").unlink()
    (inside / "item_ids.npy").symlink_to(other / "x")
    with pytest.raises(SnapshotError, match=r"item_ids\.npy: will not be opened; found a link"):
        open_snapshot(inside, CONFIG)
    (tmp_path / "snapshots").mkdir()
    lone = write_npy(tmp_path / "snapshots" / "s", model())
    (lone / "items.npy").rename(tmp_path / "i.npy")
    (lone / "items.npy").symlink_to("../../i.npy")
    with pytest.raises(SnapshotError, match=r"items\.npy"):
        open_snapshot(lone, CONFIG)


def test_a_dangling_link_counts_as_missing(tmp_path: Path) -> None:
    """The exit code is 6, as for any missing path."""
    (tmp_path / "items.npz").symlink_to("nowhere")
    with pytest.raises(NotFoundError):
        open_snapshot(tmp_path / "items.npz", CONFIG)
