"""Delta tables: the rows of one version, never of two nights, with a fingerprint that OPTIMIZE does not change."""

from __future__ import annotations

import base64
import importlib.util
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotChanged, SnapshotError, UsageError
from embsync.snapshots import SideDigest, SnapshotSide, open_snapshot
from embsync.watching.discovery import discover

pytestmark = pytest.mark.services("deltalake")

CONFIG = SnapshotConfig()


def write(path: Path, rows: int = 60, seed: int = 1, run: str | None = None, **options: Any) -> None:
    """Overwrite a table, as a nightly job does."""
    import deltalake
    import pyarrow as pa

    vectors = np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)
    shelves = [f"s {row % 2}" for row in range(rows)]
    table = pa.table({"id": np.arange(rows), "embedding": list(vectors), "shelf": shelves})
    named = None if run is None else deltalake.CommitProperties(custom_metadata={"userMetadata": run})
    deltalake.write_deltalake(str(path), table, mode="overwrite", commit_properties=named, **options)


def snapshot(path: Path) -> Path:
    """Write both sides once."""
    write(path / "items")
    write(path / "users", 40, 2)
    return path


def digest(side: SnapshotSide | None) -> str:
    """Return the digest of a side after one pass."""
    assert side is not None
    made = SideDigest(side, side.ids(), earlier=False)
    for start, block in made.rows.blocks():
        made.update(start, block)
    return made.hexdigest()


def table(path: Path) -> Any:
    """Open a table with the deltalake library."""
    from deltalake import DeltaTable

    return DeltaTable(str(path))


def test_deleted_rows_are_not_read(tmp_path: Path) -> None:
    """Files of older versions are ignored; names may have partitions and blanks."""
    for name in ("items", "users"):
        write(tmp_path / name, partition_by=["shelf"])
    table(tmp_path / "items").delete("id >= 40")
    table(tmp_path / "users").delete("id < 3")
    opened = open_snapshot(tmp_path, CONFIG)
    assert opened.users is not None
    assert (opened.layout, opened.unread) == ("delta", ())
    assert sorted(opened.items.ids()) == list(range(40))
    assert sorted(opened.users.ids()) == list(range(3, 60))


def test_a_single_table_is_one_side(tmp_path: Path) -> None:
    """A table at the snapshot's root is the items."""
    write(tmp_path / "t")
    table(tmp_path / "t").delete("id = 7")
    opened = open_snapshot(tmp_path / "t", CONFIG)
    assert (opened.users, opened.items.count) == (None, 59)


def test_the_fingerprint_depends_on_contents_alone(tmp_path: Path) -> None:
    """OPTIMIZE and VACUUM do not change it; other values and one id less do."""
    path = snapshot(tmp_path)
    before = digest(open_snapshot(path, CONFIG).items)
    items = table(path / "items")
    items.optimize.z_order(["shelf"])
    items.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert digest(open_snapshot(path, CONFIG).items) == before
    assert digest(open_snapshot(path, CONFIG).users) != before
    write(path / "items", seed=9)
    write(path / "users", 40, 10)
    assert digest(open_snapshot(path, CONFIG).items) != before


def test_items_and_users_of_different_nights_are_never_combined(tmp_path: Path) -> None:
    """A snapshot is refused between the two commits of a night; afterwards it is read, also after an OPTIMIZE."""
    path = snapshot(tmp_path / "w" / "model")
    for night, sides in enumerate((("items", "users"), ("users", "items")), 3):
        write(path / sides[0], 60, night)
        with pytest.raises(SnapshotChanged, match=r"may be of different nights.*userMetadata"):
            open_snapshot(path, CONFIG)
        table(path / sides[1]).optimize.compact()
        with pytest.raises(SnapshotChanged):
            open_snapshot(path, CONFIG)
        write(path / sides[1], 60, night + 10)
        open_snapshot(path, CONFIG)


def test_a_delete_on_one_side_does_not_break_the_pair(tmp_path: Path) -> None:
    """It holds also if a commit does not record its operation, as in a handwritten log."""
    path = snapshot(tmp_path)
    table(path / "items").delete("id >= 40")
    table(path / "items").delete("shelf = 's 0'")
    log = path / "items" / "_delta_log"
    for file in log.iterdir():
        if "DELETE" not in file.read_text():
            file.write_text("\n".join(line for line in file.read_text().splitlines() if "commitInfo" not in line))
    assert sorted(open_snapshot(path, CONFIG).items.ids()) == list(range(1, 40, 2))


def test_an_extra_commit_on_one_side_creates_no_false_pair(tmp_path: Path) -> None:
    """With a manual repair, the numbers of commits would be equal in the middle of a night."""
    path = snapshot(tmp_path)
    write(path / "items", 60, 3)
    write(path / "items", 60, 4)
    write(path / "users", 40, 5)
    write(path / "users", 40, 6)
    with pytest.raises(SnapshotChanged, match="may be of different nights"):
        open_snapshot(path, CONFIG)


def test_the_name_of_the_run_pairs_tables(tmp_path: Path) -> None:
    """The number of commits does not matter then; a run name on one side only pairs nothing."""
    write(tmp_path / "items", run="a")
    write(tmp_path / "items", run="b")
    write(tmp_path / "users", run="b")
    open_snapshot(tmp_path, CONFIG)
    write(tmp_path / "users", run="c")
    with pytest.raises(SnapshotChanged, match="userMetadata 'b' on items and 'c' on users"):
        open_snapshot(tmp_path, CONFIG)
    write(tmp_path / "users")
    with pytest.raises(SnapshotChanged, match="userMetadata"):
        open_snapshot(tmp_path, CONFIG)


def test_without_the_library_the_hint_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is 2, as for every extra."""
    path = snapshot(tmp_path)
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deltalake" else there(name))
    with pytest.raises(UsageError, match=r"pip install 'embsync\[delta\]'"):
        open_snapshot(path, CONFIG)


@pytest.mark.parametrize("damage", ["text", "empty", "link", "outside", "absolute"])
def test_an_inconsistent_log_is_refused(tmp_path: Path, damage: str) -> None:
    """Invalid, empty and linked logs, and paths outside the table, give one line; no file outside is opened."""
    path = snapshot(tmp_path / "s")
    log = path / "items" / "_delta_log" / "00000000000000000000.json"
    data = next((path / "items").glob("*.parquet"))
    outside = data.rename(tmp_path / "outside.parquet")
    text = log.read_text()
    names = {"outside": "../../outside.parquet", "absolute": str(outside)}
    if damage == "link":
        log.rename(tmp_path / "log")
        log.symlink_to(tmp_path / "log")
    else:
        log.write_text(
            {"text": "garbage", "empty": ""}.get(damage)
            if damage in {"text", "empty"}
            else text.replace(data.name, names[damage])
        )
    with pytest.raises(SnapshotError, match="items") as refused:
        open_snapshot(path, CONFIG)
    if damage == "text":
        assert refused.value.details().keys() == {"found", "expected"}


def relogged(table: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change each action of a table's first commit in its log."""
    log = table / "_delta_log" / "00000000000000000000.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        change(line)
    log.write_text("\n".join(map(json.dumps, lines)))


def inline_vector(*rows: int) -> dict[str, Any]:
    """Return a deletion vector stored in the log: a Roaring bitmap of row numbers in ZeroMQ's base 85."""
    ordinary = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    zeromq = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    data = struct.pack(f"<IQIIIHHI{len(rows)}H", 1681511377, 1, 0, 12346, 1, 0, len(rows) - 1, 16, *rows)
    assert len(data) % 4 == 0
    text = base64.b85encode(data).decode().translate(str.maketrans(ordinary, zeromq))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(data), "cardinality": len(rows)}


@pytest.mark.parametrize("feature", [True, False])
@pytest.mark.parametrize("vector", ["inline", "lost", "malformed"])
@pytest.mark.parametrize("side", ["items", "users"])
def test_deletion_vectors_are_refused_by_name(tmp_path: Path, side: str, vector: str, feature: bool) -> None:
    """A valid one, one without its file, and an invalid one are refused, even without the table feature they need."""
    path = snapshot(tmp_path)
    made = {
        "inline": inline_vector(3, 7),
        "lost": {
            "storageType": "u",
            "pathOrInlineDv": "vBn[lx{q8@P<9BNH/isA",
            "offset": 1,
            "sizeInBytes": 36,
            "cardinality": 2,
        },
        "malformed": {**inline_vector(3, 7), "pathOrInlineDv": "00000"},
    }[vector]

    def change(action: dict[str, Any]) -> None:
        if "protocol" in action and feature:
            action["protocol"] = {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["deletionVectors"],
                "writerFeatures": ["deletionVectors"],
            }
        if "add" in action:
            action["add"]["deletionVector"] = made

    relogged(path / side, change)
    with pytest.raises(SnapshotError, match=rf"{side}: .*unsupported features; found deletion vectors;.*PURGE"):
        open_snapshot(path, CONFIG)


def test_a_table_that_allows_but_has_no_deletion_vectors_is_read(tmp_path: Path) -> None:
    """The feature alone deletes no row; ``delta.enableDeletionVectors`` is the default of some writers."""
    path = snapshot(tmp_path)

    def change(action: dict[str, Any]) -> None:
        if "protocol" in action:
            action["protocol"] = {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["deletionVectors"],
                "writerFeatures": ["deletionVectors"],
            }
        if "metaData" in action:
            action["metaData"]["configuration"]["delta.enableDeletionVectors"] = "true"

    relogged(path / "items", change)
    assert open_snapshot(path, CONFIG).items.count == 60


@pytest.mark.parametrize("mode", ["name", "id"])
def test_column_mapping_is_refused_by_name(tmp_path: Path, mode: str) -> None:
    """The column names of the files differ from those of the table."""
    path = snapshot(tmp_path)

    def change(action: dict[str, Any]) -> None:
        if "protocol" in action:
            action["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
        if "metaData" in action:
            schema = json.loads(action["metaData"]["schemaString"])
            for number, field in enumerate(schema["fields"], 1):
                field["metadata"] = {
                    "delta.columnMapping.id": number,
                    "delta.columnMapping.physicalName": f"col-{number}",
                }
            action["metaData"]["schemaString"] = json.dumps(schema)
            action["metaData"]["configuration"] = {
                "delta.columnMapping.mode": mode,
                "delta.columnMapping.maxColumnId": "3",
            }

    relogged(path / "users", change)
    with pytest.raises(SnapshotError, match=rf"users: .*unsupported features; found column mapping by {mode};"):
        open_snapshot(path, CONFIG)


def test_a_table_beside_plain_files_is_refused(tmp_path: Path) -> None:
    """Items as a table and users as part files are refused."""
    from snapshots.made import model
    from snapshots.test_half import parquet_side

    write(tmp_path / "items")
    parquet_side(tmp_path / "users", model().user_ids, model().users)
    with pytest.raises(SnapshotError, match="incomplete snapshot"):
        open_snapshot(tmp_path, CONFIG)


def test_a_watched_table_is_discovered(tmp_path: Path) -> None:
    """The table is a snapshot, ready when it has settled."""
    from embsync.config import WatchConfig

    snapshot(tmp_path / "w" / "model")
    (child,) = discover(tmp_path / "w", WatchConfig(settle_seconds=0), CONFIG, now=1e10).children
    assert child.state == "ready", child.reason
