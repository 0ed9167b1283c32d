"""``order.json``: the order that ``watch.order: auto`` selected for a store."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from embsync.store import layout
from embsync.store.records import read_struct, timestamp


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of the file.

    Attributes
    ----------
    order : str
        ``name`` in a store of a release that ordered only by name, else ``auto``.
    series : list of str
        Series of names whose numbers give the order.
    decided : str
        Time of the decision, RFC 3339 UTC.
    """

    format: int = 1
    order: Literal["auto", "name"]
    series: list[str] = []
    decided: str = msgspec.field(default_factory=timestamp)


def read_decided(root: Path) -> Decided | None:
    """Return the order decided for a store, or None if none has been decided.

    Raises
    ------
    StoreDamaged
        The file is damaged; it can be deleted, and is then derived from the journal again.
    StoreError
        It cannot be read.
    """
    return read_struct(root / layout.ORDER, Decided)
