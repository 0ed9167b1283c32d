"""The reference engine has the properties of an engine, with any number of partitions."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engines import laws

from embsync.dtypes import Float32
from embsync.engines.local import LocalTable
from embsync.engines.part_writer import PartWriter
from embsync.engines.partition_error import PartitionError
from embsync.engines.statistics import quantiles
from embsync.errors import SnapshotError
from embsync.pipeline.table_run import TableInput


@pytest.fixture(params=["integers float32", "strings float32", "integers float64"])
def world(request: pytest.FixtureRequest) -> laws.World:
    ids, dtype = request.param.split()
    return laws.World(strings=ids == "strings", dtype=dtype)


@pytest.mark.parametrize("partitions", [1, 5])
def test_the_first_pass_does_not_depend_on_partitions(world: laws.World, partitions: int) -> None:
    """Totals, triangle, rows by id and samples are those of one pass over rows in memory."""
    make = partial(LocalTable.of, "users", partitions=partitions)
    laws.totals_are_those_of_one_pass(make, world)
    laws.the_triangle_has_the_same_products(make, world)
    laws.rows_are_found_by_id_and_sampled_by_hash(make, world)
    laws.counts_are_those_of_a_plan(make, world)


@pytest.mark.parametrize("outputs", [1, 4])
def test_the_second_pass_does_not_depend_on_partitions(world: laws.World, outputs: int, tmp_path: Path) -> None:
    """Rows, residual, drift and counts are those of rows in memory, also if a batch boundary splits a pair."""

    def make(*arrays: Any) -> LocalTable:
        table = LocalTable.of("users", *arrays)
        return LocalTable(**{**vars(table), "outputs": outputs})

    laws.the_second_pass_writes_and_measures_the_same(make, world, tmp_path)


def test_zero_rows_are_those_without_any_other_value() -> None:
    """A row with some zeros is not counted, nor is one of negative values."""
    vectors = np.array([[0, 0, 0], [0, 1, 0], [-1, -2, 0], [0, 0, 0], [-0.0, 0, 0], [1, 1, 1]], np.float32)
    assert LocalTable.of("users", np.arange(6), vectors).totals().zero_rows == 3


def test_files_of_other_attempts_do_not_count(tmp_path: Path) -> None:
    """Files that a failed or repeated attempt left in the directory are in no sum, count or row."""
    world = laws.World(strings=False, dtype="float32")
    side, parent = world.sides(partial(LocalTable.of, "users"))
    side.write(parent, world.mapping, tmp_path)
    left = set(tmp_path.iterdir())
    laws.the_second_pass_writes_and_measures_the_same(partial(LocalTable.of, "users"), world, tmp_path)
    assert left < set(tmp_path.iterdir())


@pytest.mark.parametrize("of_parent", [False, True])
def test_an_id_that_is_repeated_only_in_the_second_pass_is_noticed(of_parent: bool, tmp_path: Path) -> None:
    """A snapshot that changed between the passes is refused, as is a parent with a repeated row."""
    world = laws.World(strings=False, dtype="float32")
    world.ids[7] = world.ids[8]
    if of_parent:
        world = laws.World(strings=False, dtype="float32")
        world.parent_ids[7] = world.parent_ids[8]
    side, parent = world.sides(partial(LocalTable.of, "users"))
    with pytest.raises(PartitionError, match="an id is repeated"):
        side.write(parent, world.mapping, tmp_path)


def test_rows_that_are_too_large_are_refused(tmp_path: Path) -> None:
    """The sums of the first pass detect squares that overflow, those of the second pass mapped rows that do."""
    world = laws.World(strings=False, dtype="float64")
    with pytest.raises(SnapshotError, match="squares overflow"):
        LocalTable.of("users", world.ids, world.vectors * 1e200).totals()
    with pytest.raises(SnapshotError, match="do not fit float32"):
        LocalTable.of("users", world.ids, world.vectors * 1e50).write(None, world.mapping, tmp_path)


@pytest.mark.parametrize("apart", [1.0, 1e-9])
def test_an_ill_conditioned_side_takes_another_pass(apart: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The triangular factor is that of the rows if their Gram matrix is imprecise; otherwise it takes no pass."""
    world = laws.World(strings=False, dtype="float64")
    world.vectors[:, 1] = world.vectors[:, 0] + apart * world.vectors[:, 1]
    table, asked = LocalTable.of("users", world.ids, world.vectors), []
    exactly = LocalTable.triangle
    monkeypatch.setattr(LocalTable, "triangle", lambda self: (asked.append(self), exactly(self))[1])
    taken = table.take(world.ids[:3])
    fitted = TableInput(table, table.totals(), taken, None, 1.0, np.arange(3))
    factor = fitted.factor(fitted.sums(1).gram)
    expected = np.linalg.svd(world.vectors, compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(factor, compute_uv=False), expected, rtol=1e-6)
    assert len(asked) == (apart < 1)


@pytest.mark.parametrize("kind", laws.DAMAGE)
def test_damaged_rows_are_refused_by_id(kind: str) -> None:
    """The error has the id of the row."""

    def make(ids: list[Any], vectors: list[Any]) -> LocalTable:
        table = pa.table({"id": pa.array(ids, pa.int64()), "vector": pa.array(vectors, pa.list_(pa.float32()))})
        return LocalTable("users", "users", 3, np.dtype(np.float32), False, [table.slice(0, 30), table.slice(30)])

    laws.damage_is_refused(make, kind)


@pytest.mark.parametrize("count", [1, 2, 5, 4000])
def test_quantiles_are_those_of_numpy(count: int) -> None:
    """Quantiles of values in blocks equal NumPy's, with negative, zero and repeated values."""
    values: Float32 = np.random.default_rng(count).normal(size=count).astype(np.float32)
    values[::3] = np.round(values[::3])
    shares = (0.0, 0.05, 0.5, 1.0)
    blocks = [[block] * len(shares) for block in np.array_split(values, 3)]
    assert quantiles(lambda: blocks, shares) == pytest.approx(np.quantile(values.astype(float), shares), rel=1e-12)
    assert np.isnan(quantiles(list, (0.5,))).all()


@pytest.mark.parametrize(("strings", "count"), [(False, 20_000), (True, 2 * 8192)])
def test_part_files_are_those_of_the_store_format(strings: bool, count: int, tmp_path: Path) -> None:
    """For batches of any size, row groups have 2 MiB of vectors, none is empty, and only ids have statistics."""
    width = 64
    ids = np.array([b"user %05d" % number for number in range(count)]) if strings else np.arange(count) - 500
    vectors = np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)
    writer = PartWriter(str(tmp_path), "part", width, strings=strings)
    for part in np.split(np.arange(count), [5, 10_000 if strings else 17_000]):
        writer.add(ids[part], vectors[part], np.full(len(part), 3))
    described = writer.finish()
    assert described is not None
    kind = pa.string() if strings else pa.int64()
    schema = pa.schema({"id": kind, "vector": pa.list_(pa.float32()), "last_seen": pa.int64()})
    found = pq.ParquetFile(tmp_path / "part")
    assert found.schema_arrow.equals(schema)
    rows = 2 * 2**20 // (4 * width)
    groups = [found.metadata.row_group(number) for number in range(found.num_row_groups)]
    assert [group.num_rows for group in groups] == [rows, rows, *([count - 2 * rows] if count > 2 * rows else [])]
    for group in groups:
        columns = [group.column(number) for number in range(3)]
        assert [column.is_stats_set for column in columns] == [True, False, False]
        assert {column.compression for column in columns} == {"SNAPPY"}
        assert not any(column.has_dictionary_page for column in columns)
    table = found.read()
    assert [str(table["id"][end].as_py()) for end in (0, -1)] == [described["first"], described["last"]]
    np.testing.assert_array_equal(table["vector"].combine_chunks().flatten().to_numpy().reshape(count, width), vectors)
    assert described["sha256"] == hashlib.sha256((tmp_path / "part").read_bytes()).hexdigest()


def test_a_part_file_that_does_not_read_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk returns other bytes than were written, the task fails."""

    def faulty(descriptor: int) -> None:
        os.pwrite(descriptor, b"x", 40)

    writer = PartWriter(str(tmp_path), "part", 8, strings=False)
    writer.add(np.arange(9), np.ones((9, 8), np.float32), np.ones(9, np.int64))
    monkeypatch.setattr(os, "fsync", faulty)
    with pytest.raises(PartitionError, match="does not read back as it was written"):
        writer.finish()


def test_pages_of_part_files_have_checksums(tmp_path: Path) -> None:
    """A reader that verifies checksums detects a single wrong bit."""
    vectors = np.random.default_rng(1).normal(size=(5_000, 8)).astype(np.float32)
    writer = PartWriter(str(tmp_path), "part", 8, strings=False)
    writer.add(np.arange(5_000), vectors, np.ones(5_000, np.int64))
    described = writer.finish()
    data = bytearray((tmp_path / "part").read_bytes())
    assert described is not None
    assert (described["rows"], described["bytes"]) == (5_000, len(data))
    assert pq.read_table(tmp_path / "part", page_checksum_verification=True).num_rows == 5_000
    data[len(data) // 2] ^= 1
    (tmp_path / "part").write_bytes(data)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.read_table(tmp_path / "part", page_checksum_verification=True)
