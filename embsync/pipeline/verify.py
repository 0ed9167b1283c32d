"""``verify``: check that a version matches its manifest, and its scores those of its snapshot."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embsync.alignment.preservation import Residual, map_error, residual_of, score_error
from embsync.checks import CHECKS
from embsync.config import Config
from embsync.dtypes import Array, Float32, Float64
from embsync.errors import EmbsyncError, StoreDamaged
from embsync.file_hashes import HASHED_AT_ONCE
from embsync.limits import Relative
from embsync.manifest import FORMAT_OF_PARTS
from embsync.pipeline.watched_rows import WatchedRows
from embsync.progress import Progress, Stage, silent
from embsync.reader import Version
from embsync.reader.side import Side
from embsync.rows import as_slice
from embsync.snapshots import SideDigest, SnapshotSide, fingerprints_of, is_earlier, open_snapshot
from embsync.store import Store

#: Bytes of vectors that are read from part files at once.
_READ_AT_ONCE = 32 * 2**20


@dataclass(frozen=True)
class Verification:
    """The result of verifying one version.

    Attributes
    ----------
    damaged : list of str
        Files that do not match the manifest.
    snapshot : str or None
        The snapshot from which the certificate was recomputed; None if it is gone or has changed, see ``note``.
    map_error, score_error : float or None
    limit : float
        Largest score error of a sound version.
    """

    version: int
    files: int
    damaged: list[str]
    map_error: float | None
    score_error: float | None
    snapshot: str | None
    note: str | None
    limit: float

    @property
    def sound(self) -> bool:
        """Whether no check that could be made failed."""
        return not self.damaged and (self.score_error is None or self.score_error <= self.limit)


def verify(store: Store, version: Version, config: Config, progress: Progress = silent) -> Verification:
    """Re-hash every file, and recompute the certificate from the snapshot if it still exists."""
    damaged = _damaged_files(store, version, progress) or _wrong_rows(version)
    measured, source, note = None, None, None
    try:
        path = _snapshot_path(store, version, config)
        if path is None:
            note = "the snapshot is not on this host: the certificate was not recomputed"
        else:
            measured = _recompute(version, path, config, progress)
            source = str(path)
            note = None if measured is not None else "the snapshot has changed: the certificate was not recomputed"
    except EmbsyncError as error:
        note = f"the certificate was not recomputed: {error}"
    limit = CHECKS["score_error"].refuse
    assert isinstance(limit, Relative)
    return Verification(
        version=version.number,
        files=len(version.record.files),
        damaged=damaged,
        map_error=None if damaged else map_error(version.transform.maps),
        score_error=measured,
        snapshot=source if measured is not None else None,
        note=note,
        limit=limit.at({"truncation_loss": version.record.alignment.truncation_loss}),
    )


def _damaged_files(store: Store, version: Version, progress: Progress) -> list[str]:
    """Hash the files one after the other, in the order of the manifest."""
    found: list[str] = []
    total = max(sum(entry.bytes for entry in version.record.files), 1)
    stage, before = Stage("hashing", total, "bytes"), 0
    for entry in version.record.files:
        blocks = itertools.count()

        def proceed(before: int = before, size: int = entry.bytes, blocks: Iterator[int] = blocks) -> bool:
            progress(stage, (before + min(next(blocks) * HASHED_AT_ONCE, size)) / total)
            return False

        found += store.damaged_files(version.number, entry.path, proceed)
        before += entry.bytes
    return found


def _snapshot_path(store: Store, version: Version, config: Config) -> Path | None:
    """Return the snapshot's path from the journal, or else in the watched directory."""
    wanted = version.record.snapshot
    journaled = (event.snapshot or {} for event in store.journal.events())
    named = (entry.get("path") for entry in journaled if entry.get("fingerprint") == wanted.fingerprint)
    places = [Path(path) for path in named if path]
    if config.watch.path is not None:
        places.append(Path(config.watch.path) / wanted.name)
    return next((path for path in reversed(places) if path.exists()), None)


def _wrong_rows(version: Version) -> list[str]:
    """Return what is wrong with rows of part files whose hashes match: other machines may have written wrong rows."""
    users, counts = version.users, version.record.users
    if version.record.format != FORMAT_OF_PARTS or users is None or counts is None:
        return []
    rows, live = 0, 0
    try:
        for _, vectors, seen in users.stored_blocks():
            file, rows = version.part_of(rows), rows + len(seen)
            live += int(np.count_nonzero(seen == users.newest))
            if not np.isfinite(vectors).all():
                return [f"{file}: NaN or infinity in a vector"]
            if not np.isin(seen, version.lineage).all():
                return [f"{file}: last_seen is not a version of the lineage"]
    except StoreDamaged as error:
        return [f"{str(error.where).removeprefix(f'{version.path}/')}: {error.found}"]
    return [] if live == counts.live else [f"users: {live} live rows, {counts.live} in the manifest"]


class _WrittenRows:
    """Published vectors in the order of a snapshot's rows; safe to use from several threads.

    From part files, rows in another order are read for many blocks at once, since nearly every row group has some rows
    of each block: 1 million rows x 64 in random order took 54 seconds block by block.
    """

    def __init__(self, vectors: Float32, rows: Array) -> None:
        self._vectors = vectors
        self._rows = rows
        self._step = max(1, _READ_AT_ONCE // (4 * vectors.shape[1]))
        self._read: dict[int, Array] = {}
        self._lock = threading.Lock()

    def __getitem__(self, part: slice) -> Array:
        rows = self._rows[part]
        places = as_slice(rows)
        if isinstance(self._vectors, np.ndarray) or isinstance(places, slice):
            found: Array = np.array(self._vectors[places])
        else:
            steps = range(part.start // self._step, (part.start + len(rows) - 1) // self._step + 1)
            read = np.concatenate([self._at_once(step) for step in steps])
            found = read[part.start - steps[0] * self._step :][: len(rows)]
        found[rows < 0] = np.nan
        return found

    def _at_once(self, step: int) -> Array:
        with self._lock:
            if step not in self._read:
                while len(self._read) > 1:  # two, since blocks are read in parallel
                    del self._read[min(self._read)]
                start = step * self._step
                self._read[step] = self._vectors[self._rows[start : start + self._step]]
            return self._read[step]


def _recompute(version: Version, path: Path, config: Config, progress: Progress) -> float | None:
    """Return the score error of the published files, or None if the snapshot has changed."""
    snapshot = open_snapshot(path, config.snapshot)
    maps = version.transform.maps
    if snapshot.width != len(maps.items) or (snapshot.users is None) != (version.users is None):
        return None
    fingerprint = version.record.snapshot.fingerprint
    digests: list[SideDigest] = []

    def residual(side: SnapshotSide, stored: Side, matrix: Float64) -> Residual:
        ids = side.ids()
        written = _WrittenRows(stored.vectors, stored.positions(ids))
        digest = SideDigest(side, ids, earlier=is_earlier(fingerprint))
        digests.append(digest)
        rows = WatchedRows(digest.rows, snapshot, stored.name, "recomputing", progress)
        return residual_of(rows, written, np.asarray(matrix), observe=digest.update, threads=config.threads)

    residuals = snapshot.sides.map(residual, version.sides, maps)
    if fingerprint not in fingerprints_of(digests):
        return None
    return score_error(residuals, maps, threads=config.threads)
