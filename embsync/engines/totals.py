"""The totals, counts and rows of a side from the results of an engine, or an error that says what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from embsync.engines.batches import ids_of, vectors_of
from embsync.engines.protocol import Kept, SideTotals, TakenRows, in_order, no_rows
from embsync.errors import SnapshotError
from embsync.manifest import RowCounts


@dataclass(frozen=True)
class Tally:
    """Ids held in memory, one by one: how often each is live, and in which version the parent last had it."""

    live: dict[Any, int]
    parent: dict[Any, int]

    def summed(self, kept: Kept) -> dict[str, Any]:
        """Return the sums that :func:`row_counts` takes."""
        numbers = set(kept.numbers.tolist())
        absent = [seen for name, seen in self.parent.items() if name not in self.live]
        return {
            "live": len(self.live),
            "repeated": sum(count - 1 for count in self.live.values()),
            "examples": [name for name, count in self.live.items() if count > 1][:5],
            "known": sum(name in self.parent for name in self.live),
            "common": sum(self.parent.get(name) == kept.parent for name in self.live if name in self.parent),
            "was_live": sum(seen == kept.parent for seen in self.parent.values()),
            "carried": len(absent) if kept.everything else sum(seen in numbers for seen in absent),
        }


def row_counts(found: dict[str, Any], side: Any) -> RowCounts:
    """Return the counts, from the sums over ids.

    Raises
    ------
    SnapshotError
        Ids are repeated.
    """
    if found["repeated"]:
        examples = ", ".join(str(name) for name in found["examples"])
        raise SnapshotError(
            "repeated ids",
            where=side.source,
            found=f"{found['repeated']} repeated rows, among them {examples}",
            expected="each id once",
        )
    live, common, carried = found["live"], found["common"], found["carried"]
    return RowCounts(
        rows=live + carried,
        live=live,
        new=live - common,
        returned=found["known"] - common,
        gone=found["was_live"] - common,
        carried=carried,
        common=common,
    )


def totals_from(rows: Sequence[dict[str, Any]], side: Any) -> SideTotals:
    """Return the totals of a side from the sums of its parts.

    Raises
    ------
    SnapshotError
        A part found a null, a value that is not finite, or rows of other widths.
    """
    for row in rows:
        if row["problem"] is not None:
            raise SnapshotError(
                "rows that cannot be used",
                where=side.source,
                found=row["problem"],
                expected=f"finite vectors of {side.width} values, each with an id",
            )
    digest = np.zeros(2, np.uint64)
    for row in rows:
        digest += np.frombuffer(row["digest"], np.uint64)
    gram = np.sum([np.frombuffer(row["matrix"]).reshape(side.width, side.width) for row in rows], axis=0)
    return SideTotals(sum(row["rows"] for row in rows), gram, sum(row["zero_rows"] for row in rows), digest)


def unpacked(streams: Iterable[bytes], width: int, dtype: np.dtype[Any], *, strings: bool) -> TakenRows:
    """Return rows from the values that :func:`embsync.engines.first_pass.taking` yields."""
    parts = []
    for stream in streams:
        with pa.ipc.open_stream(stream) as found:
            batches = [batch for batch in found if len(batch)]
        for batch in batches:
            rows = len(batch)
            seen = batch.column("last_seen").to_numpy(zero_copy_only=False) if batch.num_columns > 2 else np.zeros(rows)
            vectors = vectors_of(batch.column("vector"), width).astype(dtype, copy=False)
            parts.append((ids_of(batch.column("id")), vectors, np.asarray(seen, np.int64)))
    if not parts:
        return no_rows(width, dtype, strings=strings)
    ids, rows_, seen_ = (np.concatenate(column) for column in zip(*parts, strict=True))
    return in_order(ids, rows_, seen_)
