"""Recognise, by name and first bytes, files that no layout reads, with a command that converts them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from embsync.errors import SnapshotError, printable
from embsync.invocation import quoted
from embsync.snapshots import foreign, names
from embsync.snapshots.files import FileBytes, Place

PARQUET_MAGIC = b"PAR1"
PARTITION = re.compile(r"^[A-Za-z_][\w-]*=")
#: Endings of files that layouts read.
_READ = {".npy", ".npz", ".parquet", ".safetensors", ".vec", ".txt", ".bin", ".csv", ".tsv", ".arrow", ".feather"}
#: Names that are inspected for one message.
_MOST = 1000


def conversion_of(place: Place, kind: str) -> tuple[str, str] | None:
    """Return what is at ``place`` and how to convert it; None if neither its first bytes nor its name show it."""
    if kind == "directory":
        return _of_directory(place)
    if kind != "file":
        return None
    suffix = PurePosixPath(place.name).suffix
    if suffix != suffix.lower() and suffix.lower() in _READ:
        return "an upper-case suffix", f"mv {{sh}} {{shto}}{suffix.lower()}".format(**_paths(place))
    start = _start(place)
    found = foreign.foreign_kind(place.name, start)
    if found is None:
        return None
    commas = foreign.decimal_commas(start) if found == "text" else None
    return _advice(commas or foreign.KINDS[found], place)


def misnamed(place: Place) -> tuple[str, str] | None:
    """Return what a file is, and a command that converts it, if its first bytes contradict its name."""
    found = foreign.contradicts(place.name, _start(place))
    return None if found is None else _advice(found, place)


def belongs_to_another(name: str) -> bool:
    """Return whether an array belongs to a model of another format, such as gensim's context vectors."""
    return foreign.GENSIM_ARRAY.search(name) is not None


def describe_unrecognised(place: Place) -> tuple[str, str | None]:
    """Return what was found at a snapshot's root that no layout recognises, and a command that helps."""
    if place.kind() != "directory":
        advice = conversion_of(place, place.kind())
        return (f"{printable(place.name)}, {advice[0]}", advice[1]) if advice else (f"a file named {place.name}", None)
    everything = place.entries()
    entries = {name: kind for name, kind in everything.items() if not names.parse(name).harmless}
    if not entries:
        return f"only {', '.join(list(everything)[:5])}" if everything else "an empty directory", None
    advice = _of_snapshots(place, entries) or _of_directory(place)
    if advice is not None:
        return advice
    # metadata.tsv is converted together with its vectors
    tried = sorted(list(entries.items())[:_MOST], key=lambda entry: entry[0] in {"metadata.tsv", "labels.tsv"})
    for name, kind in tried:
        advice = conversion_of(place.child(name), kind)
        if advice is not None:
            others = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
            return f"{printable(name)}, {advice[0]}{others}", advice[1]
    more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
    count = f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"
    return printable(f"{count}: {', '.join(list(entries)[:8])}{more}"), None


def _of_snapshots(place: Place, entries: Mapping[str, str]) -> tuple[str, str] | None:
    """Return what was found and how to proceed for a directory of snapshots, which is not itself a snapshot."""
    folders = [name for name, kind in list(entries.items())[:_MOST] if kind == "directory"]
    snapshots = [
        name for name in folders if any(names.parse(entry).side == "items" for entry in place.child(name).entries())
    ]
    if not snapshots or len(snapshots) < len(folders) // 2 or names.parse(snapshots[0]).side:
        return None
    first = place.child(min(snapshots))
    return (
        f"a directory of snapshots ({printable(min(snapshots))}/ and so on) instead of one of them",
        f"begin with the oldest, such as {_shell(first)}",
    )


def _of_directory(place: Place) -> tuple[str, str] | None:
    if place.name.endswith(".lance"):
        return _advice(foreign.KINDS["lance"], place)
    entries = place.entries()
    model = foreign.model_of(entries)
    if model is not None:
        return _advice(model, place)
    folders = [name for name, kind in entries.items() if kind == "directory"]
    partitions = [name for name in folders if PARTITION.match(name)]
    if partitions:
        return (
            f"a partitioned table ({printable(partitions[0])}/ and so on); partitioned tables are not read",
            "write it without partitionBy (pandas, pyarrow: without partition_cols), one directory of part files",
        )
    files = [name for name, kind in list(entries.items())[:_MOST] if kind == "file" and not names.parse(name).harmless]
    bare = [name for name in files if "." not in name and begins_with(place.child(name), PARQUET_MAGIC)]
    if bare:
        return (
            f"{printable(bare[0])}, parquet without its ending",
            f'for f in {_shell(place)}/*; do mv "$f" "$f.parquet"; done',
        )
    if folders and not files and not names.parse(place.name).side:
        for name in folders[:10]:
            advice = _of_directory(place.child(name))
            if advice is not None:
                return f"{printable(name)}/ with {advice[0]}", advice[1]
    return None


def _paths(place: Place) -> dict[str, str]:
    path = PurePosixPath(str(place))
    to = path.with_suffix("") if path.suffix else path
    model = re.sub(r"(\.wv)?\.(vectors|syn1neg|syn1|vectors_\w+)\.npy$", "", str(path))
    to_other = {ending: repr(f"{to}.{ending}") for ending in ("parquet", "vec", "npz")}
    return {
        "py": repr(str(path)),
        "name": repr(path.name),
        "dir": repr(f"{path.parent}/"),
        "model": repr(model),
        "sh": quoted(str(path)),
        "shto": quoted(str(to)),
        "shdir": quoted(str(path.parent)),
        **to_other,
    }


def _shell(place: Place) -> str:
    return quoted(str(place))


def begins_with(place: Place, magic: bytes) -> bool:
    """Return whether a file can be read and begins with these bytes."""
    return _start(place).startswith(magic)


def _start(place: Place) -> bytes:
    """Return the first bytes of a file, b"" if it cannot be read."""
    try:
        with place.open() as file:
            return FileBytes(file, str(place)).read(foreign.LONGEST_START, 0)
    except SnapshotError:
        return b""


def _advice(found: foreign.Foreign, place: Place) -> tuple[str, str]:
    command = found.command if found.renamed is None or found.is_named(place.name) else found.renamed
    return found.what, command.format(**_paths(place))
