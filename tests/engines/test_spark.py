"""Spark obeys the laws of the reference, with executors that have NumPy and pyarrow alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from engines import laws

pytestmark = [
    pytest.mark.long,
    pytest.mark.services("pyspark"),
    pytest.mark.timeout(900),  # a Java machine on a loaded computer
    pytest.mark.xdist_group("spark"),
    pytest.mark.filterwarnings("ignore"),  # pyspark's own, and what its gateway leaves open
]


@pytest.fixture
def world() -> laws.World:
    return laws.World(strings=True, dtype="float64")


def maker(spark: Any, outputs: int = 3) -> laws.Make:
    """Return what makes a table of Spark from arrays."""
    from embsync.engines.local import LocalTable
    from embsync.engines.spark.table import SparkTable

    def make(*arrays: Any) -> SparkTable:
        local = LocalTable.of("users", *arrays)
        frame = spark.createDataFrame(pa.concat_tables(local.partitions)).repartition(4)
        return SparkTable("users", "users", frame, local.width, local.dtype, local.strings, outputs)

    return make


def test_the_first_pass_is_that_of_rows_held_here(spark: Any, world: laws.World) -> None:
    """Totals, triangle, rows by id, samples and counts."""
    laws.totals_are_those_of_one_pass(maker(spark), world)
    laws.the_triangle_has_the_same_products(maker(spark), world)
    laws.rows_are_found_by_id_and_sampled_by_hash(maker(spark), world)
    laws.counts_are_those_of_a_plan(maker(spark), world)


def test_the_second_pass_is_that_of_rows_held_here(spark: Any, world: laws.World, tmp_path: Path) -> None:
    """Rows, residual, drift and counts."""
    laws.the_second_pass_writes_and_measures_the_same(maker(spark), world, tmp_path)


def test_damaged_rows_are_refused_by_id(spark: Any) -> None:
    """The error has the id of the row."""
    from embsync.engines.spark.table import SparkTable

    def make(ids: list[Any], vectors: list[Any]) -> SparkTable:
        table = pa.table({"id": pa.array(ids, pa.int64()), "vector": pa.array(vectors, pa.list_(pa.float32()))})
        return SparkTable("users", "users", spark.createDataFrame(table), 3, np.dtype(np.float32), False)

    for kind in ("repeated id", "null vector", "ragged"):  # the others are found by the same function
        laws.damage_is_refused(make, kind)
