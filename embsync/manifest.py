"""``manifest.json``: the description of a version, as frozen types whose fields are a public contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from embsync.file_hashes import FileEntry
from embsync.measurements import AlignmentRecord, DriftRecord, Preservation
from embsync.sides import Sides
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

    Attributes
    ----------
    name : str
        Name of its file or directory, without the folder it was in.
    layout : str
        The layout by which it was read, a value of ``snapshot.layout``.
    fingerprint : str
        Of ids, weights and values, the same in any order of rows: ``rows1:`` and 64 hexadecimal digits. 64 digits alone
        in manifests of earlier releases, whose fingerprints depend on the order.
    width : int
        Values in a raw vector: the ``e`` of shapes.
    unread : list of str
        Names of its entries that were not read and are not known to be harmless.
    mtime_ns : str or None
        Modification time of its newest file: nanoseconds since 1970 UTC in decimal digits, as text, since JavaScript
        would round the number. None in manifests of earlier releases.
    """

    name: str
    layout: str
    fingerprint: str
    width: _Number
    unread: list[str] = []
    mtime_ns: Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,20}$")] | None = None


class RowCounts(_Record, frozen=True):
    """Numbers of rows of a side. A row is live if the snapshot has its id.

    Attributes
    ----------
    rows : int
        Rows in the version: ``live + carried``.
    live : int
        Rows of the snapshot: ``new + common``.
    new : int
        Live rows whose ids were not live in the parent; all of them in a new space.
    returned : int
        Those of ``new`` whose ids the parent carried.
    gone : int
        Ids that were live in the parent and are not in the snapshot.
    carried : int
        Rows without an id in the snapshot that are kept from the parent, for ``store.carry_forward_versions`` versions.
    common : int
        Rows whose ids are live in both versions.
    zero : int or None
        Live rows whose values are all zero. None in manifests of earlier releases.
    """

    rows: _Count
    live: _Count
    new: _Count
    returned: _Count
    gone: _Count
    carried: _Count
    common: _Count
    zero: _Count | None = None


class CheckRecord(_Record, frozen=True):
    """The result of one check.

    Attributes
    ----------
    name : str
        One of the table of checks.
    value : float or None
        The value that was judged; None if it was not measured.
    warn : float, list of float or None
        Limit beyond which it warns, in the units of ``value``: the least or the greatest value that passes, or both,
        ascending, for a range. None if there is no limit.
    refuse : float, list of float or None
        Limit beyond which it refuses, as for ``warn``.
    outcome : str
        ``pass``, ``warn`` or ``refuse``.
    accepted : bool
        Whether a refusal was overridden by ``accept``.
    """

    name: str
    value: float | None
    warn: float | list[float] | None
    refuse: float | list[float] | None
    outcome: str
    accepted: bool = False


class Seconds(_Record, frozen=True):
    """Wall-clock seconds by stage, rounded to milliseconds; 0 for stages that were not run, as when relabelling.

    Attributes
    ----------
    read : float
        Opening the snapshot and the parent, reading ids and labels, and assigning ids to rows.
    align : float
        First pass: reading all vectors, and fitting the maps.
    write : float
        Second pass: mapping all vectors and writing them, with certificate, drift and exact neighbours.
    index : float
        Rotating or building the index, and writing it.
    recall : float
        Measuring its recall, and choosing search parameters.
    publish : float
        Making the files durable and hashing them.
    total : float
        From the start of the run until the manifest is written, with what is between the stages.
    """

    read: float = 0.0
    align: float = 0.0
    write: float = 0.0
    index: float = 0.0
    recall: float = 0.0
    publish: float = 0.0
    total: float = 0.0


class LabelRecord(_Record, frozen=True):
    """A label of the items.

    Attributes
    ----------
    name : str
        Also the name of its files in ``labels/``.
    kind : str
        Type of its values; ``strings`` is a list of strings for each item.
    nulls : int
        Rows of the items without a value.
    unknown : int
        Ids of the snapshot's table of labels that are not items.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
    kind: Literal["string", "integer", "float", "boolean", "strings"]
    nulls: _Count
    unknown: _Count = 0


class OperatingPoint(msgspec.Struct, frozen=True):
    """The result of the recall gate for one number of neighbours.

    Parameters
    ----------
    k : int
        Number of neighbours.
    recall : float or None
        Share of the exact best ``k`` found with ``search``, 0 to 1; None without queries.
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
        Share, 0 to 1, of the exact best ``recall_at`` (the first value, if there are several) that the index returns
        with ``search``, independently of ``recall_at``. None without queries.
    target_recall : float
        The configured ``index.target_recall``, 0 to 1.
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
    """A parquet file with the rows of a side from one id to another.

    Attributes
    ----------
    file : str
        Its path, as in the manifest's ``files``.
    rows : int
        Number of its rows.
    first : int or str
        Its least id. Ids ascend within a file and from one file to the next.
    last : int or str
        Its greatest id.
    """

    file: str
    rows: _Number
    first: _Integer | str
    last: _Integer | str


class Parts(_Record, frozen=True):
    """The part files of each side that has them.

    Attributes
    ----------
    users : list of PartFile
        Those of the users, ascending by ids.
    """

    users: Annotated[list[PartFile], msgspec.Meta(min_length=1)]


class Manifest(_Record, frozen=True):
    """One version.

    Attributes
    ----------
    format : int
        1, or 2 if the users are in part files.
    version : int
        Number of the version, from 1; its directory has six digits or more.
    space_id : str
        The space: vectors of two versions are comparable if theirs are equal. 32 hexadecimal digits.
    dimension : int
        Values in a stable vector: the ``k`` of shapes.
    created : str
        When the manifest was made: RFC 3339, UTC, to the second.
    parent : int or None
        Number of the version that this one was aligned to; None in the first version of a space.
    snapshot : SnapshotRecord
        The snapshot that it was made from.
    items : RowCounts
        Numbers of rows of the items.
    users : RowCounts or None
        Numbers of rows of the users; None in a one-sided store.
    alignment : AlignmentRecord
        How the snapshot was mapped into the space.
    preservation : Preservation
        The certificate that scores did not change.
    drift : DriftRecord or None
        Movement relative to the parent; None in the first version of a space and after ``widen``.
    index : IndexReport
        The FAISS index, and how well it finds neighbours.
    checks : list of CheckRecord
        All checks that were made, in the order in which they were made; empty after ``widen``.
    seconds : Seconds
        How long it took.
    files : list of FileEntry
        All files of the version but ``manifest.json`` and ``manifest.sha256``.
    labels : list of LabelRecord
        Labels of the items. Empty in manifests of earlier releases.
    relabels : int or None
        Number of the version whose rows and index this one shares with other labels, the end of its lineage; None
        otherwise.
    parts : Parts
        The part files; absent in format 1.
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

    @property
    def sides(self) -> Sides[RowCounts]:
        """Numbers of rows by side."""
        return Sides(self.items, self.users)


def encode(manifest: Manifest) -> bytes:
    """Return the file's bytes: one indented JSON object."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
