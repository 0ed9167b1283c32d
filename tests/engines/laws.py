"""Properties of every engine's side for any partitions: its results are those of the code for rows in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from embsync.alignment.drift import DriftMeter
from embsync.alignment.gram import sum_side
from embsync.alignment.moments import Moments
from embsync.alignment.preservation import residual_scale, written_block
from embsync.dtypes import Array
from embsync.engines.protocol import Kept, RowMapping, SideTable, WrittenTable
from embsync.errors import SnapshotError
from embsync.ids import positions_in, sample
from embsync.rows import ArrayRows
from embsync.snapshots.row_digest import row_sums
from embsync.store.rows import ParentRows, plan

#: Makes a side of ids, vectors and, for a version, the versions in which each row was last seen.
Make = Callable[..., SideTable]
ROWS, WIDTH, DIMENSION, NUMBER = 600, 6, 7, 9
KEPT = Kept(np.array([2, 5, 6, 8]), 2)


class World:
    """A snapshot of a side and its parent, with ids that left, were carried, returned and are new."""

    def __init__(self, *, strings: bool, dtype: str) -> None:
        random = np.random.default_rng(5)
        numbers = random.permutation(5 * ROWS)[:ROWS]
        self.ids = _named(numbers, strings=strings)
        self.vectors = random.normal(size=(ROWS, WIDTH)).astype(dtype)
        self.vectors[3] = 0.0
        before = np.unique(np.concatenate([numbers[: ROWS // 2], random.permutation(5 * ROWS)[:200]]))
        self.parent_ids = _named(before, strings=strings)
        order = np.argsort(self.parent_ids, kind="stable")
        self.parent_ids = self.parent_ids[order]
        self.parent_vectors = random.normal(size=(len(before), DIMENSION)).astype(np.float32)
        self.last_seen = random.choice([2, 3, 6, 8], len(before), p=[0.1, 0.1, 0.2, 0.6])
        matrix = random.normal(size=(WIDTH, DIMENSION))
        exact = self.vectors.astype(np.float64)
        scale = residual_scale(exact.T @ exact, matrix, ROWS)
        self.mapping = RowMapping(
            matrix, scale, NUMBER, KEPT, random.normal(size=(DIMENSION, WIDTH)), np.sort(self.ids[::9])
        )

    def sides(self, make: Make) -> tuple[SideTable, SideTable]:
        """Return the snapshot's side and the parent's."""
        return make(self.ids, self.vectors), make(self.parent_ids, self.parent_vectors, self.last_seen)


def _named(numbers: Array, *, strings: bool) -> Array:
    return np.array([f"user {number}é".encode() for number in numbers]) if strings else numbers - 700


def totals_are_those_of_one_pass(make: Make, world: World) -> None:
    found, expected = make(world.ids, world.vectors).totals(), sum_side(ArrayRows(world.vectors))
    assert (found.rows, found.zero_rows) == (ROWS, 1)
    assert_allclose(found.gram, expected.gram, rtol=1e-13, atol=1e-12)
    assert_array_equal(found.digest, row_sums(world.ids, world.vectors))


def the_triangle_has_the_same_products(make: Make, world: World) -> None:
    factor = make(world.ids, world.vectors).triangle()
    exact = world.vectors.astype(np.float64)
    assert factor.shape == (WIDTH, WIDTH)
    assert_allclose(factor.T @ factor, exact.T @ exact, rtol=1e-12, atol=1e-11)


def rows_are_found_by_id_and_sampled_by_hash(make: Make, world: World) -> None:
    side, parent = world.sides(make)
    wanted = np.concatenate([world.ids[40:90], _named(np.array([10**6]), strings=world.ids.dtype.kind == "S")])
    found = side.take(wanted)
    order = np.argsort(world.ids[40:90], kind="stable")
    assert_array_equal(found.ids, world.ids[40:90][order])
    assert_array_equal(found.vectors, world.vectors[40:90][order])
    assert_array_equal(parent.take(world.parent_ids[:5]).last_seen, world.last_seen[:5])
    for size in (1, 50, ROWS - 1, ROWS + 1):
        assert_array_equal(side.sample_ids(size), np.sort(world.ids[sample(world.ids, size)]))


def counts_are_those_of_a_plan(make: Make, world: World) -> None:
    side, parent = world.sides(make)
    assert side.count(parent, KEPT) == expected_plan(world).counts
    assert side.count(None, Kept(np.empty(0, np.int64), 2)) == plan(world.ids, None, 2).counts


def the_second_pass_writes_and_measures_the_same(make: Make, world: World, directory: Path) -> None:
    side, parent = world.sides(make)
    written = side.write(parent, world.mapping, directory)
    expected = expected_plan(world)
    assert written.counts == expected.counts
    assert_array_equal(written.digest, row_sums(world.ids, world.vectors))
    stable, cross, own = written_block(world.vectors, world.mapping.matrix, world.mapping.scale)
    assert_allclose(written.cross, cross, rtol=1e-4, atol=1e-9)
    assert_allclose(written.own, own, rtol=1e-4, atol=1e-16)
    moments = Moments()
    moments.observe(0, stable)
    assert_allclose(written.moments, moments.result(), rtol=1e-12, atol=1e-15)
    meter = DriftMeter(
        expected.parent_live, world.parent_vectors, world.mapping.inverse, lambda row: _shown(world.ids[row])
    )
    meter.observe(0, world.vectors, stable)
    drift, change = meter.result()
    assert vars(written.change) == pytest.approx(vars(change), rel=1e-6)
    assert [one.id for one in written.drift.moved_most] == [one.id for one in drift.moved_most]
    for name in ("cosine", "cosine_p05", "cosine_raw", "displacement", "displacement_raw"):
        assert getattr(written.drift, name) == pytest.approx(getattr(drift, name), rel=1e-6), name
    vectors = np.empty((len(expected.ids), DIMENSION), np.float32)
    vectors[expected.rows] = stable
    vectors[expected.carried] = world.parent_vectors[expected.carried_from]
    seen = expected.last_seen(NUMBER, ParentRows(world.parent_ids, world.last_seen, KEPT.lineage))
    _has_parts(written, expected.ids, vectors, seen)
    assert_array_equal(written.sampled_rows, positions_in(world.mapping.sampled, expected.ids))


def expected_plan(world: World) -> Any:
    """Return the rows of the new version, planned by the code for ids in memory."""
    return plan(world.ids, ParentRows(world.parent_ids, world.last_seen, KEPT.lineage), KEPT.carry)


def _shown(name: Any) -> Any:
    return name.decode() if isinstance(name, bytes) else int(name)


def _has_parts(written: WrittenTable, ids: Array, vectors: Array, seen: Array) -> None:
    """Assert that the part files, in their order, have these rows and match their descriptions."""
    tables = [pq.read_table(part.path) for part in written.parts]
    for part, table in zip(written.parts, tables, strict=True):
        assert (part.rows, part.first, part.last) == (len(table), table["id"][0].as_py(), table["id"][-1].as_py())
        assert part.bytes == part.path.stat().st_size
        assert table.schema.names == ["id", "vector", "last_seen"]
    found = [name for table in tables for name in table["id"].to_pylist()]
    assert found == [_shown(name) for name in ids]
    rows = np.array([row for table in tables for row in table["vector"].to_pylist()], np.float32)
    assert_allclose(rows, vectors, rtol=0, atol=1e-7 * float(np.abs(vectors).max()))
    assert [one for table in tables for one in table["last_seen"].to_pylist()] == seen.tolist()


def damage_is_refused(make: Make, kind: str) -> None:
    """A side with a null, a non-finite value, rows of two widths or a repeated id is refused with the row's id."""
    ids: list[Any] = [*range(100, 160)]
    vectors: list[Any] = [[1.0, 2.0, float(name)] for name in ids]
    expected = "117"
    if kind == "null id":
        ids[17], expected = None, "null id"
    elif kind == "repeated id":
        ids[18] = 117
    else:
        vectors[17] = {
            "null vector": None,
            "null value": [1.0, None, 2.0],
            "ragged": [1.0],
            "NaN": [1.0, float("nan"), 0.0],
        }[kind]
    side = make(ids, vectors)
    with pytest.raises(SnapshotError) as caught:
        (side.totals(), side.count(None, Kept(np.empty(0, np.int64), 0)))
    assert expected in str(caught.value.details()["found"])
    assert caught.value.exit_code == SnapshotError.exit_code


DAMAGE = ("null id", "repeated id", "null vector", "null value", "ragged", "NaN")
