"""The interface of one side of a run, whether its rows are read by this process or by an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from embsync.alignment.anchors import AnchorSide
from embsync.alignment.two_pass import FirstPass
from embsync.dtypes import Array, Float32, Int64
from embsync.errors import SnapshotError, UsageError
from embsync.invocation import command, store_of
from embsync.manifest import PartFile, Parts, RowCounts
from embsync.reader import Version
from embsync.sides import SideName
from embsync.snapshots import Digest, SnapshotSide

#: Number of users sampled for the certificate and the overlaps.
SAMPLED = 1000
#: Ids per side of a space's first version that are kept to measure the drift since the start.
START_ROWS = 1000


@dataclass(frozen=True)
class Sampled:
    """The sampled rows of a side, in the order of ``SideSums.sample``.

    Attributes
    ----------
    ids : (s,)
    in_parent : (m,) int64
        Positions in ``ids`` of those that are live in the parent.
    parent_rows : (m,) int64
        The parent's rows of these, -1 where unknown.
    stable : (m, k) float32
        The parent's vectors of these.
    """

    ids: Array
    in_parent: Int64
    parent_rows: Int64
    stable: Float32


class RunSide(Protocol):
    """One side of a run, whose rows are read by this process or by an engine."""

    @property
    def name(self) -> SideName:
        """``items`` or ``users``."""

    @property
    def side(self) -> SnapshotSide:
        """The side of the snapshot."""

    @property
    def fitted(self) -> FirstPass:
        """The side as the input of the alignment."""

    @property
    def digest(self) -> Digest:
        """The digest of the pass over that input."""

    @property
    def anchors(self) -> AnchorSide | None:
        """The parent's anchors, None in a new space."""

    @property
    def counts(self) -> RowCounts:
        """Row counts, without the number of zero rows."""

    @property
    def id_bytes(self) -> int:
        """Bytes of an id as it is stored."""

    def sampled(self) -> Sampled:
        """Return the sampled rows."""


def part_files(version: Version) -> list[PartFile]:
    """Return the part files of a version's users; none if they are in arrays."""
    parts = version.record.parts
    return parts.users if isinstance(parts, Parts) else []


def reject_other_ids(side: SnapshotSide, name: SideName, kind: str, known: Version) -> None:
    """Refuse ids of a different type from the store's; ``kind`` is NumPy's letter, ``i`` or ``S``."""
    parts = part_files(known) if name == "users" else []
    stored = ("S" if isinstance(parts[0].first, str) else "i") if parts else known.side(name).ids.dtype.kind
    if kind != stored:
        kinds = {"i": "integers", "S": "strings"}
        raise SnapshotError(
            f"{side.name} ids of a different type from the store's",
            where=side.source,
            found=kinds[kind],
            expected=kinds[stored],
            hint="the id type of a store never changes; use another store",
        )


def require_rows(parent: Version | None, path: Path) -> None:
    """Refuse to align to a version whose users only an engine reads; a new space may begin after it."""
    if parent is not None and part_files(parent):
        raise UsageError(
            "the users of the current version are in part files, which the local engine does not map",
            where=parent.path,
            hint=command("sync", path, "--engine", "spark", purpose="to publish by Spark", store=store_of(parent.path)),
        )
