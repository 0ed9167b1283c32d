"""``manifest.json``: what a version is, as frozen types whose fields are a public contract; and its files' hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec

from embsync.similarity import Metric

FORMAT = 1

#: What became of the parent's index.
Action = Literal["rebuilt", "rotated", "reused"]
#: Bytes hashed between two looks at whether to stop: about 10 ms of work, and long enough to give up the GIL.
_HASHED_AT_ONCE = 8 << 20

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
    repeated: float | None = None
    unexplained_columns: _Count | None = None
    lone_scale: float | None = None
    axis_scale: float | None = None

    @property
    def cosine_margin(self) -> float | None:
        """Mean cosine above that of wrong partners."""
        return None if self.cosine is None or self.cosine_mismatched is None else self.cosine - self.cosine_mismatched


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


@dataclass(frozen=True)
class Preservation:
    """What a version changed of its snapshot's scores: the certificate.

    Attributes
    ----------
    map_error : float
        ||A_W^T A_T - Q^T I_r Q||_2, the projector being the one nearest to the product.
    score_error : float
        ||T' W'^T - T W^T||_F / ||T W^T||_F over all pairs.
    top_k_agreement : float or None
        Share of sampled users with the same exact top 10.
    sampled_users : int
    """

    map_error: float
    score_error: float
    top_k_agreement: float | None
    sampled_users: _Count


@dataclass(frozen=True)
class Moved:
    """An id that moved far, with the cosine of its two vectors."""

    id: int | str
    cosine: float


@dataclass(frozen=True)
class SideDrift:
    """Movement of a side against the parent version, over ids live in both; None: nothing to compare.

    Attributes
    ----------
    cosine_raw, cosine : float or None
        Mean of the rows' cosines with their parents, raw and stable.
    cosine_p05 : float or None
        Their 5th percentile, stable.
    displacement_raw, displacement : float or None
        ||new - old||_F / ||old||_F.
    cosine_since_start : float or None
        Mean cosine of the start sample with what it was in the space's first version.
    moved_most : tuple of Moved
        Ids of the lowest cosines, ascending.
    """

    cosine_raw: float | None = None
    cosine: float | None = None
    cosine_p05: float | None = None
    displacement_raw: float | None = None
    displacement: float | None = None
    cosine_since_start: float | None = None
    moved_most: tuple[Moved, ...] = ()


class DriftRecord(_Record, frozen=True):
    """Movement against the parent version."""

    parent: _Number | None
    items: SideDrift
    users: SideDrift | None
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


class LabelRecord(_Record, frozen=True):
    """A label of the items: its kind, how many items have none, and how many ids of its table were no items."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
    kind: Literal["string", "integer", "float", "boolean", "strings"]
    nulls: _Count
    unknown: _Count = 0


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a version: path relative to it, size and sha256."""

    path: str
    bytes: int
    sha256: str


class OperatingPoint(msgspec.Struct, frozen=True):
    """What the recall gate found at one number of neighbours.

    Parameters
    ----------
    k : int
        Neighbours.
    recall : float or None
        Share of the exact best ``k`` that are found with ``search``; None without queries.
    search : dict
        Search parameters, as in the manifest's ``index``.
    """

    k: int
    recall: float | None
    search: dict[str, int]


class IndexReport(msgspec.Struct, frozen=True):
    """The manifest's ``index`` object.

    Parameters
    ----------
    factory : str
        FAISS index_factory string the index was made from; never ``auto``.
    metric : str
        ``inner_product``, ``cosine`` or ``l2``.
    action : str
        ``rebuilt``, ``rotated`` or ``reused``.
    reason : str
        Why this action, for people.
    recall_at_10 : float or None
        Share of the exact best ``recall_at`` (the first, where there are several) that the index returns with
        ``search``; the key keeps its name whatever ``recall_at`` is. None without queries.
    target_recall : float
        The configured target.
    search : dict
        Cheapest search parameters that reach the target, or that come within a hundredth of the best recall
        when nothing reaches it. Empty for an exact index.
    labels : int
        Vectors in the FAISS index.
    dead : int
        Those of them that belong to no live row.
    faiss : str
        The FAISS version that wrote the index.
    build : dict
        Build parameters that a factory string cannot say (``efConstruction``, ``keep_max_size_level0``).
    rebuilt_search : dict
        ``search`` as it was after the last rebuild: what ``max_search_cost_growth`` is measured against.
    rotations : int
        Versions since the last rebuild.
    operating_points : list of OperatingPoint
        What ``search`` and ``recall_at_10`` are at each ``recall_at``, ascending; the first repeats them. Empty in a
        manifest of an earlier release, whose figures are taken for those of 10 neighbours.
    """

    factory: str
    metric: Metric
    action: str
    reason: str
    recall_at_10: float | None
    target_recall: float
    search: dict[str, int]
    labels: int
    dead: int
    faiss: str
    build: dict[str, int] = {}
    rebuilt_search: dict[str, int] = {}
    rotations: int = 0
    operating_points: list[OperatingPoint] = []

    @property
    def points(self) -> Sequence[OperatingPoint]:
        """The operating points, one at least."""
        return self.operating_points or [OperatingPoint(10, self.recall_at_10, self.search)]


class Manifest(_Record, frozen=True):
    """One version.

    ``relabels`` is the version whose rows and index this one shares, with other labels: the end of its lineage. None
    for all others. ``labels`` is empty in a manifest of an earlier release.
    """

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
    preservation: Preservation
    drift: DriftRecord | None
    index: IndexReport
    checks: list[CheckRecord]
    seconds: Seconds
    files: list[FileEntry]
    labels: list[LabelRecord] = []
    relabels: _Number | None = None

    @property
    def night(self) -> int:
        """The end of the version's lineage: itself, or the version whose rows it shares."""
        return self.version if self.relabels is None else self.relabels


def store_of(path: str | Path) -> Path | None:
    """Return the store that a path is or lies in, for commands that are printed; None where that is unknown."""
    place = Path(path)
    return next((folder for folder in (place, *place.parents) if (folder / "versions").is_dir()), None)


def encode(manifest: Manifest) -> bytes:
    """Return the file's bytes: one JSON object, indented for people."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


class Stopped(Exception):
    """The caller no longer wants the answer."""


@dataclass(frozen=True)
class Mismatch:
    """A file that is not as its entry says: what was found, and what was expected, None where it cannot be read."""

    found: str
    expected: str | None


def mismatch(
    folder: Path, entry: FileEntry, stopped: Callable[[], bool] = lambda: False, *, hashed: bool = True
) -> Mismatch | None:
    """Compare a file of a version with its entry; None where it is as the entry says.

    Parameters
    ----------
    folder : Path
        The version's directory.
    entry : FileEntry
    stopped : callable
        Asked every few milliseconds; True ends the work.
    hashed : bool
        Whether the contents are compared, or the size alone.

    Raises
    ------
    Stopped
    """
    path = folder / entry.path
    try:
        size, digest = hash_file(path, stopped) if hashed else (path.stat().st_size, entry.sha256)
    except OSError as error:
        return Mismatch(error.strerror or str(error), None)
    if size != entry.bytes:
        return Mismatch(f"{size} bytes", f"{entry.bytes} bytes")
    if digest != entry.sha256:
        return Mismatch(f"sha256 {digest[:12]}…", f"{entry.sha256[:12]}…")
    return None


def hash_file(path: Path, stopped: Callable[[], bool] = lambda: False, *, drop_cache: bool = False) -> tuple[int, str]:
    """Return size and hexadecimal sha256 of a file, read from the disk itself with ``drop_cache`` where the kernel can.

    Raises
    ------
    Stopped
        ``stopped`` said so.
    """
    digest, size = hashlib.sha256(), 0
    # A FIFO in the file's place would wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        if drop_cache:
            forget_pages(file)
        while block := file.read(_HASHED_AT_ONCE):
            if stopped():
                raise Stopped
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def forget_pages(file: IO[bytes]) -> None:
    """Have the next read of a file come from the disk."""
    with contextlib.suppress(OSError):  # advice only: tmpfs and network file systems may not take it
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
