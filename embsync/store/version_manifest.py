"""Reading a version's manifest, any byte of which may be damaged."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import msgspec

from embsync.errors import StoreDamaged, StoreError
from embsync.labels import files_of
from embsync.manifest import FORMAT, FORMAT_OF_PARTS, IndexReport, Manifest, PartFile, Parts
from embsync.store import layout
from embsync.store.records import MALFORMED, damage_hint, read_record, require_time

#: Bytes of the largest manifest that is read: far more than any version needs, which has about twenty files.
_LONGEST = 16 * 1024**2
_HASH_LINE = re.compile(rb"([0-9a-f]{64}) [ *]manifest\.json\n?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hash_line(data: bytes) -> bytes:
    """Return the contents of ``manifest.sha256`` for a manifest, in the format of sha256sum."""
    return f"{hashlib.sha256(data).hexdigest()}  {layout.MANIFEST}\n".encode()


def read(folder: Path) -> tuple[bytes, Manifest]:
    """Return the manifest of a version's directory, as bytes and parsed.

    Raises
    ------
    StoreDamaged
        The manifest is missing, does not match ``manifest.sha256``, or is not of this version.
    StoreError
        It has another format.
    """
    path = folder / layout.MANIFEST
    data = read_record(path, _LONGEST)
    if data is None:
        raise StoreDamaged("damaged version", where=path, found="no such file", hint=damage_hint(folder))
    line = read_record(folder / layout.MANIFEST_HASH, _LONGEST)
    if line is not None:  # versions of earlier releases have none
        _require_hash(folder, data, line)
    return data, decode(data, path)


def _require_hash(folder: Path, data: bytes, line: bytes) -> None:
    match = _HASH_LINE.fullmatch(line)
    expected = None if match is None else match[1].decode()
    if hashlib.sha256(data).hexdigest() != expected:
        raise StoreDamaged(
            "damaged manifest",
            where=folder / layout.MANIFEST,
            found=f"sha256 {hashlib.sha256(data).hexdigest()}",
            expected=f"{expected or 'another line'}, as in {layout.MANIFEST_HASH}",
            hint=damage_hint(folder),
        )


def decode(data: bytes, path: Path) -> Manifest:
    """Parse and validate the manifest in ``path``.

    Raises
    ------
    StoreDamaged
        It is not JSON, or not a manifest of the version whose directory it is in.
    StoreError
        It has another format.
    """
    try:
        head: Any = msgspec.json.decode(data)
        known = (FORMAT, FORMAT_OF_PARTS)
        if isinstance(head, dict) and isinstance(head.get("format"), int) and head["format"] not in known:
            raise StoreError(
                "store of another format",
                where=path,
                found=f"format {head['format']}",
                expected=f"format {FORMAT} or {FORMAT_OF_PARTS}",
                hint="use the embsync release that wrote it",
            )
        manifest = msgspec.convert(head, Manifest)
        problem = _problem(manifest, path.parent.name)
    except MALFORMED as error:
        problem = str(error)
    if problem is not None:
        raise StoreDamaged("damaged manifest", where=path, found=problem[:200], hint=damage_hint(path.parent))
    return manifest


def _problem(manifest: Manifest, folder: str) -> str | None:
    """Return what is invalid in a manifest whose fields have valid types, or None."""
    if layout.is_version_name(folder) and int(folder) != manifest.version:
        return f"version {manifest.version} in directory {folder}"
    require_time(manifest.created)
    paths = [entry.path for entry in manifest.files]
    in_parts = manifest.format == FORMAT_OF_PARTS
    needed = layout.version_files(two_sided=manifest.users is not None, in_parts=in_parts) - layout.LATER_FILES
    if isinstance(manifest.parts, Parts):
        needed |= {part.file for part in manifest.parts.users}
    for label in manifest.labels:
        needed |= set(files_of(label.name, label.kind).values())
    if not needed <= set(paths) or len(set(paths)) != len(paths):
        return "a file is missing or listed twice"
    if any(".." in path or path.startswith("/") or not path.isprintable() for path in paths):
        return "a path outside the version"
    if any(entry.bytes < 0 or not _SHA256.fullmatch(entry.sha256) for entry in manifest.files):
        return "a file without size and sha256"
    if (manifest.users is None) != (manifest.alignment.users is None):
        return "users in only one of `users` and `alignment`"
    return _label_problem(manifest) or _index_problem(manifest.index) or _parts_problem(manifest)


def _label_problem(manifest: Manifest) -> str | None:
    if len({label.name for label in manifest.labels}) != len(manifest.labels):
        return "two labels of the same name"
    if manifest.relabels is not None and manifest.relabels >= manifest.version:
        return "labels of a later version"
    return None


def _index_problem(index: IndexReport) -> str | None:
    efforts = (*index.search.values(), *index.rebuilt_search.values(), *index.build.values())
    if index.labels < 0 or index.dead < 0 or index.rotations < 0:
        return "a negative number of labels, dead labels or rotations"
    if not all(0 <= effort < 2**31 for effort in efforts):
        return "search parameters out of range"
    return None


def _parts_problem(manifest: Manifest) -> str | None:
    if not isinstance(manifest.parts, Parts):
        return None if manifest.format == FORMAT else f"format {manifest.format} without part files"
    parts = manifest.parts.users
    if manifest.format == FORMAT:
        return f"part files in format {FORMAT}"
    if len({part.file for part in parts}) != len(parts):
        return "a part file twice"
    if manifest.users is None or sum(part.rows for part in parts) != manifest.users.rows:
        return "part files with more or fewer rows than the side"
    return _ranges_problem(parts)


def _ranges_problem(parts: list[PartFile]) -> str | None:
    """Return what is wrong with the first and last ids of part files, or None; strings ascend by UTF-8 bytes."""
    bounds = [bound for part in parts for bound in (part.first, part.last)]
    if len({type(bound) for bound in bounds}) > 1:
        return "part files with ids of two types"
    keys = [bound.encode() if isinstance(bound, str) else bound for bound in bounds]
    for place, part in enumerate(parts):
        first, last = keys[2 * place : 2 * place + 2]
        if last < first or (part.rows == 1) != (first == last):  # type: ignore[operator]
            return f"{part.file} from {part.first!r} to {part.last!r} with {part.rows} rows"
        if place and not keys[2 * place - 1] < first:  # type: ignore[operator]
            return f"{part.file} begins before the end of the file before it"
    return None
