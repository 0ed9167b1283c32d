"""Text compressed with gzip and zstd, bfloat16, and parquet as Spark and Athena write it."""

from __future__ import annotations

import gzip
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from snapshots.made import assert_reads, model, read, vectors
from snapshots.test_word2vec import text

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots import open_snapshot
from embsync.snapshots.compression import unpacked
from embsync.snapshots.files import FileBytes

CONFIG = SnapshotConfig()
GOOD = model(items=40, width=6).named()
TEXT = text(GOOD.item_ids.tolist(), GOOD.items)


def packed(ending: str, data: bytes) -> bytes:
    """Return data compressed according to a file suffix."""
    if ending == ".gz":
        return gzip.compress(data)
    zstd = pytest.importorskip("backports.zstd", reason="backports.zstd is not installed")
    return bytes(zstd.compress(data))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["day.vec", "day.txt"])
def test_compressed_text_gives_the_same_snapshot(tmp_path: Path, name: str, ending: str) -> None:
    """It includes several concatenated members."""
    half = len(TEXT) // 2
    for content in (packed(ending, TEXT), packed(ending, TEXT[:half]) + packed(ending, TEXT[half:])):
        (tmp_path / (name + ending)).write_bytes(content)
        for path in (tmp_path, tmp_path / (name + ending)):
            items = open_snapshot(path, CONFIG).items
            np.testing.assert_array_equal(vectors(items), GOOD.items)
            assert [value.decode() for value in items.ids().tolist()] == GOOD.item_ids.tolist()


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize(
    ("bomb", "says"),
    [(b"\n", "ill-formed row|not a text file"), (b"0", "too long"), (b"a 1 2\n", "more than|repeat|does not match")],
)
def test_decompression_bombs_are_refused(tmp_path: Path, ending: str, bomb: bytes, says: str) -> None:
    """Millions of line feeds, a line without end and a repeated row are refused in little memory."""
    (tmp_path / f"day.vec{ending}").write_bytes(packed(ending, bomb * 300_000 * (100 if len(bomb) == 1 else 1)))
    with pytest.raises(SnapshotError, match=says):
        read(tmp_path / f"day.vec{ending}", CONFIG)
    with (tmp_path / f"day.vec{ending}").open("rb") as file:
        pieces = unpacked(FileBytes(file, "bomb"), f"day.vec{ending}")
        assert max(len(piece) for piece in itertools.islice(pieces, 3)) <= 2**20


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_damaged_archives_are_refused(tmp_path: Path, ending: str) -> None:
    """Truncated files, other formats and wrong checksums are refused."""
    whole = packed(ending, TEXT)
    for content in (whole[:-9], TEXT, whole[:40] + b"\xff\xff" + whole[42:]):
        (tmp_path / f"day.vec{ending}").write_bytes(content)
        with pytest.raises(SnapshotError):
            read(tmp_path / f"day.vec{ending}", CONFIG)


def test_blanks_in_ids_are_read_if_the_header_has_the_width(tmp_path: Path) -> None:
    """It includes the first row; without a header they are refused."""
    names = ["the matrix 7", "alien", "the thing 1982"]
    for order in (names, names[::-1], [names[1], names[0], names[2]]):
        (tmp_path / "m.vec").write_bytes(text(order, GOOD.items[:3]))
        items = open_snapshot(tmp_path / "m.vec", CONFIG).items
        assert [value.decode() for value in items.ids().tolist()] == order
        np.testing.assert_array_equal(vectors(items), GOOD.items[:3])
    (tmp_path / "m.vec").write_bytes(text([names[1], names[0]], GOOD.items[:2], header=False))
    with pytest.raises(SnapshotError):
        read(tmp_path / "m.vec", CONFIG)


def test_bfloat16_becomes_float32_exactly(tmp_path: Path) -> None:
    """The value is the upper half of a float32, infinities included."""
    upper = GOOD.items.view("<u4") >> 16
    wanted = (upper << 16).view("<f4")
    data, ids = upper.astype("<u2").tobytes(), np.arange(40).tobytes()
    head = {"vectors": {"dtype": "BF16", "shape": [40, 6], "data_offsets": [0, len(data)]}}
    head["ids"] = {"dtype": "I64", "shape": [40], "data_offsets": [len(data), len(data) + len(ids)]}
    encoded = json.dumps(head).encode()
    (tmp_path / "items.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data + ids)
    np.testing.assert_array_equal(vectors(open_snapshot(tmp_path, CONFIG).items), wanted)


def leave(folder: Path, where: str, ids: Any, column: Any) -> None:
    """Write one part file."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (folder / where).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": ids, "embedding": column}), folder / where)


def test_parquet_without_a_suffix_and_in_partitions_is_read(tmp_path: Path) -> None:
    """All files of both sides are read in natural order; partition values are not ids."""
    made = model(items=40, users=20)
    for side, rows, ids in (("items", made.items, made.item_ids), ("users", made.users, made.user_ids)):
        half = len(ids) // 2
        leave(tmp_path / "athena", f"{side}/20261125_010203_a1", ids[:half], list(rows[:half]))
        leave(tmp_path / "athena", f"{side}/20261125_010203_a2", ids[half:], list(rows[half:]))
        leave(tmp_path / "hive", f"{side}/id=9/hour=1/part-0.parquet", ids[:half], list(rows[:half]))
        leave(tmp_path / "hive", f"{side}/id=10/part-0.parquet", ids[half:], list(rows[half:]))
    for name in ("athena", "hive"):
        opened = open_snapshot(tmp_path / name, CONFIG)
        assert opened.unread == ()
        assert_reads(opened, made)


def test_an_unfinished_part_in_a_partition_makes_the_snapshot_incomplete(tmp_path: Path) -> None:
    """It is as in a directory of part files; a directory that is not a partition is refused."""
    made = model(items=40, users=20)
    for side, rows, ids in (("items", made.items, made.item_ids), ("users", made.users, made.user_ids)):
        leave(tmp_path, f"{side}/b=1/part-0.parquet", ids, list(rows))
    (tmp_path / "users/b=1/.part-1.parquet.aB3xY9").touch()
    with pytest.raises(SnapshotError, match="incomplete snapshot"):
        open_snapshot(tmp_path, CONFIG)
    (tmp_path / "users/b=1/.part-1.parquet.aB3xY9").unlink()
    (tmp_path / "users/b=1/more").mkdir()
    with pytest.raises(SnapshotError, match="a directory among part files"):
        open_snapshot(tmp_path, CONFIG)


def ml(rows: list[dict[str, Any]]) -> Any:
    """Return a column of Spark's ML vectors."""
    pa = pytest.importorskip("pyarrow")
    kinds = [
        ("type", pa.int8()),
        ("size", pa.int32()),
        ("indices", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float64())),
    ]
    return pa.array(rows, pa.struct(kinds))


def sparse(size: int, indices: list[int], values: list[float]) -> dict[str, Any]:
    """Return one sparse vector."""
    return {"type": 0, "size": size, "indices": indices, "values": values}


def test_vectors_of_spark_ml_and_of_text_are_read(tmp_path: Path) -> None:
    """Dense and sparse ones are read, and text with commas, brackets or blanks."""
    dense = {"type": 1, "size": None, "indices": None, "values": [1.5, 0.0, -2.0]}
    thin = sparse(3, [0, 2], [1.5, -2.0])
    wanted = np.array([[1.5, 0.0, -2.0]] * 3)
    for name, column in {
        "dense": ml([dense] * 3),
        "mixed": ml([thin, dense, thin]),
        "json": ["[1.5, 0.0, -2.0]", "[1.5,0,-2]", " [1.5,  0.0,-2e0 ] "],
        "blanks": ["[1.5 0.0 -2.0]", "1.5 0 -2", "[ 1.5  0.\n -2. ]"],
    }.items():
        leave(tmp_path, f"{name}.parquet", [7, 8, 9], column)
        np.testing.assert_array_equal(vectors(open_snapshot(tmp_path / f"{name}.parquet", CONFIG).items), wanted)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (["[1, 2]", "[1, 2, 3]"], "different widths"),
        (["[1, 2]", "[1, x]"], "not a number"),
        (["[1, 2]", "[1, ]"], "not a number"),
        (["[1, 2]", None], "null in row 1"),
        (["[[1, 2], [3]]", "[1, 2]"], "not a number"),
        ([{"type": 1, "values": [1, 2]}, {"type": 1, "values": [1]}], "different widths"),
        ([{"type": 1, "values": [1, 2]}, sparse(3, [0], [1])], "different widths"),
        (
            [
                sparse(2, [0], [1]),
                sparse(2, [2], [1]),
            ],
            "index outside",
        ),
        (
            [sparse(2, [0], [1, 2]), {"type": 1, "values": [1, 2]}],
            "ill-formed sparse",
        ),
        ([{"type": 1, "values": [1, 2]}, {"type": 1, "values": [1, None]}], "missing values"),
        ([{"type": 1, "values": [1, 2]}, None], "null in row 1"),
        ([sparse(2**31 - 1, [0], [1])] * 2, "unusable width"),
        ([sparse(-5, [], [])] * 2, "unusable width"),
        ([sparse(3, [1, 1], [1, 2])] * 2, "ascending indices"),
        ([sparse(3, [2, 0], [1, 2])] * 2, "ascending indices"),
        ([sparse(3, [0, 2], [1, 2]), sparse(3, [0, 1, 1], [1, 2, 3])], "ascending indices"),
        ([{**sparse(3, [0], [1]), "type": kind} for kind in (0, 7)], "neither dense nor sparse"),
        ([{**sparse(3, [0], [1]), "type": kind} for kind in (0, None)], "neither dense nor sparse"),
        ([{"type": 1, "values": None}] * 2, "neither dense nor sparse"),
        ([{**sparse(3, [0], [1]), "size": None}] * 2, "neither dense nor sparse"),
        (["[1, 2]", "[1, 2"], "truncated"),
        (["[1, 2]", "1, 2]"], "truncated"),
    ],
)
def test_ill_formed_vectors_are_refused(tmp_path: Path, column: Any, says: str) -> None:
    """Mixed widths, invalid numbers, indices out of range, gaps and absurd sizes are refused."""
    leave(tmp_path, "day.parquet", ["a", "b"], ml(column) if isinstance(column[0], dict) else column)
    with pytest.raises(SnapshotError, match=says):
        read(tmp_path / "day.parquet", CONFIG)


def test_structs_that_only_resemble_spark_vectors_are_refused(tmp_path: Path) -> None:
    """Structs of other types than Spark's vectors are refused."""
    pa = pytest.importorskip("pyarrow")
    for value in (pa.string(), pa.int64()):
        kinds = [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32()))]
        rows = [{"type": 1, "values": ["1", "2"] if value == pa.string() else [1, 2]}] * 2
        leave(tmp_path, "day.parquet", [1, 2], pa.array(rows, pa.struct([*kinds, ("values", pa.list_(value))])))
        with pytest.raises(SnapshotError, match="embedding is of an unusable type"):
            read(tmp_path / "day.parquet", CONFIG)


def test_deep_partitions_and_links_among_parts_are_refused(tmp_path: Path) -> None:
    """If a linked part or partition were skipped, the others would be published as the entire side."""
    made = model(items=40)
    leave(tmp_path, "elsewhere/b=1/part", made.item_ids, list(made.items))
    for name, link in (("noext", "items/p1"), ("hive", "items/b=1")):
        leave(tmp_path, f"{name}/items/{'b=0/' if name == 'hive' else ''}p0", made.item_ids, list(made.items))
        (tmp_path / name / link).symlink_to(tmp_path / "elsewhere/b=1" / ("part" if name == "noext" else ""))
        with pytest.raises(SnapshotError, match="will not be opened; found a link"):
            open_snapshot(tmp_path / name, CONFIG)
    leave(tmp_path, "deep/items/" + "a=1/" * 40 + "p.parquet", made.item_ids, list(made.items))
    with pytest.raises(SnapshotError, match="directories nested too deeply"):
        open_snapshot(tmp_path / "deep", CONFIG)
