"""A side whose vectors, and perhaps ids and weights, are in files of any layout."""

from __future__ import annotations

from pathlib import Path

import msgspec

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError, UsageError
from embsync.snapshots import open_snapshot
from embsync.snapshots.arrays import StoredColumn, StoredMatrix
from embsync.snapshots.files import Place
from embsync.snapshots.npy import NpyFile
from embsync.snapshots.sides import IdentifiedSide


def side_of_files(
    name: str, vectors: Path, ids: Path | None, weights: Path | None, config: SnapshotConfig
) -> IdentifiedSide:
    """Return a side: a ``.npy`` matrix with ids in another file, or a file or directory of a layout that includes ids.

    Raises
    ------
    SnapshotError
        A file is ill-formed, or there are no ids.
    UsageError
        Ids or weights are given for a file that includes them.
    """
    if vectors.suffix == ".npy":
        if ids is None:
            raise SnapshotError(
                "vectors without ids", where=str(vectors), expected="ids", hint=f"pass their file as --{name[:-1]}-ids"
            )
        stored = _file(vectors)
        with stored.open() as (header, _):
            matrix = StoredMatrix(stored, header)
        return IdentifiedSide(
            name, str(vectors), matrix, _column(ids), _column(weights), stored_bytes=header.data_bytes
        )
    if ids is not None or weights is not None:
        raise UsageError(
            "ids or weights given for a file that includes them",
            where=vectors,
            found=ids or weights,
            expected="ids and weights given only for a .npy file",
        )
    side = open_snapshot(vectors, msgspec.structs.replace(config, sides="items")).items
    assert isinstance(side, IdentifiedSide)
    return side.renamed(name)


def _file(path: Path) -> NpyFile:
    return NpyFile(Place.at(path))


def _column(path: Path | None) -> StoredColumn | None:
    if path is None:
        return None
    stored = _file(path)
    with stored.open() as (header, _):
        return StoredColumn(stored, header)
