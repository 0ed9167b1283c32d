"""Layout spark_pipeline: a ``PipelineModel`` that Spark saved, with one ALS model among its stages.

The factors of that stage are read like any parquet. If a ``StringIndexer`` of the pipeline numbered the items or users,
their numbers depend on the counts of one night and are not ids: such a pipeline is refused.
"""

from __future__ import annotations

import json
from typing import Any

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError, SnapshotIncomplete
from embsync.snapshots import parquet
from embsync.snapshots.accounting import Claim
from embsync.snapshots.files import FileBytes, Place
from embsync.snapshots.sides import IdentifiedSide

EXPECTS = "a PipelineModel saved by Spark, with one ALS model in stages/"
_STAGES, _METADATA = "stages", "metadata"
_FACTORS = frozenset({"itemFactors", "userFactors"})
#: The parameters of a stage are a few kilobytes of JSON.
_LONGEST = 1024**2
_HINT = (
    'in Spark: labels = spark.createDataFrame(list(enumerate(indexer.labels)), ["id", "item_id"]); '
    'als.itemFactors.join(labels, "id").select("item_id", "features").write.parquet("items") (likewise for users)'
)


def recognise(place: Place) -> bool:
    """Return whether there is a pipeline with a stage of factors at ``place``."""
    return bool(_als_stages(place))


def claim(place: Place, config: SnapshotConfig) -> Claim:
    """Return which entries at ``place`` this layout reads."""
    stage = _als_stages(place)[0]
    inner, prefix = parquet.FORMAT.claim(stage, config), "/".join(stage.parts[len(place.parts) :])
    inside = frozenset(f"{prefix}/{path}" for path in inner.inside)
    return Claim(inner.sides, frozenset({_STAGES}), inside=inside)


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, IdentifiedSide | None]:
    """Return the sides of the one ALS model in the pipeline at ``place``."""
    stages = _als_stages(place)
    if len(stages) != 1:
        raise SnapshotError(
            "more than one ALS model in a pipeline",
            where=str(place),
            found=", ".join(stage.name for stage in stages)[:200],
            expected="one",
            hint=f"give the right one: {stages[0]}",
        )
    found = parquet.FORMAT.find_sides(stages[0])
    if len(found) < len(_FACTORS):
        raise SnapshotIncomplete(
            "incomplete ALS model",
            where=str(stages[0]),
            found=", ".join(side.name for side in found.values()) or "no factors",
            expected="part files in itemFactors and userFactors",
        )
    _reject_indexed(place, stages[0])
    return parquet.FORMAT.open_sides(stages[0], config)


def _als_stages(place: Place) -> list[Place]:
    if place.kind() != "directory" or place.entries().get(_STAGES) != "directory":
        return []
    folder = place.child(_STAGES)
    stages = [folder.child(name) for name, kind in folder.entries().items() if kind == "directory"]
    return [stage for stage in stages if not _FACTORS.isdisjoint(stage.entries())]


def _reject_indexed(place: Place, als: Place) -> None:
    trained = _parameters(als)
    columns = {trained.get("itemCol", "item"), trained.get("userCol", "user")}
    for name, kind in place.child(_STAGES).entries().items():
        stage = place.child(_STAGES).child(name)
        if kind != "directory" or stage == als:
            continue
        given = _parameters(stage)
        outputs = {given.get("outputCol"), *given.get("outputCols", [])}
        if str(given.get("class")).endswith("StringIndexerModel") and not outputs.isdisjoint(columns):
            raise SnapshotError(
                "ids from a StringIndexer, which change every night",
                where=str(stage),
                found=f"{', '.join(sorted(map(str, outputs & columns)))}, which ALS was trained on",
                expected="the ids before indexing",
                hint=_HINT,
            )


def _parameters(stage: Place) -> dict[str, Any]:
    """Return the class and parameters of a stage; raise unless its metadata is as Spark writes it."""
    if stage.entries().get(_METADATA) != "directory":
        return {}
    folder = stage.child(_METADATA)
    file = next((name for name, kind in folder.entries().items() if kind == "file" and name.startswith("part-")), None)
    if file is None:
        return {}
    with folder.child(file).open() as opened:
        text = FileBytes(opened, str(folder)).read(_LONGEST, 0)
    try:
        found = json.loads(text)
        return {"class": found["class"], **found.get("defaultParamMap", {}), **found.get("paramMap", {})}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise SnapshotError(
            "ill-formed metadata of a stage",
            where=str(folder.child(file)),
            found=repr(text[:60]),
            expected="JSON with class and paramMap, as Spark writes it",
        ) from None
