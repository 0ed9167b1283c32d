"""Sides whose parts go by fixed names: the rule that ``.npy`` directories and ``.npz`` files share."""

from __future__ import annotations

from collections.abc import Mapping

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots.arrays import Stored, StoredColumn, StoredMatrix
from embsync.snapshots.numpy_header import ArrayHeader
from embsync.snapshots.sides import ITEMS, USERS, IdentifiedSide

#: Vectors, ids and weights of each side.
ITEM_NAMES = (ITEMS, "item_ids", "item_weights")
USER_NAMES = (USERS, "user_ids", "user_weights")


def open_named_sides(
    stored: Mapping[str, Stored], source: str, config: SnapshotConfig
) -> tuple[IdentifiedSide, IdentifiedSide | None]:
    """Return the sides made of the arrays that are there.

    Parameters
    ----------
    stored : mapping of array name to where it is
    source : str
        The snapshot, for messages.
    """
    for vectors, *others in (ITEM_NAMES, USER_NAMES):
        stray = [name for name in others if name in stored]
        if vectors not in stored and (stray or vectors == ITEMS):
            raise SnapshotError("half of a snapshot", where=source, found=", ".join(stored), expected=vectors)
    items = _open_side(ITEMS, ITEM_NAMES, stored, config)
    return items, _open_side(USERS, USER_NAMES, stored, config) if USERS in stored else None


def _open_side(
    side: str, names: tuple[str, str, str], stored: Mapping[str, Stored], config: SnapshotConfig
) -> IdentifiedSide:
    vectors, ids, weights = (stored.get(name) for name in names)
    assert vectors is not None
    headers = {name: _header(stored[name]) for name in names if name in stored}
    matrix = StoredMatrix(vectors, headers[names[0]])
    if ids is None and not config.row_number_ids:
        raise SnapshotError("vectors without ids", where=str(vectors), expected=f"{names[1]} beside {names[0]}",
                            hint="set snapshot.row_number_ids: true if row numbers are the ids")
    return IdentifiedSide(
        side,
        str(vectors),
        matrix,
        None if ids is None else StoredColumn(ids, headers[names[1]]),
        None if weights is None else StoredColumn(weights, headers[names[2]]),
        stored_bytes=sum(header.data_bytes for header in headers.values()),
    )


def _header(stored: Stored) -> ArrayHeader:
    with stored.open() as (header, _):
        return header
