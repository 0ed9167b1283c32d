"""Nights published with Spark equal those published by the local engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from engines import nights
from support.nights import night

from embsync.cli.main import run
from embsync.config import AnchorsConfig, Config, EngineConfig, IndexConfig, SpaceConfig, StoreConfig
from embsync.errors import SnapshotError, StoreDamaged, UsageError
from embsync.store import Store

pytestmark = [
    pytest.mark.long,
    pytest.mark.services("pyspark"),
    pytest.mark.timeout(900),  # a JVM on a busy machine
    pytest.mark.first,
    pytest.mark.filterwarnings("ignore"),  # pyspark's own, and unclosed sockets of its gateway
]

LOCAL = Config(
    space=SpaceConfig(anchors=AnchorsConfig(rows=90)),
    store=StoreConfig(carry_forward_versions=2),
    index=IndexConfig(factory="Flat"),
    checks={},
)


@pytest.fixture
def by_spark(spark_config: EngineConfig) -> Config:
    return msgspec.structs.replace(LOCAL, engine=spark_config)


def snapshot(directory: Path, number: int) -> Path:
    """Write a night with string ids, the second one as fixed-size lists."""
    found = night(number, churn=0.1).named()
    rows = found.items, found.item_ids, found.users, found.user_ids
    return nights.save(directory / f"day={number}", *rows, fixed=number == 2)


@dataclass
class Stores:
    local: Path
    spark: Path


def test_nights_are_the_same_by_both_engines(by_spark: Config, tmp_path: Path) -> None:
    """Records, rows, anchors and neighbours are equal for a first version and for one that carries rows."""
    stores = Stores(tmp_path / "local", tmp_path / "spark")
    for number in (1, 2):
        path = snapshot(tmp_path / "a [1]*{b}", number)
        local = nights.publish(stores.local, path, LOCAL)
        spark = nights.publish(stores.spark, path, by_spark)
        assert nights.differences(local, spark) == []
        assert (local.format, spark.format) == (1, 2)
        nights.require_same_users(stores.local, stores.spark, number)
        nights.require_same_arrays(stores.local, stores.spark, number)
    assert spark.users is not None
    assert min(spark.users.carried, spark.users.gone, spark.users.new) > 0
    assert [path.name for path in (stores.spark / "versions").iterdir() if path.name.startswith(".")] == []


def test_spark_continues_from_a_version_in_arrays(by_spark: Config, tmp_path: Path) -> None:
    """A version in arrays and then one by Spark equal two versions by the local engine; the reverse order is refused.

    Both engines refuse a parent's part file with one wrong bit.
    """
    stores = Stores(tmp_path / "local", tmp_path / "spark")
    first, second, third = (snapshot(tmp_path, number) for number in (1, 2, 3))
    for store in (stores.local, stores.spark):
        nights.publish(store, first, LOCAL)
    spark = nights.publish(stores.spark, second, by_spark)
    assert nights.differences(nights.publish(stores.local, second, LOCAL), spark) == []
    nights.require_same_users(stores.local, stores.spark, 2)
    with pytest.raises(UsageError, match="--engine spark"):
        nights.publish(stores.spark, third, LOCAL)
    part = stores.spark / "versions/000002/users/part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.unlink()
    part.write_bytes(data)
    with pytest.raises(StoreDamaged, match="part-00000"):
        nights.publish(stores.spark, third, by_spark)
    assert Store(stores.spark).numbers() == [1, 2]


def test_the_option_of_sync_chooses_the_engine(by_spark: Config, tmp_path: Path) -> None:
    """As printed in docs/scaling.md, the same configuration publishes arrays without the option."""
    engine = {key: value for key, value in msgspec.to_builtins(by_spark.engine).items() if key != "kind"}
    config = {"engine": engine, "index": {"factory": "Flat"}, "space": {"anchors": {"rows": 90}}}
    (tmp_path / "embsync.yaml").write_text(yaml.safe_dump(config))
    path = snapshot(tmp_path, 1)
    given = ["--config", str(tmp_path / "embsync.yaml")]
    for option, store, number in (([], "local", 1), (["--engine", "spark"], "spark", 2)):
        place = tmp_path / store
        assert run(["sync", str(path), "--store", str(place), *option, *given]) == 0
        assert Store(place).manifest(1).format == number


@pytest.mark.parametrize("kind", ["NaN", "repeated", "cut"])
def test_bad_users_leave_the_store_as_it_was(by_spark: Config, tmp_path: Path, kind: str) -> None:
    """One line with exit code 3 and no further directory; Spark would ignore row groups beyond the end of a file."""
    store = tmp_path / "store"
    found = night(1)
    users, ids = np.array(found.both[1]), np.array(found.user_ids)
    if kind == "NaN":
        users[7, 3] = np.nan
    elif kind == "repeated":
        ids[8] = ids[7]
    path = nights.save(tmp_path / "bad", found.items, found.item_ids, users, ids)
    if kind == "cut":
        file = path / "users/part-1.parquet"
        data = file.read_bytes()
        file.write_bytes(data[:4] + data[-8 - int.from_bytes(data[-8:-4], "little") :])
    with pytest.raises(SnapshotError) as caught:
        nights.publish(store, path, by_spark)
    assert caught.value.exit_code == 3
    assert (f"expected {len(ids)} by its metadata" if kind == "cut" else str(ids[7])) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not store.exists()
