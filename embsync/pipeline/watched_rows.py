"""Rows that report their progress as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from embsync.dtypes import Array
from embsync.progress import Progress, Stage
from embsync.rows import Rows
from embsync.sides import SideName
from embsync.snapshots import Snapshot


@dataclass(frozen=True)
class WatchedRows:
    """A side's rows that report how much of the snapshot has been read in a stage, items first."""

    rows: Rows
    snapshot: Snapshot
    name: SideName
    stage: str
    progress: Progress

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.rows.count

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.rows.width

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield the blocks, and report each before it is processed."""
        before = 0 if self.name == "items" else self.snapshot.items.count
        total = max(sum(side.count for side in self.snapshot.sides), 1)
        stage = Stage(self.stage, total, "rows")
        for start, block in self.rows.blocks():
            self.progress(stage, (before + start) / total)
            yield start, block
