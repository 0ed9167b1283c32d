"""Directories of a table format, whose log says which of their files are part of the table.

Read as plain part files, such a directory would bring back deleted rows and repeat rewritten ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from embsync.errors import SnapshotError
from embsync.snapshots.files import Place
from embsync.snapshots.sides import ITEMS, USERS

_EXPORT = "export the rows of one version to plain part files"
_DELTA = (
    "in Python: import deltalake, pyarrow.parquet as p; p.write_table(deltalake.DeltaTable({path!r})"
    ".to_pyarrow_table(), 'items.parquet') (or users.parquet)"
)
_DELTA_LOG = "_delta_log"
#: Directories of a side.
SIDE_NAMES = {ITEMS: ("items", "itemFactors"), USERS: ("users", "userFactors")}
_FORMATS = (
    (_DELTA_LOG, "a Delta table", _DELTA),
    (".hoodie", "a Hudi table", f'{_EXPORT}: spark.read.format("hudi").load({{path!r}}).write.parquet("items")'),
    (
        "_spark_metadata",
        "the sink of a Spark streaming query",
        f'{_EXPORT}: spark.read.parquet({{path!r}}).write.parquet("items")',
    ),
    (
        "_versions",
        "a Lance table",
        "in Python: import lance, pyarrow.parquet as p; p.write_table("
        "lance.dataset({path!r}).to_table(), 'items.parquet')",
    ),
)
_ICEBERG = f'{_EXPORT}: spark.read.format("iceberg").load({{path!r}}).write.parquet("items")'
_ICEBERG_END = ".metadata.json"


def delta_sides(place: Place) -> dict[str, Place]:
    """Return the Delta tables of a snapshot: one at its root (items), or one for each side."""
    if place.kind() != "directory":
        return {}
    entries = place.entries()
    if _DELTA_LOG in entries:
        return {ITEMS: place}
    return {
        side: place.child(name)
        for side, names in SIDE_NAMES.items()
        for name in names
        if entries.get(name) == "directory" and _DELTA_LOG in place.child(name).entries()
    }


def reject_tables(place: Place) -> None:
    """Refuse a snapshot that is, contains, or is part of a table of an unsupported format.

    Raises
    ------
    SnapshotError
        There is such a table; the message has its directory and format, and how to export the rows of one version.
    """
    if place.kind() != "directory":
        _reject(_format_of_path(Path(str(place)).parent), Path(str(place)).parent)
        return
    read = delta_sides(place).values()
    if place not in read:
        _reject(_format_of(place), Path(str(place)))
    for name, kind in place.entries().items():
        if kind == "directory" and place.child(name) not in read and place not in read:
            _reject(_format_of(place.child(name)), Path(str(place)) / name)
    for above in _holders(Path(str(place))):
        _reject(_format_of_path(above), above)


def _holders(path: Path) -> Iterator[Path]:
    """Yield the parent, and above partitions each directory up to the table: ``table`` for ``table/ds=1/hour=2``."""
    yield path.parent
    while "=" in path.parent.name:
        path = path.parent
        yield path.parent


def _reject(found: tuple[str, str] | None, path: Path) -> None:
    if found is not None:
        raise SnapshotError(
            "a table whose files include outdated rows",
            where=path,
            found=found[0],
            expected="plain part files, without the log of a table",
            hint=found[1].format(path=str(path)),
        )


def _format_of(place: Place) -> tuple[str, str] | None:
    return _recognise(place.entries(), Path(str(place)))


def _format_of_path(path: Path) -> tuple[str, str] | None:
    """Return the format of a directory outside the snapshot, by names alone, if it can be read."""
    names = {log for log, _, _ in _FORMATS if os.path.lexists(path / log)}
    return _recognise(names | ({"metadata"} if os.path.lexists(path / "metadata") else set()), path)


def _recognise(names: Iterator[str] | dict[str, str] | set[str], path: Path) -> tuple[str, str] | None:
    known = set(names)
    for log, what, hint in _FORMATS:
        if log in known:
            return f"{what} ({log})", hint
    if "metadata" in known:
        try:
            with os.scandir(path / "metadata") as entries:
                if any(entry.name.endswith(_ICEBERG_END) or entry.name == "version-hint.text" for entry in entries):
                    return "an Iceberg table (metadata/*.metadata.json)", _ICEBERG
        except OSError:
            return None
    return None
