"""A side of a snapshot or of a version as a data frame.

Only data frames are used: no RDD, context, accumulator or broadcast, which Spark Connect and managed clusters lack.
Functions are shipped by value, so that executors need NumPy and pyarrow, not embsync.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pyspark import cloudpickle
from pyspark.sql import functions as sql

from embsync.dtypes import Array, Float64
from embsync.engines.batches import ids_of
from embsync.engines.first_pass import TOTALS, sampling, sum_totals, taking, totals_of, triangle_of
from embsync.engines.protocol import Kept, RowMapping, SideTotals, TakenRows, WrittenTable
from embsync.engines.second_pass import RESULT, writing
from embsync.engines.spark.errors import spark_errors
from embsync.engines.totals import row_counts, totals_from, unpacked
from embsync.engines.written import gather, plain
from embsync.ids import sample
from embsync.manifest import RowCounts
from embsync.sides import SideName

# the whole package, because one function calls others
cloudpickle.register_pickle_by_value(sys.modules["embsync"])  # type: ignore[no-untyped-call]

#: Most tasks that add up the sums of all partitions, and rows for each. Their results reach the driver: 16 matrices of
#: 256 x 256 are 8 MiB.
_SUMMED_BY, _ROWS_OF_A_SUM = 16, 500_000
#: Bytes that reach the driver at once.
_AT_ONCE = 8 * 2**20
#: Bytes of vectors in a part file.
_PART_BYTES = 128 * 2**20
_ALL = 2**64 - 1


@dataclass(frozen=True)
class SparkTable:
    """A side as :class:`~embsync.engines.protocol.SideTable`.

    Attributes
    ----------
    name : str
    source : str
        Its name in error messages.
    frame : DataFrame
        ``id``, ``vector`` and, of a version, ``last_seen``.
    width : int
    dtype : dtype
    strings : bool
    outputs : int
        Part files to write; 0: chosen by size.
    """

    name: SideName
    source: str
    frame: Any
    width: int
    dtype: np.dtype[Any]
    strings: bool
    outputs: int = 0

    @cached_property
    def rows(self) -> int:
        """Number of rows, which parquet files have in their footers."""
        with spark_errors(self.source):
            return int(self.frame.count())

    def totals(self) -> SideTotals:
        """Return the sums of one pass, added up in two steps: thousands of sums are too much for the driver."""
        with spark_errors(self.source):
            parts = self._raw.mapInArrow(totals_of(self.width), TOTALS)
            found = parts.repartition(self._summed_by).mapInArrow(sum_totals(self.width), TOTALS).collect()
        return totals_from([row.asDict() for row in found], self)

    def triangle(self) -> Float64:
        """Return the triangular factor, by QR decompositions of partitions, then of their factors."""
        with spark_errors(self.source):
            parts = self._raw.mapInArrow(triangle_of(self.width), "matrix binary")
            again = triangle_of(self.width, again=True)
            found = parts.repartition(self._summed_by).mapInArrow(again, "matrix binary").collect()
        stacked = np.vstack([np.frombuffer(row["matrix"]).reshape(-1, self.width) for row in found])
        padded = np.zeros((self.width, self.width))
        factor = np.linalg.qr(stacked, mode="r")
        padded[: len(factor)] = factor
        return padded

    def take(self, ids: Array) -> TakenRows:
        """Return the rows of these ids; each partition is searched for them, which avoids a join."""
        size = len(ids) * (self.width * self.dtype.itemsize + ids.dtype.itemsize)
        with spark_errors(self.source):
            found = self.frame.mapInArrow(taking(np.sort(ids)), "packed binary")
            streams = (bytes(row["packed"]) for row in found.repartition(1 + size // _AT_ONCE).toLocalIterator())
            return unpacked(streams, self.width, self.dtype, strings=self.strings)

    def sample_ids(self, size: int) -> Array:
        """Return the ids with the lowest hashes, from those below a bound that slightly more than ``size`` meet."""
        more = size + 8.0 * math.sqrt(size) + 64.0
        bound = _ALL if more >= self.rows else int(2**64 * (more / self.rows))
        ids = self._sampled(bound)
        if len(ids) < size and bound < _ALL:
            ids = self._sampled(_ALL)
        return np.sort(ids[sample(ids, size)])

    def _sampled(self, bound: int) -> Array:
        kind = "string" if self.strings else "long"
        with spark_errors(self.source):
            found = self.frame.select("id").mapInArrow(sampling(bound), f"id {kind}").toArrow()
        return ids_of(found.column("id").combine_chunks())

    def count(self, parent: SparkTable | None, kept: Kept) -> RowCounts:
        """Return the row counts of the next version, which follow from the ids."""
        with spark_errors(self.source):
            none = sql.lit(None).cast("long")
            ids = self.frame.select("id", sql.lit(1).cast("long").alias("live"), none.alias("seen"))
            if parent is not None:
                before = parent.frame.select(
                    "id", sql.lit(0).cast("long").alias("live"), sql.col("last_seen").alias("seen")
                )
                ids = ids.unionByName(before)
            each = ids.groupBy("id").agg(sql.sum("live").alias("live"), sql.max("seen").alias("seen"))
            found = each.agg(*_counts(kept)).collect()[0].asDict()
            examples = each.where("live > 1").limit(5).collect() if found["repeated"] else []
        return row_counts(found | {"examples": [row["id"] for row in examples]}, self)

    def write(self, parent: SparkTable | None, mapping: RowMapping, target: Path) -> WrittenTable:
        """Map every row and write part files, one per range of ids."""
        with spark_errors(self.source):
            rows = self._raw.withColumn("last_seen", sql.lit(None).cast("long"))
            if parent is not None:
                before = parent.frame.select("id", sql.col("vector").cast(self._list_type), "last_seen")
                rows = rows.unionByName(before)
            order = [sql.col("id").asc(), sql.col("last_seen").asc_nulls_first()]
            ranges = rows.repartitionByRange(self._outputs(parent, mapping), "id").sortWithinPartitions(*order)
            work = writing(plain(mapping, strings=self.strings), str(target))
            found = [row.asDict() for row in ranges.mapInArrow(work, RESULT).collect()]
        return gather(found, target, mapping, strings=self.strings)

    @property
    def _summed_by(self) -> int:
        return min(_SUMMED_BY, 1 + self.rows // _ROWS_OF_A_SUM)

    @property
    def _raw(self) -> Any:
        return self.frame.select("id", sql.col("vector").cast(self._list_type).alias("vector"))

    @property
    def _list_type(self) -> str:
        return "array<double>" if self.dtype.itemsize == 8 else "array<float>"

    def _outputs(self, parent: SparkTable | None, mapping: RowMapping) -> int:
        rows = self.rows + (0 if parent is None else parent.rows)
        return self.outputs or 1 + rows * mapping.matrix.shape[1] * 4 // _PART_BYTES


def _counts(kept: Kept) -> Sequence[Any]:
    """Return the sums over ids that :func:`embsync.engines.totals.row_counts` takes."""
    live, seen = sql.col("live"), sql.col("seen")
    carried = (live == 0) if kept.everything else (live == 0) & seen.isin(kept.numbers.tolist())
    conditions = {
        "live": live > 0,
        "known": (live > 0) & seen.isNotNull(),
        "common": (live > 0) & (seen == kept.parent),
        "was_live": seen == kept.parent,
        "carried": carried,
    }
    repeated = sql.coalesce(sql.sum(sql.when(live > 1, live - 1).otherwise(0)), sql.lit(0))
    return [repeated.alias("repeated"), *(sql.count_if(what).alias(name) for name, what in conditions.items())]
