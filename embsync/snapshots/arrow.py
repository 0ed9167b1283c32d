"""Layout arrow: Arrow IPC files and streams (Feather 2), as pandas, Polars, R and ``datasets`` write them."""

from __future__ import annotations

from embsync.snapshots.side_files import ColumnFormat

EXPECTS = "items and users, each one .arrow or .feather file or a directory of them"
_SUFFIXES = (".arrow", ".feather", ".ipc", ".arrows")

FORMAT = ColumnFormat(_SUFFIXES, lambda place: place.name.endswith(_SUFFIXES), lambda _, __: {"kind": "arrow"})
