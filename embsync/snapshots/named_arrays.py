"""Sides whose arrays have fixed names, as in ``.npy`` directories and ``.npz`` files."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from embsync.config import SideColumns, SnapshotConfig
from embsync.errors import SnapshotError
from embsync.numpy_header import ArrayHeader
from embsync.snapshots import names
from embsync.snapshots.arrays import Stored, StoredColumn, StoredMatrix
from embsync.snapshots.sides import ITEMS, USERS, IdentifiedSide

#: Vectors, ids and weights of each side.
ITEM_NAMES = (ITEMS, "item_ids", "item_weights")
USER_NAMES = (USERS, "user_ids", "user_weights")


def found_sides(taken: Collection[str], config: SnapshotConfig) -> frozenset[str]:
    """Return the sides whose required arrays are present."""
    return frozenset(
        vectors
        for vectors, ids, _ in (ITEM_NAMES, USER_NAMES)
        if vectors in taken and (ids in taken or config.row_number_ids)
    )


def open_named_sides(
    stored: Mapping[str, Stored], source: str, config: SnapshotConfig, others: Collection[str] = ()
) -> tuple[IdentifiedSide, IdentifiedSide | None]:
    """Return the sides made of the arrays that are present.

    Parameters
    ----------
    stored : mapping of array name to where it is
    source : str
        The snapshot, for messages.
    others : collection of str
        Names of other entries beside the arrays; some may be ids under a name that is not read.
    """
    for vectors, *parts in (ITEM_NAMES, USER_NAMES):
        stray = [name for name in parts if name in stored]
        if vectors not in stored and (stray or vectors == ITEMS):
            lost = f"{' and '.join(stray)} without {vectors}; " if stray else ""
            raise SnapshotError(
                "incomplete snapshot", where=source, found=f"{lost}{', '.join(stored)}", expected=vectors
            )
    likely = [name for name in others if names.parse(name).role == "ids"]
    if config.row_number_ids:
        reject_ids([str(stored[ids]) for _, ids, _ in (ITEM_NAMES, USER_NAMES) if ids in stored] + likely, source)
    headers = {name: _header(where) for name, where in stored.items()}
    _reject_swapped_ids(headers, source)
    items = _open_side(ITEMS, ITEM_NAMES, stored, headers, config, likely)
    return items, _open_side(USERS, USER_NAMES, stored, headers, config, likely) if USERS in stored else None


def configured_name(value: str | SideColumns, side: str) -> str | None:
    """Return the configured name of a side's array, None for ``auto``; a single name applies to items only."""
    if isinstance(value, str):
        return value if value != "auto" and side == ITEMS else None
    name = str(getattr(value, side))
    return None if name == "auto" else name


def reject_ids(found: Collection[str], source: str) -> None:
    """Refuse row numbers as ids if there are ids."""
    if found:
        raise SnapshotError(
            "row numbers are configured as ids, but there are ids",
            where=source,
            found=", ".join(sorted(found))[:200],
            expected="no ids with snapshot.row_number_ids: true",
            hint="set snapshot.row_number_ids: false",
        )


def _reject_swapped_ids(headers: Mapping[str, ArrayHeader], source: str) -> None:
    rows = {name: header.shape[0] for name, header in headers.items() if header.shape}
    (items, item_ids, _), (users, user_ids, _) = ITEM_NAMES, USER_NAMES
    if {items, users, item_ids, user_ids} <= rows.keys() and (
        rows[items] == rows[user_ids] != rows[users] == rows[item_ids]
    ):
        raise SnapshotError(
            "ids of the two sides are swapped",
            where=source,
            found=f"{rows[item_ids]} {item_ids} and {rows[user_ids]} {user_ids}",
            expected=f"{rows[items]} and {rows[users]}, as many as {items} and {users}",
        )


def _open_side(
    side: str,
    parts: tuple[str, str, str],
    stored: Mapping[str, Stored],
    headers: Mapping[str, ArrayHeader],
    config: SnapshotConfig,
    likely: Collection[str],
) -> IdentifiedSide:
    vectors, ids, weights = (stored.get(name) for name in parts)
    assert vectors is not None
    matrix = StoredMatrix(vectors, headers[parts[0]])
    if ids is None and not config.row_number_ids:
        raise SnapshotError(
            "vectors without ids",
            where=str(vectors),
            found=", ".join(sorted(likely))[:200] or None,
            expected=f"{parts[1]} beside {parts[0]}",
            hint=f"save the ids as {parts[1]}"
            if likely
            else "set snapshot.row_number_ids: true if row numbers are the ids",
        )
    return IdentifiedSide(
        side,
        str(vectors),
        matrix,
        None if ids is None else StoredColumn(ids, headers[parts[1]]),
        None if weights is None else StoredColumn(weights, headers[parts[2]]),
        stored_bytes=sum(headers[name].data_bytes for name in parts if name in headers),
    )


def _header(stored: Stored) -> ArrayHeader:
    with stored.open() as (header, _):
        return header
