"""All layouts together: the same data is the same snapshot, however it was left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from snapshots.made import Model, model, vectors, write_npy, write_npz
from snapshots.test_safetensors import write as write_safetensors

from embsync.alignment.blocks import block_rows
from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots import FingerprintedRows, Snapshot, open_snapshot

CONFIG = SnapshotConfig()


def digests(snapshot: Snapshot) -> list[str]:
    """Return the fingerprint of each side after one pass."""
    found = []
    for side in snapshot.sides:
        rows = FingerprintedRows(side, side.ids())
        for _ in rows.blocks():
            pass
        found.append(rows.digest())
    return found


@pytest.mark.parametrize("named", [False, True])
def test_the_same_data_has_the_same_fingerprint_in_every_layout(tmp_path: Path, named: bool) -> None:
    """Blocks too are the same, so that every sum over them is, bit for bit."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from snapshots.test_parquet import write as write_parquet

    made = model(items=9000, width=128)
    made = made.named() if named else made
    swapped = Model(np.asfortranarray(made.items.astype(">f4")), made.item_ids, made.users, made.user_ids)
    paths = [write_npy(tmp_path / "npy", made), write_npy(tmp_path / "swapped", swapped),
             write_npz(tmp_path / "m.npz", made), write_npz(tmp_path / "d.npz", made, deflate=True),
             write_parquet(tmp_path / "parquet", made, row_group_size=777),
             write_parquet(tmp_path / "fixed", made, "fixed"), write_safetensors(tmp_path / "safetensors", made)]
    opened = [open_snapshot(path, CONFIG) for path in paths]
    assert len({tuple(digests(snapshot)) for snapshot in opened}) == 1
    sizes = {tuple(len(block) for _, block in snapshot.items.blocks()) for snapshot in opened}
    step = block_rows(128)
    assert sizes == {tuple(min(step, 9000 - start) for start in range(0, 9000, step))}


def test_directories_named_like_files_are_sides(tmp_path: Path) -> None:
    """Spark makes a directory of whatever name it is given, also items.parquet."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from snapshots.test_parquet import table

    made = model()
    (tmp_path / "items.parquet").mkdir()
    parquet.write_table(table(made.item_ids, made.items), tmp_path / "items.parquet" / "part-00000.snappy.parquet")
    np.testing.assert_array_equal(vectors(open_snapshot(tmp_path, CONFIG).items), made.items)
    parquet.write_table(table(made.item_ids, made.items), tmp_path / "itemFactors.parquet")
    with pytest.raises(SnapshotError, match="more than one place for items"):
        open_snapshot(tmp_path, CONFIG)


def test_a_configured_layout_is_the_only_one_tried(tmp_path: Path) -> None:
    """The refusal then names that layout alone."""
    path = write_npy(tmp_path / "s", model())
    with pytest.raises(SnapshotError, match=r"no known layout.*expected safetensors: items\.safetensors[^|]*$"):
        open_snapshot(path, SnapshotConfig(layout="safetensors"))
