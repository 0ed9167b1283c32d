"""How long work tells where it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from embsync.dtypes import Array
from embsync.rows import Rows

#: Called with the stage and the share of it that is done, 0 to 1.
Progress = Callable[[str, float], None]


def silent(stage: str, share: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class WatchedRows:
    """Rows that report how far they were read.

    ``before`` and ``of`` are rows: those read earlier in the same stage, and all of the stage.
    """

    rows: Rows
    stage: str
    progress: Progress
    before: int
    of: int

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
        for start, block in self.rows.blocks():
            self.progress(self.stage, (self.before + start) / max(self.of, 1))
            yield start, block
