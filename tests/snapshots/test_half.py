"""A snapshot with incomplete or misnamed users is never published as items alone."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from snapshots.made import Model, model, write_npy

from embsync.config import SnapshotConfig, WatchConfig
from embsync.errors import SnapshotError
from embsync.snapshots import open_snapshot
from embsync.snapshots.names import ParsedName, parse
from embsync.watching.discovery import discover

AT_ONCE = WatchConfig(settle_seconds=0)

#: Entries beside complete items that show that users are missing.
LOOKS_LIKE_USERS = (
    ".users.parquet.aB3xY9",
    "users.parquet._COPYING_",
    "users.parquet.6eF7b5Da",
    "users.parquet.c1d2.partial",
    "users.parquet_.gstmp",
    "users.npy.part",
    "users.npz.crdownload",
    "users.parquet.download",
    ".users.npy.Xy12zQ",
    "users.safetensors.filepart",
    ".in.users.npy.",
    "users.npy.tmp",
    "users.npy.tmp.12345",
    ".syncthing.users.npy.tmp",
    "tmp-users.npy",
    "users.parquet.inprogress",
    "users.npy.incomplete",
    "_users.npy",
    ".users",
    "users.npy~",
    "users.csv",
    "users.tsv",
    "users.vec.gz",
    "users.feather",
    "user_factors.parquet",
    "userFactors.parquet.lock~",
    "UserEmbeddings.h5",
    "user_embedding.pt",
    "users.pkl",
    "users-00000-of-00004.npy",
    "customers.csv",
    "users.lance",
    "user_factors.npy",
    "users.txt",
)


def items_only(path: Path, made: Model | None = None) -> Path:
    """Write complete items and nothing else."""
    made = made or model()
    path.mkdir(parents=True)
    np.save(path / "items.npy", made.items)
    np.save(path / "item_ids.npy", made.item_ids)
    return path


def state(watched: Path, watch: WatchConfig = AT_ONCE, config: SnapshotConfig | None = None) -> tuple[str, str]:
    """Return state and reason of a single scan, as in ``embsync sync``."""
    (child,) = discover(watched, watch, config or SnapshotConfig(), now=time.time() + 1).children
    return child.state, child.reason


@pytest.mark.parametrize("name", LOOKS_LIKE_USERS)
def test_files_that_look_like_users_prevent_publishing_items_alone(tmp_path: Path, name: str) -> None:
    """A watched snapshot waits, a path given to ``sync`` is refused at once; both name the file."""
    path = items_only(tmp_path / "w" / "day=1")
    (path / name).write_bytes(b"half")
    found, reason = state(tmp_path / "w")
    assert (found, name in reason) == ("waiting", True)
    with pytest.raises(SnapshotError, match="incomplete snapshot") as refusal:
        open_snapshot(path, SnapshotConfig())
    assert name in str(refusal.value)
    assert not refusal.value.transient


@pytest.mark.parametrize("name", LOOKS_LIKE_USERS)
def test_files_that_look_like_users_beside_both_sides_only_warn(tmp_path: Path, name: str) -> None:
    """A leftover of a transfer does not block a complete snapshot; it is reported."""
    path = write_npy(tmp_path / "w" / "day=1", model())
    (path / name).write_bytes(b"half")
    assert open_snapshot(path, SnapshotConfig()).unread == (name,)
    if not name.endswith(".tmp"):  # unfinished, as before
        assert state(tmp_path / "w")[0] == "ready"


@pytest.mark.parametrize("name", LOOKS_LIKE_USERS)
def test_sides_items_publishes_items_alone(tmp_path: Path, name: str) -> None:
    """``snapshot.sides: items`` publishes items and reports the other files, even if users are complete."""
    path = items_only(tmp_path / "one")
    (path / name).write_bytes(b"half")
    opened = open_snapshot(path, SnapshotConfig(sides="items"))
    assert (opened.users, opened.unread) == (None, (name,))


@pytest.mark.parametrize(
    "name",
    [
        "_SUCCESS",
        "manifest.json",
        "README.md",
        "readme",
        ".items.npy.crc",
        "_metadata",
        "_common_metadata",
        ".DS_Store",
        "meta.yaml",
        "LICENSE",
        "train.log",
        "users_histogram.png",
        "SHA256SUMS",
        "config.json",
        "_committed_123",
        "@eaDir",
        "requirements.txt",
        "MLmodel",
        "items.npy.sha256",
    ],
)
def test_harmless_files_are_not_reported(tmp_path: Path, name: str) -> None:
    """Usual files of writers, file systems and users beside the data give no warning."""
    path = items_only(tmp_path / "w" / "s")
    (path / name).write_bytes(b"")
    opened = open_snapshot(path, SnapshotConfig())
    assert (opened.users, opened.unread) == (None, ())
    assert state(tmp_path / "w")[0] == "ready"


@pytest.mark.parametrize(
    "name",
    [
        "notes.xyz",
        "interactions.parquet2",
        "num_users.txt",
        "user_history.csv",
        "user_item_matrix.csv",
        "popularity.npy",
    ],
)
def test_unknown_files_are_only_reported(tmp_path: Path, name: str) -> None:
    """An entry that does not look like a side is a warning."""
    path = items_only(tmp_path / "w" / "s")
    (path / name).write_bytes(b"x")
    assert open_snapshot(path, SnapshotConfig()).unread == (name,)
    assert state(tmp_path / "w")[0] == "ready"


def test_a_custom_marker_is_not_read_as_data(tmp_path: Path) -> None:
    """The configured marker is not reported as unread."""
    path = items_only(tmp_path / "s")
    (path / "USERS_DONE").touch()
    assert open_snapshot(path, SnapshotConfig(), marker="USERS_DONE").unread == ()


def test_a_marker_does_not_replace_a_missing_side(tmp_path: Path) -> None:
    """Rsync may copy _SUCCESS before users."""
    path = items_only(tmp_path / "w" / "s")
    (path / ".users.npy.aB3xY9").write_bytes(b"x")
    (path / "_SUCCESS").touch()
    assert state(tmp_path / "w")[0] == "waiting"


def test_waiting_ends_in_a_refusal(tmp_path: Path) -> None:
    """After ``watch.missing_side_seconds`` without a change the snapshot is opened, which refuses it."""
    path = items_only(tmp_path / "w" / "s")
    (path / "users.csv").write_bytes(b"x")
    watch = WatchConfig(settle_seconds=0, missing_side_seconds=60)
    first = discover(tmp_path / "w", watch, SnapshotConfig(), now=100.0, memory={})
    again = discover(tmp_path / "w", watch, SnapshotConfig(), now=159.0, memory=first.memory)
    assert [found.children[0].state for found in (first, again)] == ["waiting", "waiting"]
    late = discover(tmp_path / "w", watch, SnapshotConfig(), now=161.0, memory=again.memory)
    assert late.children[0].state == "ready"
    with pytest.raises(SnapshotError, match=r"users\.csv/?, which looks like users and is CSV.*snapshot\.sides: items"):
        open_snapshot(path, SnapshotConfig())


def test_both_sides_can_be_required(tmp_path: Path) -> None:
    """``snapshot.sides: both`` waits for users even without any sign of them; a path given to ``sync`` is refused."""
    path = items_only(tmp_path / "w" / "s")
    both = SnapshotConfig(sides="both")
    assert state(tmp_path / "w", config=both)[0] == "waiting"
    with pytest.raises(SnapshotError, match=r"incomplete snapshot.*snapshot\.sides: both"):
        open_snapshot(path, both)
    shutil.rmtree(path)
    write_npy(path, model())
    assert state(tmp_path / "w", config=both)[0] == "ready"
    open_snapshot(path, both)


def test_users_still_without_their_ids_are_waited_for(tmp_path: Path) -> None:
    """users.npy without user_ids.npy is incomplete."""
    path = write_npy(tmp_path / "w" / "s", model())
    (path / "user_ids.npy").rename(path / ".user_ids.npy.Ab12Cd")
    assert state(tmp_path / "w")[0] == "waiting"


def test_a_missing_items_side_is_waited_for(tmp_path: Path) -> None:
    """A snapshot with only users waits."""
    path = write_npy(tmp_path / "w" / "s", model())
    (path / "items.npy").rename(path / ".items.npy.Ab12Cd")
    found, reason = state(tmp_path / "w")
    assert (found, ".items.npy.Ab12Cd" in reason) == ("waiting", True)


def test_a_file_still_being_downloaded_is_incomplete(tmp_path: Path) -> None:
    """aria2 writes to the final name, with a control file beside it."""
    path = write_npy(tmp_path / "w" / "s", model())
    (path / "users.npy.aria2").write_bytes(b"x")
    found, reason = state(tmp_path / "w")
    assert (found, "users.npy.aria2" in reason) == ("waiting", True)


@pytest.mark.parametrize("holder", [".~tmp~", "_temporary", ".rsync-partial"])
def test_directories_with_unfinished_files_are_waited_for(tmp_path: Path, holder: str) -> None:
    """Rsync's delayed updates and Hadoop's attempts are in such a directory until they are complete."""
    path = items_only(tmp_path / "w" / "s")
    (path / holder).mkdir()
    (path / holder / "users.npy").write_bytes(b"x")
    assert state(tmp_path / "w")[0] == "waiting"
    with pytest.raises(SnapshotError, match="incomplete snapshot"):
        open_snapshot(path, SnapshotConfig())


def parquet_side(path: Path, ids: object, rows: object, name: str = "part-00000.parquet") -> Path:
    """Write one part file of a side."""
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from snapshots.test_parquet import table

    path.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(ids, rows), path / name)
    return path


def test_partitioned_users_are_not_ignored(tmp_path: Path) -> None:
    """Users in bucketed partitions are read with plain items."""
    made = model()
    parquet_side(tmp_path / "w" / "s" / "items", made.item_ids, made.items)
    parquet_side(tmp_path / "w" / "s" / "users" / "bucket=0", made.user_ids, made.users)
    (tmp_path / "w" / "s" / "users" / "_SUCCESS").touch()
    (tmp_path / "w" / "s" / "items" / "_SUCCESS").touch()
    opened = open_snapshot(tmp_path / "w" / "s", SnapshotConfig())
    assert opened.users is not None
    assert opened.users.count == len(made.user_ids)


@pytest.mark.parametrize(
    "name",
    [
        ".part-00001.parquet.aB3xY9",
        "part-00001.parquet._COPYING_",
        "part-00001.parquet.6eF7b5Da",
        "part-00001.parquet_.gstmp",
        "part-00001.parquet.partial",
    ],
)
def test_an_unfinished_part_file_makes_its_side_incomplete(tmp_path: Path, name: str) -> None:
    """The snapshot waits for the other users; once the part has its name, remains of the transfer are a warning."""
    made = model()
    path = tmp_path / "w" / "s"
    parquet_side(path / "items", made.item_ids, made.items)
    parquet_side(path / "users", made.user_ids[:100], made.users[:100])
    (path / "users" / name).write_bytes(b"x")
    found, reason = state(tmp_path / "w")
    assert (found, name in reason) == ("waiting", True)
    with pytest.raises(SnapshotError, match="incomplete snapshot"):
        open_snapshot(path, SnapshotConfig())
    parquet_side(path / "users", made.user_ids[100:], made.users[100:], "part-00001.parquet")
    assert open_snapshot(path, SnapshotConfig()).unread == (f"users/{name}",)
    assert state(tmp_path / "w")[0] == "ready"


def test_users_are_never_read_as_items(tmp_path: Path) -> None:
    """Part files of both sides in one directory, and a single file of users, are refused."""
    made = model()
    parquet_side(tmp_path / "s", made.item_ids, made.items, "item_factors.parquet")
    parquet_side(tmp_path / "s", made.user_ids, made.users, "user_factors.parquet")
    np.save(tmp_path / "users.npy", made.users)
    (tmp_path / "user_vectors.vec").write_text("2 2\na 1 2\nb 3 4\n")
    for path in (tmp_path / "s", tmp_path / "users.npy", tmp_path / "user_vectors.vec"):
        with pytest.raises(SnapshotError, match="looks like users, where items are read"):
            open_snapshot(path, SnapshotConfig(row_number_ids=path.suffix == ".npy"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("part-00000-abc-c000.snappy.parquet", ParsedName("part-00000-abc-c000.snappy.parquet")),
        ("users.tar.gz", ParsedName("users.tar.gz", "users", "vectors")),
        ("users.v2.parquet", ParsedName("users.v2.parquet", "users", "vectors")),
        ("users_2026-01-01.parquet", ParsedName("users_2026-01-01.parquet", "users", "vectors")),
        ("item2id.json", ParsedName("item2id.json", "items", "ids")),
        ("user_item_matrix.npz", ParsedName("user_item_matrix.npz")),
        ("ids.npy", ParsedName("ids.npy", None, "ids")),
        (".hidden", ParsedName("hidden")),
        ("model.npz", ParsedName("model.npz")),
    ],
)
def test_names_are_classified_by_their_words(name: str, said: ParsedName) -> None:
    """A name is finished if an addition to it only resembles the suffix of an unfinished file."""
    assert parse(name) == said
