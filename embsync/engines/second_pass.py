"""The second pass over one partition, in which the parent's row of an id follows the snapshot's.

It maps, measures, carries, and writes a part file and a file of sums; this also runs on machines without embsync. Both
files have a name that is unique to the attempt and stated in its result. No result names files that a failed, repeated
or superseded attempt left behind, so that every row counts once.
"""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embsync.alignment.drift import MOVED_MOST, compare_raw, compare_stable
from embsync.alignment.preservation import written_block
from embsync.dtypes import Array, Bool, Float32, Int64
from embsync.engines.batches import ids_of, pieces, rows_in, shown_ids, vectors_of
from embsync.engines.first_pass import Batches, PartitionWork
from embsync.engines.part_writer import PartWriter, write_sums
from embsync.engines.partition_error import PartitionError
from embsync.snapshots.row_digest import row_sums

#: Schema of a partition's result: one row, or none if the partition had no rows.
RESULT = "name string, rows long, first string, last string, bytes long, sha256 string"
#: Rows mapped at once.
_STEP = 4096
COUNTS = ("live", "known", "common", "was_live", "carried")


class _Partition:
    """The sums over one partition, and its part file."""

    def __init__(self, plan: dict[str, Any], directory: str) -> None:
        self.plan = plan
        self.width, self.dimension = plan["matrix"].shape
        self.name = f"{uuid.uuid4().hex}.parquet"
        self.directory = directory
        self.writer = PartWriter(directory, self.name, self.dimension, strings=plan["strings"])
        self.cross = np.zeros((self.width, self.dimension))
        self.own = np.zeros((self.dimension, self.dimension))
        self.digest = np.zeros(2, np.uint64)
        self.moments = np.zeros(self.dimension + 1)
        self.stable, self.raw = np.zeros(2), np.zeros(6)
        self.counts = dict.fromkeys(COUNTS, 0)
        self.rows: list[Float32] = []  # cosine, norm and the parent's norm of each common row
        self.lowest: list[tuple[float, Any]] = []
        self.sampled: list[Array] = []  # (2, n): positions among the sampled ids, and row numbers in this part

    def add(self, batch: Any) -> None:
        """Add rows; no row has its counterpart in another batch."""
        ids, live = ids_of(batch.column("id")), batch.column("last_seen").is_null()
        snapshot, parent = batch.filter(live), batch.filter(pc.invert(live))
        is_live: Bool = live.to_numpy(zero_copy_only=False)
        same = ids[1:] == ids[:-1]
        repeated = same & (is_live[1:] | ~is_live[:-1])
        if repeated.any():
            found = f"an id is repeated: {shown_ids(batch.column('id').slice(1), repeated)}"
            raise PartitionError("repeated_id", "the snapshot changed while it was read", found, "each id once")
        before = np.flatnonzero(np.append(same, False))  # live rows whose parent's row follows
        mine = np.cumsum(is_live)[before] - 1
        theirs = np.cumsum(~is_live)[before + 1] - 1
        stable, old, seen = self._map(snapshot, ids[is_live]), self._parent(parent), self._seen(parent)
        self._compare(ids[before], vectors_of(snapshot.column("vector"), self.width), stable, old, seen, mine, theirs)
        kept = self._kept(seen)
        kept[theirs] = False
        self.counts["live"] += len(stable)
        self.counts["known"] += len(before)
        self.counts["was_live"] += int(np.count_nonzero(seen == self.plan["parent"]))
        self.counts["carried"] += int(np.count_nonzero(kept))
        self._write(ids, is_live, stable, old, seen, kept)

    def _map(self, snapshot: Any, ids: Array) -> Float32:
        """Return the stable rows of the snapshot's rows, and add them to the sums."""
        block = vectors_of(snapshot.column("vector"), self.width)
        stable = np.empty((len(block), self.dimension), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for part in pieces(len(block), _STEP):
                stable[part], cross, own = written_block(block[part], self.plan["matrix"], self.plan["scale"])
                self.cross += cross
                self.own += own
                exact = stable[part].astype(np.float64)
                self.moments[:-1] += exact.sum(axis=0)
                self.moments[-1] += np.einsum("ij,ij->", exact, exact)
        if len(block):
            self.digest += row_sums(ids, block)
        return stable

    def _parent(self, parent: Any) -> Float32:
        return vectors_of(parent.column("vector"), self.dimension).astype(np.float32, copy=False)

    def _seen(self, parent: Any) -> Int64:
        return np.asarray(parent.column("last_seen").to_numpy(zero_copy_only=False), np.int64)

    def _kept(self, seen: Int64) -> Bool:
        return np.ones(len(seen), bool) if self.plan["everything"] else np.isin(seen, self.plan["numbers"])

    def _compare(
        self, ids: Array, block: Array, stable: Float32, old: Float32, seen: Int64, mine: Int64, theirs: Int64
    ) -> None:
        """Compare the rows that are live in both versions."""
        both = seen[theirs] == self.plan["parent"]
        ids, mine, theirs = ids[both], mine[both], theirs[both]
        self.counts["common"] += len(ids)
        if len(ids) == 0:
            return
        cosines, norms, moved, before = compare_stable(stable[mine], old[theirs])
        self.stable += (moved, before)
        self.rows.append(np.vstack([cosines[None], norms]).astype(np.float32))
        order = np.argsort(np.where(np.isnan(cosines), np.inf, cosines), kind="stable")[:MOVED_MOST]
        found = [(float(cosines[row]), ids[row]) for row in order if not np.isnan(cosines[row])]
        self.lowest = sorted([*self.lowest, *found], key=lambda pair: pair[0])[:MOVED_MOST]
        if self.plan["inverse"] is not None:
            self.raw += compare_raw(block[mine], old[theirs] @ self.plan["inverse"])

    def _write(self, ids: Array, is_live: Bool, stable: Float32, old: Float32, seen: Int64, kept: Bool) -> None:
        written = is_live.copy()
        written[~is_live] = kept
        vectors = np.empty((int(np.count_nonzero(written)), self.dimension), np.float32)
        numbers = np.full(len(vectors), self.plan["number"], np.int64)
        lives = is_live[written]
        names, wanted = ids[written], self.plan["sampled"]
        if wanted is not None and len(found := rows_in(names, wanted)):
            self.sampled.append(np.stack([np.searchsorted(wanted, names[found]), found + self.writer.rows]))
        vectors[lives], vectors[~lives], numbers[~lives] = stable, old[kept], seen[kept]
        self.writer.add(names, vectors, numbers)

    def finish(self) -> dict[str, Any]:
        """Write the sums and return the result."""
        described = self.writer.finish() or {"rows": 0, "first": "", "last": "", "bytes": 0, "sha256": ""}
        sums = {
            "cross": self.cross,
            "own": self.own,
            "digest": self.digest,
            "moments": self.moments,
            "stable": self.stable,
            "raw": self.raw,
            "counts": np.array([self.counts[name] for name in COUNTS]),
            "rows": np.concatenate([np.empty((3, 0), np.float32), *self.rows], axis=1),
            "sampled": np.concatenate([np.empty((2, 0), np.int64), *self.sampled], axis=1),
            "lowest": np.array([cosine for cosine, _ in self.lowest]),
            "lowest_ids": np.array([name for _, name in self.lowest]) if self.lowest else np.empty(0, np.int64),
        }
        write_sums(self.directory, f"{self.name}.sums", sums)
        return {"name": self.name, **described}


def writing(plan: dict[str, Any], directory: str) -> PartitionWork:
    """Return a function that maps and writes a partition, sorted by id; a snapshot's row precedes the parent's.

    The snapshot's rows have a null ``last_seen``.

    Parameters
    ----------
    plan : dict
        ``matrix``, ``scale``, ``number``, ``parent`` (its number), ``numbers``, ``everything``, ``inverse`` (float32 or
        None), ``sampled`` and ``strings``: :class:`embsync.engines.protocol.RowMapping` as plain values.
    directory : str
    """

    def work(batches: Batches) -> Batches:
        partition, held = _Partition(plan, directory), None
        any_rows = False
        for batch in batches:
            if len(batch) == 0:
                continue
            any_rows = True
            rows = batch if held is None else _joined([held, batch])
            # The parent's row of the last one may be in the next batch.
            open_rows = int(rows.column("last_seen").is_null()[-1].as_py())
            partition.add(rows.slice(0, len(rows) - open_rows))
            held = rows.slice(len(rows) - 1) if open_rows else None
        if held is not None:
            partition.add(held)
        if any_rows:
            yield pa.RecordBatch.from_pylist([partition.finish()], schema=_RESULT_SCHEMA)

    return work


_KINDS = {"string": pa.string(), "long": pa.int64()}
_RESULT_SCHEMA = pa.schema([(name, _KINDS[kind]) for name, kind in (field.split() for field in RESULT.split(", "))])


def _joined(batches: list[Any]) -> Any:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
