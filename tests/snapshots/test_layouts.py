"""All layouts together: the same data give the same snapshot in every layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from snapshots.made import Model, model, vectors, write_npy, write_npz
from snapshots.test_safetensors import write as write_safetensors

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.rows import block_rows
from embsync.snapshots import SideDigest, Snapshot, SnapshotSide, files, fingerprint_of, layouts, open_snapshot

CONFIG = SnapshotConfig()


def fingerprint(snapshot: Snapshot) -> str:
    """Return the fingerprint after one pass."""
    return fingerprint_of(passed(side) for side in snapshot.sides)


def passed(side: SnapshotSide) -> SideDigest:
    """Return the digest of a side after one pass."""
    digest = SideDigest(side, side.ids(), earlier=False)
    for start, block in digest.rows.blocks():
        digest.update(start, block)
    return digest


@pytest.mark.parametrize("named", [False, True])
def test_the_same_data_has_the_same_fingerprint_in_every_layout(tmp_path: Path, named: bool) -> None:
    """The blocks are equal too, so all sums over them are equal bit for bit."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from snapshots.test_parquet import write as write_parquet

    made = model(items=9000, width=128)
    made = made.named() if named else made
    swapped = Model(np.asfortranarray(made.items.astype(">f4")), made.item_ids, made.users, made.user_ids)
    paths = [
        write_npy(tmp_path / "npy", made),
        write_npy(tmp_path / "swapped", swapped),
        write_npz(tmp_path / "m.npz", made),
        write_npz(tmp_path / "d.npz", made, deflate=True),
        write_parquet(tmp_path / "parquet", made, row_group_size=777),
        write_parquet(tmp_path / "fixed", made, "fixed"),
        write_safetensors(tmp_path / "safetensors", made),
    ]
    opened = [open_snapshot(path, CONFIG) for path in paths]
    assert len({fingerprint(snapshot) for snapshot in opened}) == 1
    sizes = {tuple(len(block) for _, block in snapshot.items.blocks()) for snapshot in opened}
    step = block_rows(128)
    assert sizes == {tuple(min(step, 9000 - start) for start in range(0, 9000, step))}


def test_directories_named_like_files_are_sides(tmp_path: Path) -> None:
    """Spark creates a directory with any given name, including items.parquet."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from snapshots.test_parquet import table

    made = model()
    (tmp_path / "items.parquet").mkdir()
    parquet.write_table(table(made.item_ids, made.items), tmp_path / "items.parquet" / "part-00000.snappy.parquet")
    np.testing.assert_array_equal(vectors(open_snapshot(tmp_path, CONFIG).items), made.items)
    parquet.write_table(table(made.item_ids, made.items), tmp_path / "itemFactors.parquet")
    with pytest.raises(SnapshotError, match="more than one file or directory for items"):
        open_snapshot(tmp_path, CONFIG)


def test_a_directory_is_listed_once_for_all_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layout checks completeness, but the file system is read once per scan."""
    folder = write_npy(tmp_path / "npy", model())
    listed: list[str] = []
    listing = files._listing
    monkeypatch.setattr(files, "_listing", lambda where, *more: (listed.append(where), listing(where, *more))[1])
    place = files.Place.at(folder)
    for scans in (1, 2):
        assert layouts.missing_at(place, CONFIG, "_SUCCESS") is None
        assert listed == scans * [str(folder)]


def test_a_configured_layout_is_the_only_one_tried(tmp_path: Path) -> None:
    """The message names only that layout."""
    path = write_npy(tmp_path / "s", model())
    with pytest.raises(SnapshotError, match=r"no known layout.*expected safetensors: items\.safetensors[^|]*$"):
        open_snapshot(path, SnapshotConfig(layout="safetensors"))


CHANGES: dict[str, Callable[[Model], Model]] = {
    "a number": lambda made: replace(made, items=made.items + np.eye(300, 8, dtype="f4")),
    "a number of the other side": lambda made: replace(made, users=made.users + np.eye(200, 8, dtype="f4")),
    "the sign of a zero": lambda made: replace(made, items=np.where(np.eye(300, 8) > 0, np.float32(-0.0), made.items)),
    "an id": lambda made: replace(made, item_ids=np.where(np.arange(300) == 7, 10**9, made.item_ids)),
    "an id of the other side": lambda made: replace(made, user_ids=made.user_ids[::-1]),
    "the rows of other ids": lambda made: replace(made, items=made.items[::-1]),
    "ids as strings": lambda made: replace(
        made, item_ids=made.item_ids.astype("U"), user_ids=made.user_ids.astype("U")
    ),
    "the type of the numbers": lambda made: made.typed("f8"),
    "a row more": lambda made: replace(
        made, items=np.vstack([made.items, made.items[:1]]), item_ids=np.append(made.item_ids, 10**9)
    ),
    "the sides exchanged": lambda made: Model(made.users, made.user_ids, made.items, made.item_ids),
}


def test_the_fingerprint_covers_all_contents(tmp_path: Path) -> None:
    """Snapshots that would be published differently never have the same fingerprint; the same data always do."""
    base = model()
    base.items[0, 0] = 0.0
    made = {"": base, **{name: change(base) for name, change in CHANGES.items()}}
    found = {
        name: fingerprint(open_snapshot(write_npy(tmp_path / f"s{number}", one), CONFIG))
        for number, (name, one) in enumerate(made.items())
    }
    assert len(set(found.values())) == len(found)
    one_side = write_npz(tmp_path / "one.npz", base)
    with np.load(one_side) as arrays:
        np.savez(tmp_path / "items.npz", items=arrays["items"], item_ids=arrays["item_ids"])
    alone = fingerprint(open_snapshot(tmp_path / "items.npz", CONFIG))
    assert alone not in found.values()
    turned = replace(base, items=base.items[::-1], item_ids=base.item_ids[::-1])
    for name, same in {"again": base, "in another order": turned}.items():
        assert fingerprint(open_snapshot(write_npy(tmp_path / name, same), CONFIG)) == found[""]


@pytest.mark.parametrize("side", ["item", "user"])
def test_the_fingerprint_covers_weights(tmp_path: Path, side: str) -> None:
    """Other weights, or none, change it, since weights affect the rotation; another number type of them does not."""
    made = model()
    count = len(made.item_ids if side == "item" else made.user_ids)
    given: list[np.ndarray | None] = [None, np.ones(count), np.arange(count), np.arange(count)[::-1], np.zeros(count)]
    found = []
    for number, weights in enumerate([*given, np.arange(count, dtype=np.float32)]):
        path = write_npy(tmp_path / f"s{number}", made)
        if weights is not None:
            np.save(path / f"{side}_weights.npy", weights)
        found.append(fingerprint(open_snapshot(path, CONFIG)))
    assert len(set(found[:-1])) == len(given)
    assert found[-1] == found[2]
