"""Layout spark_pipeline: the only ALS model of a pipeline, in files as Spark writes them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from snapshots.made import Model, assert_reads, model, read
from snapshots.test_parquet import table

from embsync.config import SnapshotConfig, WatchConfig
from embsync.errors import SnapshotError, SnapshotIncomplete
from embsync.snapshots import open_snapshot
from embsync.watching.discovery import discover

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

CONFIG = SnapshotConfig()
MADE = model()


def stage(path: Path, name: str, **parameters: Any) -> Path:
    """Write the metadata of a stage."""
    folder = path / "stages" / name / "metadata"
    folder.mkdir(parents=True)
    found = {"class": f"org.apache.spark.ml.{name.split('_')[1]}Model", "paramMap": parameters, "defaultParamMap": {}}
    (folder / "part-00000").write_text(json.dumps(found) + "\n")
    (folder / "_SUCCESS").touch()
    return folder.parent


def pipeline(path: Path, made: Model = MADE, name: str = "1_ALS_ab12") -> Path:
    """Write a pipeline with an ALS model."""
    als = stage(path, name, itemCol="item_index", userCol="user")
    for side, ids, matrix in (("item", made.item_ids, made.items), ("user", made.user_ids, made.users)):
        (als / f"{side}Factors").mkdir()
        pq.write_table(table(ids, matrix), als / f"{side}Factors" / "part-00000-7f.snappy.parquet")
        (als / f"{side}Factors" / "_SUCCESS").touch()
    (path / "metadata").mkdir(exist_ok=True)
    (path / "metadata" / "part-00000").write_text("{}")
    return path


def test_the_factors_of_the_one_model_are_read(tmp_path: Path) -> None:
    """Other stages are reported as not read."""
    stage(pipeline(tmp_path), "0_VectorAssembler_cd34", outputCol="features")
    opened = open_snapshot(tmp_path, CONFIG)
    assert (opened.layout, opened.unread) == ("spark_pipeline", ("stages/0_VectorAssembler_cd34/",))
    assert_reads(opened, MADE)


def test_indices_of_a_string_indexer_are_not_ids(tmp_path: Path) -> None:
    """It holds for either side; an indexer of another column does not affect the ids."""
    stage(pipeline(tmp_path), "0_StringIndexer_a", outputCol="genre_index")
    read(tmp_path, CONFIG)
    stage(tmp_path, "2_StringIndexer_b", outputCols=["genre", "item_index"])
    with pytest.raises(SnapshotError, match=r"from a StringIndexer.*found item_index.*indexer.labels"):
        open_snapshot(tmp_path, CONFIG)


def test_two_models_are_an_error(tmp_path: Path) -> None:
    """The hint names one of them, which is a snapshot by itself."""
    pipeline(pipeline(tmp_path), name="2_ALS_cd34")
    with pytest.raises(SnapshotError, match=r"more than one ALS model.*1_ALS_ab12, 2_ALS_cd34") as refused:
        open_snapshot(tmp_path, CONFIG)
    assert_reads(open_snapshot(str(refused.value.hint).partition(": ")[2], CONFIG), MADE)


@pytest.mark.parametrize("text", ["", "[]", '{"class": 1', '{"paramMap": []}', "[" * 5000])
def test_ill_formed_metadata_is_refused(tmp_path: Path, text: str) -> None:
    """Without it, an indexer of the ids would not be detected."""
    folder = stage(pipeline(tmp_path), "0_StringIndexer_a", outputCol="item_index")
    (folder / "metadata" / "part-00000").write_text(text)
    with pytest.raises(SnapshotError, match="ill-formed metadata of a stage"):
        open_snapshot(tmp_path, CONFIG)


def test_a_pipeline_is_complete_when_both_sides_are_marked(tmp_path: Path) -> None:
    """A part in transfer is waited for; the markers of both sides count as a marker at the root."""
    night = pipeline(tmp_path / "day=1")
    als = night / "stages" / "1_ALS_ab12"

    def look(complete: str) -> tuple[str, str]:
        watch = WatchConfig(settle_seconds=0, complete=complete)
        (child,) = discover(tmp_path, watch, CONFIG, now=time.time() + 1).children
        return child.state, child.reason

    assert look("marker") == ("ready", "marker")
    (als / "itemFactors" / "_SUCCESS").unlink()
    assert look("marker")[0] == "waiting"
    assert look("auto") == ("ready", "settled")
    part = als / "itemFactors" / "part-00000-7f.snappy.parquet"
    more = table(MADE.item_ids[:1] + 10**6, MADE.items[:1])
    pq.write_table(more, part.with_name(".part-00001-7f.snappy.parquet.aB3xY9"))
    assert look("auto")[0] == "waiting"
    part.unlink()
    with pytest.raises(SnapshotIncomplete, match="incomplete ALS model"):
        open_snapshot(night, CONFIG)
