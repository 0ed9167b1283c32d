"""``manifest.json``: what a version is, as frozen types; its fields are a public contract."""

from __future__ import annotations

from typing import Any

import msgspec

from embsync.errors import StoreError
from embsync.index import IndexReport
from embsync.store.durable import FileEntry

FORMAT = 1


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    pass


class SnapshotRecord(_Record, frozen=True):
    """The snapshot a version came from."""

    name: str
    layout: str
    fingerprint: str
    width: int


class RowCounts(_Record, frozen=True):
    """Rows of a side: new = live now and not in the parent, common = live in both."""

    rows: int
    live: int
    new: int
    returned: int
    gone: int
    carried: int
    common: int


class SideFitRecord(_Record, frozen=True):
    """Out-of-sample fit of a side to the anchors, and its row norms against the parent's."""

    anchors: int
    common: int
    cosine: float | None
    cosine_mismatched: float | None
    share_below_half: float | None
    norm_ratio: float | None


class AlignmentRecord(_Record, frozen=True):
    """How the snapshot was mapped into the space."""

    policy: str
    weight: float
    standardized: bool
    rank: int
    truncation_loss: float
    rotation_disagreement: float | None
    items: SideFitRecord
    users: SideFitRecord | None


class PreservationRecord(_Record, frozen=True):
    """The certificate."""

    map_error: float
    score_error: float
    top_k_agreement: float | None
    sampled_users: int


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

    parent: int | None
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
    version: int
    space_id: str
    dimension: int
    created: str
    parent: int | None
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


def decode(data: bytes, where: str) -> Manifest:
    """Parse and judge a manifest.

    Raises
    ------
    StoreError
        Not JSON, not a manifest, or of another format.
    """
    try:
        head: Any = msgspec.json.decode(data)
        if isinstance(head, dict) and head.get("format") != FORMAT:
            raise StoreError("store of another format", where=where, found=f"format {head.get('format')}",
                             expected=f"format {FORMAT}", hint="use the embsync release that wrote it")
        return msgspec.convert(head, Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError("damaged manifest", where=where, found=str(error),
                         hint="embsync rollback goes back to a whole version") from None
