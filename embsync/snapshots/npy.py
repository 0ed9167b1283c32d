"""Layout npy: ``items.npy`` with ``item_ids.npy``, and the same for users; or one ``.npy`` file of items."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embsync.config import SnapshotConfig
from embsync.numpy_header import LONGEST_HEADER, ArrayHeader, parse_header
from embsync.snapshots.accounting import Claim
from embsync.snapshots.conversions import belongs_to_another
from embsync.snapshots.files import FileBytes, Place, file_size
from embsync.snapshots.named_arrays import ITEM_NAMES, USER_NAMES, found_sides, open_named_sides
from embsync.snapshots.sides import ITEMS, USERS, IdentifiedSide

EXPECTS = "items.npy and item_ids.npy, perhaps users.npy and user_ids.npy; or one .npy file"
_SUFFIX = ".npy"


@dataclass(frozen=True)
class NpyFile:
    """One ``.npy`` file."""

    place: Place

    def __str__(self) -> str:
        return str(self.place)

    @contextmanager
    def open(self) -> Iterator[tuple[ArrayHeader, FileBytes]]:
        """Open the file; yield its header and its bytes."""
        with self.place.open() as file:
            content = FileBytes(file, str(self))
            yield parse_header(content.read(LONGEST_HEADER, 0), file_size(file), str(self)), content


def recognise(place: Place) -> bool:
    """Return whether the names at ``place`` match this layout."""
    if place.kind() == "file":
        return place.name.endswith(_SUFFIX) and not belongs_to_another(place.name)
    return not {ITEMS + _SUFFIX, USERS + _SUFFIX}.isdisjoint(place.entries())


def claim(place: Place, config: SnapshotConfig) -> Claim:
    """Return which entries at ``place`` this layout reads."""
    if place.kind() == "file":
        return Claim(frozenset({ITEMS}), as_items=frozenset({place.name}))
    taken = {name for name in (*ITEM_NAMES, *USER_NAMES) if name + _SUFFIX in place.entries()}
    return Claim(found_sides(taken, config), frozenset(name + _SUFFIX for name in taken))


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, IdentifiedSide | None]:
    """Return the sides at ``place``, checked by their headers."""
    if place.kind() == "file":
        return open_named_sides({ITEMS: NpyFile(place)}, str(place), config, ids_beside(place))
    entries = place.entries()
    wanted = (*ITEM_NAMES, *USER_NAMES)
    found = {name: NpyFile(place.child(name + _SUFFIX)) for name in wanted if name + _SUFFIX in entries}
    others = [name for name in entries if name.removesuffix(_SUFFIX) not in wanted]
    return open_named_sides(found, str(place), config, others)


def ids_beside(place: Place) -> list[str]:
    """Return the names of files of ids beside a snapshot that is a single file; they are not part of it."""
    stem = place.name.rpartition(".")[0]
    wanted = {f"{name}{_SUFFIX}" for name in ("ids", ITEM_NAMES[1], USER_NAMES[1], f"{stem}_ids", f"{stem}.ids")}
    holder = Path(str(place)).parent
    return sorted(str(holder / name) for name in wanted if os.path.lexists(holder / name))
