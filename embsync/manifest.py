"""``manifest.json``: the description of a version, as frozen types whose fields are a public contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from embsync.file_hashes import FileEntry
from embsync.similarity import Metric

#: The format of a version whose arrays are all ``.npy``, and that of one with part files.
FORMAT, FORMAT_OF_PARTS = 1, 2

#: What was done with the parent's index.
Action = Literal["rebuilt", "rotated", "reused"]

_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
_Number = Annotated[int, msgspec.Meta(ge=1, lt=2**62)]
_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    pass


class SnapshotRecord(_Record, frozen=True):
    """The snapshot from which a version was made.

    ``unread`` lists entries that are neither data nor known to be harmless; ``mtime_ns`` is that of its newest file,
    as text like in the journal.
    """

    name: str
    layout: str
    fingerprint: str
    width: _Number
    unread: list[str] = []
    mtime_ns: Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,20}$")] | None = None


class RowCounts(_Record, frozen=True):
    """Numbers of rows of a side: new = live now but not in the parent, common = live in both, zero = live and all zero.

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
    """Out-of-sample fit of a side to the anchors, its row norms relative to the parent's, and its sampled raw values.

    The fields after ``norm_ratio`` are None in a manifest of an earlier release.
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
    mean_shift: float | None = None
    longest: float | None = None

    @property
    def cosine_margin(self) -> float | None:
        """Mean cosine minus that of randomly paired rows."""
        return None if self.cosine is None or self.cosine_mismatched is None else self.cosine - self.cosine_mismatched


class AlignmentRecord(_Record, frozen=True):
    """How the snapshot was mapped into the space; ``weight`` is the newest vector's share in the stored anchors.

    ``parent_share`` is None unless the policy is ``two_time_scales``.
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
    """The certificate: how far a version's scores differ from its snapshot's.

    Attributes
    ----------
    map_error : float
        ||A_W^T A_T - Q^T I_r Q||_2, with the projector nearest to the product.
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
    """Movement of a side relative to the parent version, over ids live in both; None if there is nothing to compare.

    Attributes
    ----------
    cosine_raw, cosine : float or None
        Mean cosine of rows with those of the parent, raw and stable.
    cosine_p05 : float or None
        5th percentile of the stable cosines.
    displacement_raw, displacement : float or None
        ||new - old||_F / ||old||_F.
    cosine_since_start : float or None
        Mean cosine of the start sample with its vectors in the first version of the space.
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
    """Movement relative to the parent version."""

    parent: _Number | None
    items: SideDrift
    users: SideDrift | None
    overlap_at_10: float | None
    stale_overlap_at_10: float | None
    stale_overlap_at_10_raw: float | None


class CheckRecord(_Record, frozen=True):
    """The result of one check; outcome is pass, warn or refuse, ``accepted`` marks an overridden refusal."""

    name: str
    value: float | None
    warn: float | list[float] | None
    refuse: float | list[float] | None
    outcome: str
    accepted: bool = False


class Seconds(_Record, frozen=True):
    """Wall-clock seconds by stage."""

    read: float = 0.0
    align: float = 0.0
    write: float = 0.0
    index: float = 0.0
    recall: float = 0.0
    publish: float = 0.0
    total: float = 0.0


class LabelRecord(_Record, frozen=True):
    """A label of the items: its kind, number of items without it, and number of ids in its table that are not items."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
    kind: Literal["string", "integer", "float", "boolean", "strings"]
    nulls: _Count
    unknown: _Count = 0


class OperatingPoint(msgspec.Struct, frozen=True):
    """The result of the recall gate for one number of neighbours.

    Parameters
    ----------
    k : int
        Neighbours.
    recall : float or None
        Share of the exact best ``k`` found with ``search``; None without queries.
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
        FAISS index_factory string of the index; never ``auto``.
    metric : str
        ``inner_product``, ``cosine`` or ``l2``.
    action : str
        ``rebuilt``, ``rotated`` or ``reused``.
    reason : str
        Reason for this action, in words.
    recall_at_10 : float or None
        Share of the exact best ``recall_at`` (the first value, if there are several) that the index returns with
        ``search``, whatever ``recall_at`` is. None without queries.
    target_recall : float
        The configured target.
    search : dict
        Cheapest search parameters that reach the target, or if none do, that come within 0.01 of the best recall.
        Empty for an exact index.
    labels : int
        Vectors in the FAISS index.
    dead : int
        Vectors that belong to no live row.
    faiss : str
        The FAISS version that wrote the index.
    build : dict
        Build parameters that a factory string cannot express (``efConstruction``, ``keep_max_size_level0``).
    rebuilt_search : dict
        ``search`` after the last rebuild, the reference for ``max_search_cost_growth``.
    rotations : int
        Versions since the last rebuild.
    operating_points : list of OperatingPoint
        The values for each ``recall_at``, ascending; the first repeats ``search`` and ``recall_at_10``. Empty in a
        manifest of an earlier release, whose values are those for 10 neighbours.
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
        """The operating points, at least one."""
        return self.operating_points or [OperatingPoint(10, self.recall_at_10, self.search)]


class PartFile(_Record, frozen=True):
    """A parquet file with the rows of a side from one id to another, both included and ascending."""

    file: str
    rows: _Number
    first: _Integer | str
    last: _Integer | str


class Parts(_Record, frozen=True):
    """The part files of each side that has them, in the order of ids."""

    users: Annotated[list[PartFile], msgspec.Meta(min_length=1)]


class Manifest(_Record, frozen=True):
    """One version.

    ``relabels`` is the version whose rows and index this one shares with other labels, the end of its lineage; None
    otherwise. ``labels`` is empty in a manifest of an earlier release. ``parts`` is a field of format 2 only.
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
    parts: Parts | msgspec.UnsetType = msgspec.UNSET

    @property
    def night(self) -> int:
        """The end of the version's lineage: the version itself, or the one whose rows it shares."""
        return self.version if self.relabels is None else self.relabels


def encode(manifest: Manifest) -> bytes:
    """Return the file's bytes: one indented JSON object."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
