"""The users of a run as a table that an engine reads, maps and writes; see :mod:`embsync.engines.protocol`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from embsync.alignment.anchors import AnchorSide, AnchorUpdate, choose
from embsync.alignment.gram import Pairing, SideSums, sum_side, triangular_factor
from embsync.alignment.preservation import Residual
from embsync.alignment.two_pass import SideFit
from embsync.config import Config
from embsync.dtypes import Array, Float64, Int64, UInt64
from embsync.engines.protocol import (
    Engine,
    Kept,
    RowMapping,
    SideTable,
    SideTotals,
    TakenRows,
    WrittenPart,
    WrittenTable,
)
from embsync.errors import SnapshotError, UsageError
from embsync.file_hashes import FileEntry
from embsync.ids import positions_in
from embsync.manifest import PartFile, RowCounts
from embsync.pipeline.references import anchors_of, pair, write_anchors, write_start
from embsync.pipeline.run_sides import SAMPLED, START_ROWS, Sampled, part_files, reject_other_ids
from embsync.reader import Version
from embsync.rows import ArrayRows
from embsync.sides import SideName
from embsync.snapshots import IdentifiedSide, SnapshotSide, StoredColumns, side_digest
from embsync.store import layout
from embsync.store.staging import Staging


@dataclass(frozen=True)
class TableInput:
    """The first pass over a table: its totals, and the rows that were taken from it.

    Attributes
    ----------
    table : SideTable
    totals : SideTotals
    taken : TakenRows
        Rows with an anchor, and the sampled rows.
    pairing : Pairing or None
        Of the taken rows.
    rate : float
    sampled : (s,) int64
        Positions of the sampled rows among the taken ones.
    """

    table: SideTable
    totals: SideTotals
    taken: TakenRows
    pairing: Pairing | None
    rate: float
    sampled: Int64

    @property
    def width(self) -> int:
        """Values in a row."""
        return self.table.width

    def sums(self, threads: int) -> SideSums:
        """Return the sums over all rows; those with the anchors are computed from the taken rows."""
        rows = ArrayRows(self.taken.vectors)
        found = sum_side(rows, self.pairing, sampled=self.sampled, name=self.table.name, threads=threads)
        return replace(found, rows=self.totals.rows, gram=self.totals.gram, zero_rows=self.totals.zero_rows)

    def factor(self, gram: Float64) -> Float64:
        """Return the triangular factor."""
        return triangular_factor(gram, self.table.triangle)


@dataclass(frozen=True)
class TableDigest:
    """The digest of a pass over a table, from its sums."""

    table: SideTable
    rows: int
    sums: UInt64

    def hexdigest(self) -> str:
        """Return the digest, equal to that of the same rows read by this process."""
        table = self.table
        kind = table.dtype.newbyteorder("<").str
        return side_digest(table.name, kind, table.width, self.rows, self.sums, weighted=False, strings=table.strings)

    def earlier(self) -> None:
        """Return None: the rule of earlier releases depends on the order of rows, which a table does not have."""


@dataclass(frozen=True)
class TableRun:
    """The users of a run.

    Attributes
    ----------
    name : str
    side : SnapshotSide
        The side of the snapshot, from the headers of its files.
    engine : Engine
    counts : RowCounts
    fitted : TableInput
    anchors : AnchorSide or None
        The parent's anchors.
    parent : Version or None
    before : SideTable or None
        The parent's side.
    known : TakenRows
        The parent's rows of the sampled ids.
    kept : Kept
    """

    name: SideName
    side: SnapshotSide
    engine: Engine
    counts: RowCounts
    fitted: TableInput
    anchors: AnchorSide | None
    parent: Version | None
    before: SideTable | None
    known: TakenRows
    kept: Kept

    @property
    def digest(self) -> TableDigest:
        """The digest of the first pass."""
        return TableDigest(self.fitted.table, self.fitted.totals.rows, self.fitted.totals.digest)

    @property
    def id_bytes(self) -> int:
        """Bytes of an id; for strings, of the longest among the taken rows."""
        return self.fitted.taken.ids.dtype.itemsize

    @property
    def sampled_ids(self) -> Array:
        """The sampled ids, ascending."""
        return self.fitted.taken.ids[self.fitted.sampled]

    def sampled(self) -> Sampled:
        """Return the sampled rows."""
        places = positions_in(self.sampled_ids, self.known.ids)
        live = places >= 0
        live[live] = self.known.last_seen[places[live]] == self.kept.parent
        there = np.flatnonzero(live)
        rows = np.full(len(there), -1, np.int64)
        return Sampled(self.sampled_ids, there, rows, self.known.vectors[places[there]])


def table_run(
    engine: Engine,
    side: SnapshotSide,
    parent: Version | None,
    known: Version | None,
    update: AnchorUpdate,
    config: Config,
) -> TableRun:
    """Make the first pass over the users.

    Raises
    ------
    SnapshotError
        A row is ill-formed, an id occurs twice, or the ids are of a different type from the store's.
    UsageError
        The users are stored in a format that the engine does not read.
    """
    table = engine.snapshot("users", readable(side, config), side.source, side.width)
    if known is not None and known.record.users is not None:
        reject_other_ids(side, "users", "S" if table.strings else "i", known)
    before = None if parent is None else _version_table(engine, parent)
    lineage = np.empty(0, np.int64) if parent is None else parent.lineage
    kept = Kept(lineage, config.store.carry_forward_versions)
    totals = table.totals()
    _require_all_rows(side, totals)
    counts = table.count(before, kept)
    wanted = table.sample_ids(max(SAMPLED, config.index.sample_queries))
    anchors, known_rows = None, TakenRows(wanted[:0], np.empty((0, 0), np.float32), np.empty(0, np.int64))
    if parent is not None and before is not None:
        anchors = anchors_of(parent, "users")
        needed = np.asarray(anchors.ids) if update.policy == "two_time_scales" else wanted[:0]
        known_rows = before.take(_union(needed, wanted))
    taken = table.take(wanted if anchors is None else _union(np.asarray(anchors.ids), wanted))
    pairing, rate = None, 1.0
    if anchors is not None:
        pairing, rate = pair(taken.ids, anchors, update, known_rows.ids, known_rows.vectors), anchors.rate
    fitted = TableInput(table, totals, taken, pairing, rate, positions_in(wanted, taken.ids))
    return TableRun("users", side, engine, counts, fitted, anchors, parent, before, known_rows, kept)


def _require_all_rows(side: SnapshotSide, totals: SideTotals) -> None:
    """Refuse fewer rows than the files list: Spark ignores row groups that begin beyond a file's end."""
    if totals.rows != side.count:
        raise SnapshotError(
            "malformed table",
            where=side.source,
            found=f"{totals.rows} rows",
            expected=f"{side.count} by its metadata",
            hint="a file is damaged: write the snapshot again",
        )


def _union(first: Array, second: Array) -> Array:
    return np.union1d(first, second) if len(first) else second


def readable(side: SnapshotSide, config: Config) -> StoredColumns:
    """Return the files and columns of the users, before an engine is started.

    Raises
    ------
    SnapshotError, UsageError
        The engine does not read their type or format.
    """
    # Files of a Delta table may contain rows that its log marks as deleted.
    stored = StoredColumns.of(side) if isinstance(side, IdentifiedSide) and side.ordered else None
    if stored is None or stored.kind != "parquet" or config.snapshot.weight_column is not None:
        of_parquet = stored is not None and stored.kind == "parquet"
        raise UsageError(
            "the Spark engine does not read these users",
            where=side.source,
            found=f"snapshot.weight_column: {config.snapshot.weight_column}"
            if of_parquet
            else "other files, or no ids",
            expected="parquet with a column of ids and one of vectors, without weights",
            hint="set engine.kind: local",
        )
    if stored.dtype.itemsize == 2 or stored.vector_kind not in ("list float32", "list float64", "float32", "float64"):
        raise SnapshotError(
            "vectors of a type that Spark does not read",
            where=side.source,
            found=f"{stored.vectors[0]} ({stored.vector_kind})",
            expected="a list of float32 or float64",
            hint="write them as float32, or set engine.kind: local",
        )
    return stored


def _version_table(engine: Engine, version: Version) -> SideTable:
    """Return the users of a version: in part files, or in the arrays of the local engine."""
    record = version.record
    assert record.users is not None
    if parts := part_files(version):
        files = [version.path / part.file for part in parts]
        return engine.parts(
            "users", files, record.users.rows, record.dimension, strings=isinstance(parts[0].first, str)
        )
    paths = tuple(version.path / layout.side_file("users", what) for what in ("ids", "vectors", "last_seen"))
    strings = version.side("users").ids.dtype.kind == "S"
    return engine.arrays("users", paths, record.users.rows, record.dimension, strings=strings)


@dataclass(frozen=True)
class WrittenUsers:
    """The users after the second pass.

    Attributes
    ----------
    table : WrittenTable
    residual : Residual
    parts : list of PartFile
    since_start : float or None
        Mean cosine with the space's first version.
    """

    table: WrittenTable
    residual: Residual
    parts: list[PartFile]
    since_start: float | None


def write_table(
    staging: Staging,
    run: TableRun,
    part: SideFit,
    inverse: Float64 | None,
    number: int,
    update: AnchorUpdate,
    config: Config,
) -> WrittenUsers:
    """Write the users' part files with the engine; write their anchors, start sample and moments."""
    mapping = RowMapping(part.map, part.scale, number, run.kept, inverse, run.sampled_ids)
    with Staging(staging.path.parent) as scratch:
        # Executors write to another directory, so that leftovers of a late attempt are never among the version's files.
        found = run.fitted.table.write(run.before, mapping, scratch.path)
        parts = [_adopt(staging, one, number_) for number_, one in enumerate(found.parts)]
    files = [staging.path / one.file for one in parts]
    table = run.engine.parts("users", files, found.counts.rows, part.map.shape[1], strings=run.fitted.table.strings)
    staging.save(layout.side_file(run.name, "moments"), found.moments)
    ids = table.sample_ids(max(config.space.anchors.rows, START_ROWS))
    start = None if run.parent is None else run.parent.reference("start", run.name)
    taken = table.take(ids if start is None else _union(np.asarray(start[0]), ids))
    live = taken.last_seen == number
    anchor_ids = ids[choose(ids, config.space.anchors.rows)]
    rows = positions_in(anchor_ids, taken.ids)
    write_anchors(staging, run, anchor_ids, rows, live[rows], taken.vectors, update, config.threads)
    since_start = write_start(staging, run.name, run.parent, taken.ids, live, taken.vectors)
    residual = Residual(part.sums.gram, found.cross, found.own)
    return WrittenUsers(found, residual, parts, since_start)


def _adopt(staging: Staging, part: WrittenPart, number: int) -> PartFile:
    file = layout.part_file("users", number)
    staging.adopt(part.path, FileEntry(file, part.bytes, part.sha256))
    return PartFile(file=file, rows=part.rows, first=part.first, last=part.last)
