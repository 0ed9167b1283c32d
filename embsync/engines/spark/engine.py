"""Tables of Spark from the files of a snapshot or of a version, which every executor finds under the same path."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as sql

from embsync.engines.batches import ids_to, lists_of
from embsync.engines.first_pass import Batches, PartitionWork
from embsync.engines.spark.errors import spark_errors
from embsync.engines.spark.session import Jobs
from embsync.engines.spark.table import SparkTable
from embsync.sides import SideName
from embsync.snapshots.column_files import StoredColumns

#: Rows of an array that a task reads at once.
_ROWS = 8192
#: Characters that Hadoop interprets as a pattern.
_PATTERN = str.maketrans({character: f"\\{character}" for character in "\\*?[]{}"})


@dataclass(frozen=True)
class SparkEngine:
    """Reads sides as tables of a Spark session.

    Attributes
    ----------
    jobs : Jobs
        The jobs of this run.
    outputs : int
        Part files to write; 0: chosen by size.
    """

    jobs: Jobs
    outputs: int = 0
    _reports: list[int] = field(default_factory=lambda: [0], repr=False, compare=False)

    def __post_init__(self) -> None:
        """Register for progress reports of Spark Connect, which has no status that could be queried."""
        if self.jobs.connect:
            self.session.registerProgressHandler(self._count)

    @property
    def session(self) -> Any:
        """The session of Spark."""
        return self.jobs.session

    def _count(self, **_: object) -> None:
        self._reports[0] += 1

    def progress(self) -> object:
        """Return the completed tasks of this run's stages, and the reports of Spark Connect."""
        with contextlib.suppress(Exception):  # Spark Connect has no context; a cluster may be gone
            tracker = self.session.sparkContext.statusTracker()
            jobs = [tracker.getJobInfo(job) for job in sorted(self.jobs.numbers())]
            stages = [tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds]
            return tuple((stage.stageId, stage.numCompletedTasks) for stage in stages if stage is not None)
        return self._reports[0]

    def interrupt(self) -> None:
        """End the jobs of this run."""
        self.jobs.cancel()

    def snapshot(self, name: SideName, stored: StoredColumns, source: str, width: int) -> SparkTable:
        """Return a side of a snapshot."""
        strings = stored.id_kind == "string"
        with spark_errors(source):
            frame = self.session.read.parquet(*map(_uri, stored.files))
            columns = [sql.col(f"`{column}`") for column in stored.vectors]
            vector = columns[0] if stored.vector_kind.startswith("list") else sql.array(*columns)
            ids = sql.col(f"`{stored.ids}`").cast("string" if strings else "long")
            frame = frame.select(ids.alias("id"), vector.alias("vector"))
        return SparkTable(name, source, frame, width, stored.dtype, strings, self.outputs)

    def arrays(self, name: SideName, files: Sequence[Path], rows: int, width: int, *, strings: bool) -> SparkTable:
        """Return a side of a version in three arrays."""
        schema = f"id {'string' if strings else 'long'}, vector array<float>, last_seen long"
        with spark_errors(str(files[0].parent)):
            ranges = self.session.range(0, rows, _ROWS)
            frame = ranges.mapInArrow(_reading([str(file) for file in files]), schema)
        return SparkTable(name, str(files[0].parent), frame, width, np.dtype(np.float32), strings, self.outputs)

    def parts(self, name: SideName, files: Sequence[Path], rows: int, width: int, *, strings: bool) -> SparkTable:
        """Return a side of a version in part files."""
        with spark_errors(str(files[0].parent)):
            frame = self.session.read.parquet(*(_uri(str(file)) for file in files))
        return SparkTable(name, str(files[0].parent), frame, width, np.dtype(np.float32), strings, self.outputs)


def _reading(files: list[str]) -> PartitionWork:
    """Return a function that reads ``_ROWS`` rows from each given row number on."""

    def work(batches: Batches) -> Batches:
        ids, vectors, last_seen = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files)
        for batch in batches:
            for start in batch.column("id").to_pylist():
                part = slice(start, start + _ROWS)
                columns = {"id": ids_to(np.array(ids[part])), "vector": lists_of(np.array(vectors[part]))}
                yield pa.record_batch({**columns, "last_seen": pa.array(np.array(last_seen[part]))})

    return work


def _uri(path: str) -> str:
    """Return the URI of a local path for Spark, whose default file system may be another one."""
    return f"file:{Path(path).absolute()}".translate(_PATTERN)
