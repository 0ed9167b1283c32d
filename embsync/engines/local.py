"""A side in memory as Arrow tables, one per partition: the reference that other engines are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embsync.dtypes import Array, Float64, Int64
from embsync.engines.batches import ids_of, ids_to
from embsync.engines.first_pass import PartitionWork, sum_totals, taking, totals_of, triangle_of
from embsync.engines.protocol import Kept, RowMapping, SideTotals, TakenRows, WrittenTable
from embsync.engines.second_pass import writing
from embsync.engines.totals import Tally, row_counts, totals_from, unpacked
from embsync.engines.written import gather, plain
from embsync.ids import sample
from embsync.sides import SideName


@dataclass(frozen=True)
class LocalTable:
    """A side as :class:`~embsync.engines.protocol.SideTable`.

    Attributes
    ----------
    name : str
    source : str
        Its name in error messages.
    width : int
    dtype : dtype
    strings : bool
    partitions : sequence of pyarrow.Table
        ``id``, ``vector`` and, of a version, ``last_seen``.
    outputs : int
        Number of part files to write.
    """

    name: SideName
    source: str
    width: int
    dtype: np.dtype[Any]
    strings: bool
    partitions: Sequence[Any]
    outputs: int = 3

    @classmethod
    def of(
        cls, name: SideName, ids: Array, vectors: Array, last_seen: Int64 | None = None, *, partitions: int = 3
    ) -> LocalTable:
        """Return arrays as a table, with rows distributed round-robin over the partitions."""
        tables = []
        for part in range(partitions):
            rows = slice(part, None, partitions)
            columns = {"id": ids_to(ids[rows]), "vector": pa.array(list(vectors[rows]), pa.list_(_kind(vectors)))}
            if last_seen is not None:
                columns["last_seen"] = pa.array(last_seen[rows])
            tables.append(pa.table(columns))
        return cls(name, name, vectors.shape[1], vectors.dtype, ids.dtype.kind == "S", tables)

    def totals(self) -> SideTotals:
        """Return the sums of one pass."""
        return totals_from(self._reduced(totals_of(self.width), sum_totals(self.width)).to_pylist(), self)

    def triangle(self) -> Float64:
        """Return the triangular factor."""
        found = self._reduced(triangle_of(self.width), triangle_of(self.width, again=True))
        return np.frombuffer(found.column("matrix")[0].as_py()).reshape(-1, self.width)

    def take(self, ids: Array) -> TakenRows:
        """Return the rows of these ids."""
        packed = (batch.column("packed")[0].as_py() for batch in self._each(taking(np.sort(ids))))
        return unpacked(packed, self.width, self.dtype, strings=self.strings)

    def sample_ids(self, size: int) -> Array:
        """Return the ids with the lowest hashes."""
        ids = np.concatenate([ids_of(table.column("id").combine_chunks()) for table in self.partitions])
        return np.sort(ids[sample(ids, size)])

    def count(self, parent: LocalTable | None, kept: Kept) -> Any:
        """Return the row counts of the next version, which follow from the ids."""
        tally = Tally({}, {})
        for table in self.partitions:
            for name in table.column("id").to_pylist():
                tally.live[name] = tally.live.get(name, 0) + 1
        for table in () if parent is None else parent.partitions:
            tally.parent.update(zip(table.column("id").to_pylist(), table.column("last_seen").to_pylist(), strict=True))
        return row_counts(tally.summed(kept), self)

    def write(self, parent: LocalTable | None, mapping: RowMapping, target: Path) -> WrittenTable:
        """Map every row and write part files."""
        tables = [table.append_column("last_seen", pa.nulls(len(table), pa.int64())) for table in self.partitions]
        if parent is not None:
            tables += [table.cast(tables[0].schema) for table in parent.partitions]
        rows = pa.concat_tables(tables)
        order = np.lexsort((~rows.column("last_seen").is_null().to_numpy(), ids_of(rows.column("id").combine_chunks())))
        rows = rows.take(pa.array(order))
        work = writing(plain(mapping, strings=self.strings), str(target))
        results = [row for part in self._ranges(rows) for batch in work(part) for row in batch.to_pylist()]
        return gather(results, target, mapping, strings=self.strings)

    def _ranges(self, rows: Any) -> Iterator[Iterator[Any]]:
        """Yield small batches of each range of ids; an id is in only one range."""
        ids = ids_of(rows.column("id").combine_chunks())
        ends = np.linspace(0, len(ids), self.outputs + 1).astype(int)
        ends[1:-1] = [np.searchsorted(ids, ids[end]) for end in ends[1:-1]]
        for start, end in itertools.pairwise(ends):
            part = rows.slice(start, end - start).combine_chunks()
            yield iter(part.to_batches(max_chunksize=7))

    def _each(self, work: PartitionWork) -> list[Any]:
        return [batch for table in self.partitions for batch in work(iter(table.combine_chunks().to_batches(100)))]

    def _reduced(self, work: PartitionWork, again: PartitionWork) -> Any:
        return next(again(iter(self._each(work))))


def _kind(vectors: Array) -> Any:
    return pa.from_numpy_dtype(vectors.dtype)
