"""Vectors as one column per dimension: ordered by number, and never from other columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from snapshots.made import model, read, vectors

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots import open_snapshot

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
feather = pytest.importorskip("pyarrow.feather", reason="pyarrow is not installed")

CONFIG = SnapshotConfig()
WIDE = model(items=50, width=12)


def columns(names: list[str], order: list[int] | None = None, **more: Any) -> Any:
    """Return a table with ids, one column per dimension, in a given order, and other columns."""
    made = {"id": WIDE.item_ids} | {names[place]: WIDE.items[:, place] for place in order or range(len(names))}
    return pa.table(made | more)


@pytest.mark.parametrize(
    "names", ["d{}", "{}", "emb_{}", "item_emb_{}", "dim_{:03}", "f{}", "embedding[{}]", "X{}", "embedding.{}"]
)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("end", ["parquet", "feather"])
def test_columns_are_ordered_by_their_numbers(tmp_path: Path, names: str, first: int, end: str) -> None:
    """For any order of the columns, ``d9`` is before ``d10``; numbers start at 0 or 1, beside other columns."""
    given = columns(
        [names.format(number + first) for number in range(12)],
        [7, 11, 0, 1, 10, 2, 9, 3, 8, 4, 6, 5],
        sales_1=np.ones(50),
        sales_2=np.ones(50),
        level_0=np.arange(50),
        level_1=np.arange(50),
    )
    (pq.write_table if end == "parquet" else feather.write_feather)(given, str(tmp_path / f"items.{end}"))
    items = open_snapshot(tmp_path, CONFIG).items
    np.testing.assert_array_equal(vectors(items), WIDE.items)
    np.testing.assert_array_equal(items.ids(), WIDE.item_ids)


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_every_float_type_is_kept(tmp_path: Path, dtype: str) -> None:
    """Values are equal bit for bit over several row groups and blocks."""
    rows = WIDE.typed(dtype).items
    made = pa.table({"id": WIDE.item_ids} | {f"d{place}": rows[:, place] for place in range(12)})
    pq.write_table(made, tmp_path / "items.parquet", row_group_size=7)
    found = vectors(open_snapshot(tmp_path, CONFIG).items)
    np.testing.assert_array_equal(found, rows)
    assert found.dtype == rows.dtype


NAMES = [f"d{place}" for place in range(12)]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            columns([*NAMES[:5], *[f"d{place}" for place in range(6, 12)]]),
            "consecutively.*11 columns, d0 to d11.*d6 out of sequence",
        ),
        (columns([*NAMES[:11], "d01"]), "consecutively.*d01 out of sequence|consecutively.*d1 out of sequence"),
        (columns([f"d{place}" for place in range(5, 17)]), "consecutively.*d5 to d16.*from 0 or 1"),
        (columns(NAMES, d12=np.ones(50)), r"differ in type.*d12 \(float64\).*float32"),
        (columns(NAMES, d12=["a"] * 50), r"differ in type.*d12 \(string\)"),
        (
            columns([f"emb_{place}" for place in range(12)], vec_0=np.ones(50), vec_1=np.ones(50)),
            r"more than one column may be.*emb_0 to emb_11, vec_0 to vec_1.*vector_column: emb_\*",
        ),
        (
            columns([f"emb_{place}" for place in range(12)], embedding=list(WIDE.items)),
            r"more than one column may be.*embedding, emb_0 to emb_11",
        ),
        (columns([f"sales_{place}" for place in range(12)]), r"no vector column.*vector_column: sales_\* if"),
        (columns([f"user_emb_{place}" for place in range(12)]), "no vector column"),
        (
            columns(NAMES, d5=pa.array([None, *WIDE.items[1:, 5].tolist()], pa.float32())),
            "missing values.*null in row 0",
        ),
    ],
)
def test_ambiguous_columns_are_an_error(tmp_path: Path, table: Any, says: str) -> None:
    """Gaps, repeated numbers, other types, two groups and other numbered columns are errors."""
    pq.write_table(table, tmp_path / "items.parquet")
    with pytest.raises(SnapshotError, match=says):
        read(tmp_path, CONFIG)


def test_the_hint_is_a_column_pattern(tmp_path: Path) -> None:
    """``snapshot.vector_column: sales_*`` selects these columns and no others."""
    given = columns([f"sales_{place}" for place in range(12)], emb_0=np.ones(50), emb_1=np.ones(50))
    pq.write_table(given, tmp_path / "items.parquet")
    opened = open_snapshot(tmp_path, SnapshotConfig(vector_column="sales_*"))
    np.testing.assert_array_equal(vectors(opened.items), WIDE.items)
    with pytest.raises(SnapshotError, match="numeric columns named clicks_0"):
        open_snapshot(tmp_path, SnapshotConfig(vector_column="clicks_*"))


def test_a_list_column_is_preferred_to_numbered_columns(tmp_path: Path) -> None:
    """A model's numbered features beside its embedding are not vectors."""
    pq.write_table(columns(NAMES, embedding=list(WIDE.items[:, :3])), tmp_path / "items.parquet")
    np.testing.assert_array_equal(vectors(open_snapshot(tmp_path, CONFIG).items), WIDE.items[:, :3])


def test_many_columns_are_read_quickly(tmp_path: Path) -> None:
    """The columns exceed one message of the decoder and its read-ahead."""
    rows = np.random.default_rng(3).standard_normal((300, 1024)).astype(np.float32)
    made = pa.table({"id": np.arange(300)} | {f"emb_{place}": rows[:, place] for place in range(1024)})
    pq.write_table(made, tmp_path / "items.parquet")
    np.testing.assert_array_equal(vectors(open_snapshot(tmp_path, CONFIG).items), rows)


def test_as_many_columns_as_the_limit_allows_are_read(tmp_path: Path) -> None:
    """The time is proportional to their number: names alone took 8 seconds for 4,000, with 6 allowed for a batch."""
    table = np.arange(4 * 5000, dtype=np.float32).reshape(4, 5000)
    columns = {"id": pa.array(range(4))} | {f"f{number}": pa.array(table[:, number]) for number in range(5000)}
    pq.write_table(pa.table(columns), tmp_path / "items.parquet", use_dictionary=False)
    np.testing.assert_array_equal(vectors(open_snapshot(tmp_path, CONFIG).items), table)
