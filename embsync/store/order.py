"""``order.json``: what ``watch.order: auto`` was decided to mean in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from embsync.store import layout
from embsync.store.journal import now
from embsync.store.records import read_struct


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """The file, field by field.

    Attributes
    ----------
    order : str
        ``name`` in a store of a release that ordered by name alone, else ``auto``.
    series : list of str
        Series whose numbers count.
    decided : str
        When, as RFC 3339 UTC.
    """

    format: int = 1
    order: Literal["auto", "name"]
    series: list[str] = []
    decided: str = msgspec.field(default_factory=now)


def read_decided(root: Path) -> Decided | None:
    """Return what was decided in a store, None before anything was.

    Raises
    ------
    StoreDamaged
        The file is damaged; it may be removed, and the journal tells anew.
    StoreError
        It cannot be read.
    """
    return read_struct(root / layout.ORDER, Decided)
