"""A real ALS model, saved by pyspark, can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from snapshots.made import vectors

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots import Snapshot, open_snapshot

pytestmark = [
    pytest.mark.long,
    pytest.mark.services("pyspark"),
    pytest.mark.timeout(900),  # a JVM on a busy machine
    pytest.mark.first,
    pytest.mark.filterwarnings("ignore"),  # pyspark's own, and unclosed sockets of its gateway
]


#: Rows with zeros, half of which are stored as sparse vectors.
ML = np.where(np.random.default_rng(6).random((20, 5)) < 0.5, 0.0, np.arange(100.0).reshape(20, 5))


def leave_ml_vectors(spark: Any, folder: Path) -> None:
    """Write dense and sparse vectors of Spark's ML library, also in partitions."""
    from pyspark.ml.linalg import Vectors

    rows = [
        (
            number,
            number % 3,
            Vectors.dense(row) if number % 2 else Vectors.sparse(5, np.flatnonzero(row), row[row != 0]),
        )
        for number, row in enumerate(ML)
    ]
    frame = spark.createDataFrame(rows, ["id", "bucket", "features"])
    frame.drop("bucket").write.parquet(str(folder / "plain/items"))
    frame.write.partitionBy("bucket").parquet(str(folder / "partitioned/items"))


def test_an_als_model_saved_by_spark_is_read(spark: Any, tmp_path: Path) -> None:
    """Both factor tables, in part files beside markers and checksums, have the same rows as in Spark."""
    from pyspark.ml import Pipeline, PipelineModel
    from pyspark.ml.feature import StringIndexer
    from pyspark.ml.recommendation import ALS

    random = np.random.default_rng(5)
    plays = [
        (int(user), int(item), float(1 + (user * item) % 5))
        for user, item in zip(random.integers(0, 40, 400), random.integers(0, 60, 400), strict=True)
    ]
    table = spark.createDataFrame(plays, ["user", "item", "rating"]).dropDuplicates(["user", "item"])
    trained = ALS(rank=6, maxIter=2, seed=1, numItemBlocks=2, numUserBlocks=2).fit(table)
    trained.write().overwrite().save(str(tmp_path / "als"))
    PipelineModel([trained]).write().save(str(tmp_path / "pipeline"))
    named = table.selectExpr("user", "concat('i', item) AS name", "rating")
    indexed = StringIndexer(inputCol="name", outputCol="item")
    als = ALS(rank=2, maxIter=1, seed=1, numItemBlocks=1, numUserBlocks=1)
    Pipeline(stages=[indexed, als]).fit(named).write().save(str(tmp_path / "indexed"))
    page = (Path(__file__).parents[2] / "docs/how-to/spark.md").read_text()
    block = page.split("<!-- run: spark -->\n```python\n")[1].split("```")[0]
    exec(block, {"model": trained, "watched": tmp_path, "night": "day=1"})
    leave_ml_vectors(spark, tmp_path / "ml")
    factors = {"items": trained.itemFactors.collect(), "users": trained.userFactors.collect()}
    assert open_snapshot(tmp_path / "day=1", SnapshotConfig()).width == 6
    for name in ("plain", "partitioned"):
        items = open_snapshot(tmp_path / "ml" / name, SnapshotConfig()).items
        order = np.argsort(items.ids())
        assert items.ids()[order].tolist() == list(range(20))
        np.testing.assert_array_equal(vectors(items)[order], ML)
    with pytest.raises(SnapshotError, match=r"from a StringIndexer.*found item.*hint: in Spark: labels"):
        open_snapshot(tmp_path / "indexed", SnapshotConfig())
    opened = open_snapshot(tmp_path / "als", SnapshotConfig())
    assert opened.layout == "parquet"
    assert_same_factors(opened, factors)
    piped = open_snapshot(tmp_path / "pipeline", SnapshotConfig())
    assert (piped.layout, piped.unread) == ("spark_pipeline", ())
    assert_same_factors(piped, factors)
    for side in ("item", "user"):
        assert (tmp_path / "als" / f"{side}Factors" / "_SUCCESS").exists()


def assert_same_factors(opened: Snapshot, factors: dict[str, Any]) -> None:
    """Assert that both sides have the same rows as in Spark."""
    assert opened.users is not None
    for side in (opened.items, opened.users):
        expected = {row["id"]: row["features"] for row in factors[side.name]}
        ids = side.ids()
        assert set(ids.tolist()) == set(expected)
        rows = np.array([expected[number] for number in ids.tolist()], np.float32)
        np.testing.assert_array_equal(vectors(side), rows)
