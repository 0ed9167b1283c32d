"""Spark's side has the properties of an engine, with executors that have only NumPy and pyarrow."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from engines import laws
from numpy.testing import assert_array_equal
from support.waiting import PATIENCE, eventually

from embsync.config import EngineConfig
from embsync.errors import SnapshotChanged
from embsync.ids import hash_ids, sample

pytestmark = [
    pytest.mark.long,
    pytest.mark.services("pyspark"),
    pytest.mark.timeout(900),  # a JVM on a busy machine
    pytest.mark.first,
    pytest.mark.filterwarnings("ignore"),  # pyspark's own, and unclosed sockets of its gateway
]


@pytest.fixture
def world() -> laws.World:
    return laws.World(strings=True, dtype="float64")


def maker(spark: Any, outputs: int = 3) -> laws.Make:
    """Return a function that makes a Spark table from arrays."""
    from embsync.engines.local import LocalTable
    from embsync.engines.spark.table import SparkTable

    def make(*arrays: Any) -> SparkTable:
        local = LocalTable.of("users", *arrays)
        frame = spark.createDataFrame(pa.concat_tables(local.partitions)).repartition(4)
        return SparkTable("users", "users", frame, local.width, local.dtype, local.strings, outputs)

    return make


def test_the_first_pass_is_that_of_rows_held_here(spark: Any, world: laws.World) -> None:
    """Totals, triangle, rows by id, samples and counts are those of rows in memory."""
    laws.totals_are_those_of_one_pass(maker(spark), world)
    laws.the_triangle_has_the_same_products(maker(spark), world)
    laws.rows_are_found_by_id_and_sampled_by_hash(maker(spark), world)
    laws.counts_are_those_of_a_plan(maker(spark), world)


def test_the_second_pass_is_that_of_rows_held_here(spark: Any, world: laws.World, tmp_path: Path) -> None:
    """Rows, residual, drift and counts are those of rows in memory."""
    laws.the_second_pass_writes_and_measures_the_same(maker(spark), world, tmp_path)


def test_an_id_that_is_repeated_only_in_the_second_pass_is_named(spark: Any, world: laws.World, tmp_path: Path) -> None:
    """A worker's error arrives with what was found and expected, as one of the snapshot."""
    world.ids[7] = world.ids[8]
    side, parent = world.sides(maker(spark))
    with pytest.raises(SnapshotChanged) as caught:
        side.write(parent, world.mapping, tmp_path)
    assert (caught.value.what, caught.value.where) == ("the snapshot changed while it was read", "users")
    assert caught.value.found == f"an id is repeated: {world.ids[7].decode()}"
    assert caught.value.expected == "each id once"


def test_ids_whose_hashes_are_all_high_are_sampled_as_well(spark: Any) -> None:
    """If too few ids are below the bound computed from the number of rows, the bound is not used."""
    pool = np.arange(20_000)
    ids = np.sort(pool[np.argsort(hash_ids(pool))[-900:]])
    side = maker(spark)(ids, np.ones((len(ids), 2), np.float32))
    assert_array_equal(side.sample_ids(50), np.sort(ids[sample(ids, 50)]))


def test_settings_and_partitions_reach_spark(spark: Any, spark_config: EngineConfig) -> None:
    """The settings of ``engine.conf`` are passed in Spark's notation, in addition to those of a local session."""
    for name, value in spark_config.conf.items():
        assert spark.conf.get(name) == str(value), name
    assert spark.conf.get("spark.ui.enabled") == "false"


def test_an_error_ends_the_jobs_of_its_run_alone(spark_config: EngineConfig, tmp_path: Path) -> None:
    """An error also ends a job for which Spark would wait forever, since a child of a dead worker holds its connection.

    Jobs of others continue, use all cores, and do not count as progress.
    """
    from embsync.engines.spark.engine import SparkEngine
    from embsync.engines.spark.session import running_session

    begun, over, others, ended = tmp_path / "begun", tmp_path / "over", tmp_path / "others", threading.Event()
    counted: list[int] = []

    def hang(batches: Any) -> Any:
        if os.fork() == 0:
            for descriptor in (0, 1, 2):
                os.close(descriptor)
            begun.touch()
            while not over.exists():
                time.sleep(0.1)
        os._exit(1)
        yield

    def wait(batches: Any) -> Any:
        others.touch()
        while not over.exists():
            time.sleep(0.02)
        yield from batches

    def count_hanging(jobs: Any) -> None:
        with contextlib.suppress(Exception):
            jobs.mark()
            jobs.session.range(0, 1, 1, 1).mapInArrow(hang, "id long").count()
        ended.set()

    def count_of_others(session: Any) -> None:
        counted.append(session.range(0, 5, 1, 2).mapInArrow(wait, "id long").count())

    def stopped() -> None:
        with running_session(spark_config) as jobs:
            threading.Thread(target=count_hanging, args=(jobs,), daemon=True).start()
            eventually(begun.exists)
            threads.append(threading.Thread(target=count_of_others, args=(jobs.session,), daemon=True))
            threads[0].start()
            eventually(others.exists)
            assert len(SparkEngine(jobs).progress()) == 1
            raise ZeroDivisionError

    threads: list[threading.Thread] = []
    try:
        with pytest.raises(ZeroDivisionError):
            stopped()
        assert ended.wait(PATIENCE)
        over.touch()
        threads[0].join(PATIENCE)
        assert counted == [5]
    finally:  # tasks that wait for it end, also in another attempt
        over.touch()
    with running_session(spark_config) as again:
        assert again.session.range(3).count() == 3


def test_damaged_rows_are_refused_by_id(spark: Any) -> None:
    """The error has the id of the row."""
    from embsync.engines.spark.table import SparkTable

    def make(ids: list[Any], vectors: list[Any]) -> SparkTable:
        table = pa.table({"id": pa.array(ids, pa.int64()), "vector": pa.array(vectors, pa.list_(pa.float32()))})
        return SparkTable("users", "users", spark.createDataFrame(table), 3, np.dtype(np.float32), False)

    for kind in ("repeated id", "null vector", "ragged"):  # the others are found by the same function
        laws.damage_is_refused(make, kind)
