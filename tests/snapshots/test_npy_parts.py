"""Layout npy_parts: numbered arrays are one array; a missing part is refused or waited for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from snapshots.made import Array, Model, assert_reads, model, read, vectors

from embsync.config import SnapshotConfig, WatchConfig
from embsync.errors import SnapshotChanged, SnapshotError, SnapshotIncomplete
from embsync.rows import block_rows
from embsync.snapshots import open_snapshot
from embsync.watching.discovery import discover

CONFIG = SnapshotConfig()


def pieces(path: Path, name: str, array: Array, many: int = 12, first: int = 0) -> None:
    """Write an array as ``many`` files, named by a pattern."""
    for number, part in enumerate(np.array_split(array, many), first):
        file = path / f"{name.format(number, many)}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, part)


def write(path: Path, made: Model, name: str = "{}-{{:05}}", many: int = 12, first: int = 0) -> Path:
    """Write the model as numbered parts."""
    for array, values in vars(made).items():
        pieces(path, name.format(array), values, many, first)
    return path


@pytest.mark.parametrize(
    "name", ["{}-{{:05}}", "{}_{{}}", "{}{{}}", "{}-{{:05}}-of-{{:05}}", "{}/part-{{}}", "{}/{{}}"]
)
@pytest.mark.parametrize("first", [0, 1])
def test_parts_are_joined_in_numeric_order(tmp_path: Path, name: str, first: int) -> None:
    """At the root or in directories, 9 is before 10, from 0 or 1; parts may have strings of other widths."""
    made = model(items=301, users=203).named()
    opened = open_snapshot(write(tmp_path, made, name, first=first), CONFIG)
    assert (opened.layout, opened.unread) == ("npy_parts", ())
    assert_reads(opened, made)


def test_block_boundaries_depend_on_the_width_alone(tmp_path: Path) -> None:
    """It includes big-endian parts smaller and larger than a block, with ids and weights in one file each."""
    rows = 2 * block_rows(64) + 100
    made = model(items=rows, users=3, width=64)
    swapped = made.items.astype(">f4")
    for number, (start, end) in enumerate([(0, 3), (3, 3), (3, 5000), (5000, rows)]):
        np.save(tmp_path / f"part-{number}.npy", swapped[start:end])
    np.save(tmp_path / "item_ids.npy", made.item_ids)
    np.save(tmp_path / "item_weights.npy", np.arange(rows))
    items = open_snapshot(tmp_path, CONFIG).items
    assert [len(block) for _, block in items.blocks()] == [block_rows(64), block_rows(64), 100]
    np.testing.assert_array_equal(vectors(items), made.items)
    np.testing.assert_array_equal(items.ids(), made.item_ids)
    assert items.weights()[-1] == rows - 1


def test_ids_in_numbered_parquet_files_are_read(tmp_path: Path) -> None:
    """As in clip-retrieval's output, each file has as many rows as the part of its number."""
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow as pa

    made = model(items=36)
    pieces(tmp_path, "img_emb/img_emb_{}", made.items.astype("f2"))
    (tmp_path / "metadata").mkdir()
    paths = [f"/img/{row}.jpg" for row in range(36)]
    for number in range(12):
        table = pa.table({"image_path": paths[number * 3 : number * 3 + 3], "caption": ["x"] * 3})
        pq.write_table(table, tmp_path / f"metadata/metadata_{number}.parquet")
    opened = open_snapshot(tmp_path, CONFIG)
    assert (opened.layout, opened.unread) == ("npy_parts", ())
    np.testing.assert_array_equal(vectors(opened.items), made.items.astype("f2"))
    assert [value.decode() for value in opened.items.ids().tolist()] == paths
    pq.write_table(table.slice(1), tmp_path / "metadata/metadata_11.parquet")
    with pytest.raises(SnapshotError, match=r"metadata_11\.parquet: ids and vectors differ in number"):
        open_snapshot(tmp_path, CONFIG)
    (tmp_path / "metadata/metadata_11.parquet").unlink()
    with pytest.raises(SnapshotError, match="different numbers of files of ids"):
        open_snapshot(tmp_path, CONFIG)


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def put(name: str, array: Array) -> Callable[[Path], None]:
    return lambda path: np.save(path / name, array)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (remove("items-00003.npy"), "consecutively.*number 3 once"),
        (remove("item_ids-00003.npy"), "consecutively.*number 3 once"),
        (remove("item_ids-00011.npy"), "differ in number"),
        (put("items-3.npy", np.ones((2, 8), "f4")), "consecutively"),
        (
            put("items-00012.npy", np.ones((2, 9), "f4")),
            "pieces of one array differ.*expected rows as in items-00000",
        ),
        (put("items-00012.npy", np.ones((2, 8), "f8")), "pieces of one array differ"),
        (put("items-00012.npy", np.ones(2, "f4")), "pieces of one array differ"),
        (put("items-00012.npy", np.asfortranarray(np.ones((2, 8), "f4"))), "Fortran"),
        (put("item_ids-00011.npy", np.array(["a"])), "pieces of one array differ"),
        (put("item_ids.npy", np.arange(300)), "more than one item_ids"),
        (put("item_factors-0.npy", np.ones((2, 8), "f4")), "more than one array in pieces"),
        (put("item_ids-00000.npy", np.arange(25) * 0), "repeated ids"),
        (lambda path: (path / "items-00002.npy").write_bytes(b"\x93NUMPY"), r"items-00002\.npy: not a \.npy file"),
        (lambda path: [file.unlink() for file in path.glob("item_ids*")], "vectors without ids"),
    ],
)
def test_parts_that_do_not_match_are_refused(tmp_path: Path, change: Callable[[Path], object], says: str) -> None:
    """Gaps, repeated numbers, other widths and types, ids repeated across parts and damaged parts are refused."""
    change(write(tmp_path, model()))
    with pytest.raises(SnapshotError, match=says) as refused:
        read(tmp_path, CONFIG)
    assert not refused.value.transient


def test_two_arrays_without_a_side_in_their_names_are_an_error(tmp_path: Path) -> None:
    """clip-retrieval writes arrays of images and of texts."""
    for name in ("img_emb", "text_emb"):
        pieces(tmp_path, f"{name}/{name}_{{}}", np.ones((24, 4), "f4"))
    with pytest.raises(SnapshotError, match=r"more than one array in pieces.*img_emb.*text_emb"):
        open_snapshot(tmp_path, CONFIG)


def test_a_part_that_changes_between_passes_is_noticed(tmp_path: Path) -> None:
    """The headers of all parts are compared with those at opening."""
    items = open_snapshot(write(tmp_path, model()), CONFIG).items
    np.save(tmp_path / "items-00005.npy", np.ones((3, 8), "f4"))
    with pytest.raises(SnapshotChanged):
        vectors(items)


def test_missing_parts_are_waited_for(tmp_path: Path) -> None:
    """The snapshot waits while a part is transferred, or while names show that there are more parts."""
    watch = WatchConfig(settle_seconds=0)
    night = write(tmp_path / "day=1", model())

    def state() -> str:
        (child,) = discover(tmp_path, watch, CONFIG, now=time.time() + 1).children
        return child.state

    assert state() == "ready"
    (night / "items-00011.npy").rename(night / ".items-00011.npy.aB3xY9")
    assert state() == "waiting"
    (night / ".items-00011.npy.aB3xY9").rename(night / "items-00011.npy")
    assert state() == "ready"
    some = write(tmp_path / "some", model(), "{}-{{:05}}-of-{{:05}}")
    (some / "items-00011-of-00012.npy").unlink()
    with pytest.raises(SnapshotIncomplete, match="11 pieces; expected 12"):
        open_snapshot(some, CONFIG)


@pytest.mark.parametrize(
    ("name", "place", "found"),
    [
        ("items-00003-of-00013.npy", shutil.copy, "13 pieces, whose names say 12, 13"),
        ("items-00012-of-00012.npy", shutil.copy, "13 pieces, whose names say 12"),
        ("items-00003-of-00014.npy", shutil.move, "12 pieces, whose names say 12, 14"),
    ],
)
def test_pieces_of_more_than_one_array_are_refused(
    tmp_path: Path, name: str, place: Callable[[Path, Path], object], found: str
) -> None:
    """The message has the number of pieces and every total that names state."""
    some = write(tmp_path / "some", model(), "{}-{{:05}}-of-{{:05}}")
    place(some / "items-00003-of-00012.npy", some / name)
    with pytest.raises(SnapshotError, match=f"pieces of more than one array; found {found}; expected one array"):
        open_snapshot(some, CONFIG)


def test_other_numbered_arrays_are_not_a_snapshot(tmp_path: Path) -> None:
    """Curves of an evaluation, one file per epoch, are not a snapshot."""
    pieces(tmp_path / "curves", "loss_{}", np.ones(24))
    (child,) = discover(tmp_path, WatchConfig(settle_seconds=0), CONFIG, now=time.time() + 1).children
    assert child.state == "not_a_snapshot"
