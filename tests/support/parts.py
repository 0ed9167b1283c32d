"""A published version rewritten in store format 2: the same rows, the users in part files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from embsync.engines.part_writer import PartWriter
from embsync.file_hashes import FileEntry
from embsync.manifest import FORMAT_OF_PARTS, Manifest, PartFile, Parts, encode
from embsync.store import Store, layout
from embsync.store.version_manifest import hash_line

#: Small enough that each test's side has several files with several row groups.
FILES, GROUP_ROWS = 3, 7


def in_parts(root: Path, number: int | None = None, *, files: int = FILES, group_rows: int = GROUP_ROWS) -> Path:
    """Rewrite a version (default: the current one) with its users in ``files`` files; return its directory."""
    store = Store(root)
    folder = store.path(number or store.current() or 0)
    manifest = store.manifest(int(folder.name))
    arrays = [np.load(folder / name) for name in _NAMES]
    parts, entries = write_parts(folder, _divided(arrays, files), group_rows)
    for name in _NAMES:
        (folder / name).unlink()
    kept = [entry for entry in manifest.files if entry.path not in _NAMES]
    described = sorted([*kept, *entries], key=lambda entry: entry.path)
    describe(folder, msgspec.structs.replace(manifest, format=FORMAT_OF_PARTS, parts=parts, files=described))
    return folder


def write_parts(
    folder: Path, rows: Iterable[tuple[Any, Any, Any]], group_rows: int | None = None
) -> tuple[Parts, list[FileEntry]]:
    """Write ids, vectors and versions last seen, one element per file, as executors do; files without rows are omitted.

    Return the manifest's entries for them.
    """
    parts, entries = [], []
    (folder / "users").mkdir(exist_ok=True)
    for ids, vectors, last_seen in rows:
        name, strings = layout.part_file("users", len(parts)), ids.dtype.kind == "S"
        writer = PartWriter(str(folder), name, vectors.shape[1], strings=strings, group_rows=group_rows)
        writer.add(ids, vectors, last_seen)
        if (found := writer.finish()) is not None:
            first, last = (found[end] if strings else int(found[end]) for end in ("first", "last"))
            parts.append(PartFile(file=name, rows=found["rows"], first=first, last=last))
            entries.append(FileEntry(name, found["bytes"], found["sha256"]))
    return Parts(users=parts), entries


def describe(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a version."""
    data = encode(manifest)
    for name, content in ((layout.MANIFEST, data), (layout.MANIFEST_HASH, hash_line(data))):
        (folder / name).unlink()
        (folder / name).write_bytes(content)


def replaced(folder: Path, data: bytes, file: str = "users/part-00001.parquet", **changes: Any) -> None:
    """Replace the bytes of a part file as if they had been published: with their size and hash in the manifest."""
    manifest = Store(folder.parent.parent).manifest(int(folder.name))
    (folder / file).unlink()
    (folder / file).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    entries = [
        msgspec.structs.replace(entry, bytes=len(data), sha256=digest) if entry.path == file else entry
        for entry in manifest.files
    ]
    describe(folder, msgspec.structs.replace(manifest, files=entries, **changes))


def all_in_parts(root: Path) -> None:
    """Rewrite every version of a store with two sides."""
    for number in Store(root).numbers():
        in_parts(root, number)


_NAMES = [layout.side_file("users", what) for what in ("ids", "vectors", "last_seen")]


def _divided(arrays: list[Any], files: int) -> Iterator[tuple[Any, Any, Any]]:
    bounds = np.linspace(0, len(arrays[0]), files + 1).astype(int).tolist()
    for start, stop in pairwise(bounds):
        yield tuple(array[start:stop] for array in arrays)
