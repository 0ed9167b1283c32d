"""``manifest.json``: what a version is, as frozen types; its fields are a public contract."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec

from embsync.errors import StoreDamaged, StoreError
from embsync.index import IndexReport
from embsync.store import layout
from embsync.store.durable import FileEntry
from embsync.store.records import MALFORMED, damage_hint, read_record

FORMAT = 1
#: Far beyond the manifest of any version, which has about twenty files.
_LONGEST = 16 * 1024**2
_HASH_LINE = re.compile(rb"([0-9a-f]{64}) [ *]manifest\.json\n?")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
_Number = Annotated[int, msgspec.Meta(ge=1, lt=2**62)]


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    pass


class SnapshotRecord(_Record, frozen=True):
    """The snapshot a version came from.

    ``unread`` names entries that are neither data nor known to be harmless; ``mtime_ns`` is that of its newest file, as
    text, as in the journal.
    """

    name: str
    layout: str
    fingerprint: str
    width: _Number
    unread: list[str] = []
    mtime_ns: Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,20}$")] | None = None


class RowCounts(_Record, frozen=True):
    """Rows of a side: new = live now and not in the parent, common = live in both, zero = live and all zero.

    ``zero`` is None in a manifest of an earlier release.
    """

    rows: _Count
    live: _Count
    new: _Count
    returned: _Count
    gone: _Count
    carried: _Count
    common: _Count
    zero: _Count | None = None


class SideFitRecord(_Record, frozen=True):
    """Out-of-sample fit of a side to the anchors, its row norms against the parent's, and its sampled raw values.

    What follows ``norm_ratio`` is None in a manifest of an earlier release.
    """

    anchors: _Count
    common: _Count
    cosine: float | None
    cosine_mismatched: float | None
    share_below_half: float | None
    norm_ratio: float | None
    norm_outliers: float | None = None
    lost: float | None = None
    axis_agreement: float | None = None
    column_fit: float | None = None
    column_scale: float | None = None
    unchanged: float | None = None
    saturation: float | None = None
    zero_values: float | None = None
    magnitude: float | None = None


class AlignmentRecord(_Record, frozen=True):
    """How the snapshot was mapped into the space; ``weight`` is that of the newest vector in the stored anchors.

    ``parent_share`` is None but for two time scales.
    """

    policy: str
    weight: float
    standardized: bool
    rank: _Count
    truncation_loss: float
    rotation_disagreement: float | None
    items: SideFitRecord
    users: SideFitRecord | None
    parent_share: float | None = None


class PreservationRecord(_Record, frozen=True):
    """The certificate."""

    map_error: float
    score_error: float
    top_k_agreement: float | None
    sampled_users: _Count


class Moved(_Record, frozen=True):
    """An id that moved far, with the cosine of its two vectors."""

    id: int | str
    cosine: float


class SideDriftRecord(_Record, frozen=True):
    """Movement of a side against the parent version."""

    cosine_raw: float | None
    cosine: float | None
    cosine_p05: float | None
    displacement_raw: float | None
    displacement: float | None
    cosine_since_start: float | None
    moved_most: list[Moved]


class DriftRecord(_Record, frozen=True):
    """Movement against the parent version."""

    parent: _Number | None
    items: SideDriftRecord
    users: SideDriftRecord | None
    overlap_at_10: float | None
    stale_overlap_at_10: float | None
    stale_overlap_at_10_raw: float | None


class CheckRecord(_Record, frozen=True):
    """One measured condition; outcome is pass, warn or refuse, ``accepted`` marks an overridden refusal."""

    name: str
    value: float | None
    warn: float | list[float] | None
    refuse: float | list[float] | None
    outcome: str
    accepted: bool = False


class Seconds(_Record, frozen=True):
    """Wall time of the stages."""

    read: float = 0.0
    align: float = 0.0
    write: float = 0.0
    index: float = 0.0
    recall: float = 0.0
    publish: float = 0.0
    total: float = 0.0


class Manifest(_Record, frozen=True):
    """One version."""

    format: int
    version: _Number
    space_id: str
    dimension: _Number
    created: str
    parent: _Number | None
    snapshot: SnapshotRecord
    items: RowCounts
    users: RowCounts | None
    alignment: AlignmentRecord
    preservation: PreservationRecord
    drift: DriftRecord | None
    index: IndexReport
    checks: list[CheckRecord]
    seconds: Seconds
    files: list[FileEntry]


def encode(manifest: Manifest) -> bytes:
    """Return the file's bytes: one JSON object, indented for people."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def hash_line(data: bytes) -> bytes:
    """Return what ``manifest.sha256`` says of a manifest, in the form of sha256sum."""
    return f"{hashlib.sha256(data).hexdigest()}  {layout.MANIFEST}\n".encode()


def read(folder: Path) -> tuple[bytes, Manifest]:
    """Return the manifest of a version's directory, as bytes and parsed.

    Raises
    ------
    StoreDamaged
        It is missing, is not as ``manifest.sha256`` says, or is not a manifest of this version.
    StoreError
        It is of another format.
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
    """Parse and judge a manifest, which stands in ``path``.

    Raises
    ------
    StoreDamaged
        Not JSON, or not a manifest of the version whose directory it is in.
    StoreError
        Of another format.
    """
    try:
        head: Any = msgspec.json.decode(data)
        if isinstance(head, dict) and isinstance(head.get("format"), int) and head["format"] != FORMAT:
            raise StoreError(
                "store of another format",
                where=path,
                found=f"format {head['format']}",
                expected=f"format {FORMAT}",
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
    """Return what no publisher would have written although every field has its type, None where there is nothing."""
    if layout.is_version_name(folder) and int(folder) != manifest.version:
        return f"version {manifest.version} in directory {folder}"
    dt.datetime.strptime(manifest.created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)  # ValueError
    paths = [entry.path for entry in manifest.files]
    needed = layout.version_files(two_sided=manifest.users is not None)
    if not needed <= set(paths) or len(set(paths)) != len(paths):
        return "files that are not those of a version"
    if any(".." in path or path.startswith("/") or not path.isprintable() for path in paths):
        return "a path that leads out of the version"
    if any(entry.bytes < 0 or not _SHA256.fullmatch(entry.sha256) for entry in manifest.files):
        return "a file without size and sha256"
    if (manifest.users is None) != (manifest.alignment.users is None):
        return "one side here and two sides there"
    return _index_problem(manifest.index)


def _index_problem(index: IndexReport) -> str | None:
    efforts = (*index.search.values(), *index.rebuilt_search.values(), *index.build.values())
    if index.metric not in layout.METRICS or index.labels < 0 or index.dead < 0 or index.rotations < 0:
        return "an index of no known kind"
    if not all(0 <= effort < 2**31 for effort in efforts):
        return "search parameters out of range"
    return None
