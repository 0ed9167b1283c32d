"""Directories of a table format are never read as part files, which would include deleted rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from snapshots.made import model
from snapshots.test_half import parquet_side

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots import open_snapshot

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

LOGS = {
    "Delta": "_delta_log/00000000000000000000.json",
    "Hudi": ".hoodie/hoodie.properties",
    "Iceberg": "metadata/00000-abc.metadata.json",
    "Lance": "_versions/1.manifest",
    "Spark stream": "_spark_metadata/0",
}


def snapshot(path: Path) -> Path:
    """Write both sides as part files."""
    made = model()
    parquet_side(path / "items", made.item_ids, made.items)
    parquet_side(path / "users", made.user_ids, made.users)
    return path


@pytest.mark.parametrize("where", [".", "items", "users", ".."])
@pytest.mark.parametrize("named", LOGS)
def test_a_table_is_refused_by_name(tmp_path: Path, named: str, where: str) -> None:
    """At the root, on either side, and if the snapshot is inside a table; the hint names the table."""
    if named == "Delta" and where != "..":  # read and not refused: see test_delta.py
        return
    path = snapshot(tmp_path / "w" / "day=1")
    log = path / where / LOGS[named]
    log.parent.mkdir()
    log.write_text("{}")
    with pytest.raises(SnapshotError, match=rf"a table whose files include outdated rows; found .*{named}") as refusal:
        open_snapshot(path, SnapshotConfig())
    assert str((path / where).resolve()) in (refusal.value.hint or "")


def test_a_file_inside_a_table_and_a_deep_partition_are_refused(tmp_path: Path) -> None:
    """A part file or ``ds=1/hour=2`` given by hand may hold rows that the table deleted."""
    made = model()
    table = tmp_path / "items"
    parquet_side(table / "ds=1" / "hour=2", made.item_ids, made.items)
    (table / "_delta_log").mkdir()
    with pytest.raises(SnapshotError, match="Delta"):
        open_snapshot(table / "ds=1" / "hour=2", SnapshotConfig())
    parquet_side(table, made.item_ids, made.items)
    with pytest.raises(SnapshotError, match="Delta"):
        open_snapshot(table / "part-00000.parquet", SnapshotConfig())


def test_other_directories_named_metadata_are_not_tables(tmp_path: Path) -> None:
    """Spark saves models with such a directory."""
    path = snapshot(tmp_path / "day=1")
    (path / "metadata").mkdir()
    (path / "metadata" / "part-00000").write_text("{}")
    assert open_snapshot(path, SnapshotConfig()).unread == ()
