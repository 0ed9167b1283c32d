"""The contents of a report as plain arrays, for the page and for custom plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from embsync.dtypes import Float64, Int64
from embsync.manifest import CheckRecord, Manifest
from embsync.reporting.deliveries import Deliveries
from embsync.sides import Sides
from embsync.store.journal import Event


@dataclass(frozen=True)
class CosineFigures:
    """Cosines between the two vectors of ids that are live in a version and in its parent.

    Attributes
    ----------
    common : int
        Ids live in both.
    stable : (n,) float64
        Cosines of the stable vectors of n of these ids: all of them, or a sample in blocks.
    raw : (n,) float64 or None
        Cosines of the raw vectors of the same ids; None if raw vectors cannot be recovered from both versions.
    mismatched : float or None
        Mean cosine of rows with the anchor of another id, from the manifest: the level of chance.
    """

    common: int
    stable: Float64
    raw: Float64 | None
    mismatched: float | None

    @property
    def sampled(self) -> bool:
        """Whether ``stable`` is a sample."""
        return len(self.stable) < self.common


@dataclass(frozen=True)
class SideHistory:
    """One side in each of v versions; NaN where a version did not store the figure.

    Attributes
    ----------
    cosine, cosine_raw : (v,) float64
        Mean cosine with the parent version, of stable and of raw vectors.
    since_start : (v,) float64
        Mean cosine of the start sample with its vectors in the first version of the space.
    live, new, returned, gone, carried : (v,) float64
        Numbers of ids.
    """

    cosine: Float64
    cosine_raw: Float64
    since_start: Float64
    live: Float64
    new: Float64
    returned: Float64
    gone: Float64
    carried: Float64


@dataclass(frozen=True)
class VersionHistory:
    """The kept versions, ascending; NaN where a version did not store a figure.

    Attributes
    ----------
    manifests : tuple of Manifest
    sides : Sides of SideHistory
    overlap : (v,) float64
        Share of the parent's own top 10 that the version's own top 10 keeps: about the highest value to expect.
    stale_overlap, stale_overlap_raw : (v,) float64
        Share of the version's top 10 that the parent's user vectors find, stable and raw.
    recall, target : (v,) float64
        Recall of the index, and the configured target.
    score_error : (v,) float64
    seconds : mapping of str to (v,) float64
        Wall-clock seconds of each stage.
    pruned : int
        Number of versions that were published but are no longer kept: only the journal records them.
    unreadable : tuple of int
        Kept versions whose manifest is damaged.
    """

    manifests: tuple[Manifest, ...]
    sides: Sides[SideHistory]
    overlap: Float64
    stale_overlap: Float64
    stale_overlap_raw: Float64
    recall: Float64
    target: Float64
    score_error: Float64
    seconds: Mapping[str, Float64]
    pruned: int = 0
    unreadable: tuple[int, ...] = ()

    @property
    def versions(self) -> list[int]:
        """Their numbers."""
        return [manifest.version for manifest in self.manifests]


@dataclass(frozen=True)
class NamedItem:
    """An item and its label, None if it has none."""

    id: int | str
    label: str | None = None


@dataclass(frozen=True)
class MovedItem:
    """One of the items that moved most.

    Attributes
    ----------
    item : NamedItem
    cosine : float
        Between its vectors in the parent version and in this one.
    before, after : tuple of NamedItem
        Its nearest items in the parent version and in this one, best first; empty where they are not known.
    kept : int
        How many of ``before`` are among ``after``.
    """

    item: NamedItem
    cosine: float
    before: tuple[NamedItem, ...] = ()
    after: tuple[NamedItem, ...] = ()
    kept: int = 0


@dataclass(frozen=True)
class MapFigures:
    """The items on two axes of the space that are the same in all its versions.

    Attributes
    ----------
    axes : (k, 2) float64
        The two directions of greatest variance of the space's start sample.
    explained : (2,) float64
        Share of the variance of the start sample along each.
    extent : (2, 2) float64
        Lower and upper end of each axis, from the start sample alone.
    points : (n, 2) float64
        A sample of the live items.
    popular : tuple of NamedItem
    popular_points : (p, 2) float64
    popular_reason : str
        What "popular" means here.
    trail_versions : (v,) int64
    trails : (m, v, 2) float64
        The position of each of the items that moved most in each kept version of the space; NaN where it was absent.
    """

    axes: Float64
    explained: Float64
    extent: Float64
    points: Float64
    popular: tuple[NamedItem, ...]
    popular_points: Float64
    popular_reason: str
    trail_versions: Int64
    trails: Float64


@dataclass(frozen=True)
class ReportFigures:
    """Everything a report shows.

    Attributes
    ----------
    manifest : Manifest or None
        None if the store has no version yet.
    current : int or None
        The store's current version.
    parent : int or None
        The version that ``cosines``, ``moved`` and drift compare with.
    checks : tuple of CheckRecord
    cosines : Sides of CosineFigures, or None
    singular_values : (e,) float64 or None
        Singular values of the snapshot's score matrix, descending.
    singular_values_before : (e,) float64 or None
        Those of the parent's snapshot.
    history : VersionHistory or None
    map : MapFigures or None
    moved : tuple of MovedItem
    events : tuple of Event
        The journal's last events, oldest first.
    deliveries : Deliveries or None
        The sinks of the store; None if nothing was ever delivered from it by the service.
    missing : mapping
        What is not shown, and why, by section.
    """

    manifest: Manifest | None
    current: int | None = None
    parent: int | None = None
    checks: tuple[CheckRecord, ...] = ()
    cosines: Sides[CosineFigures] | None = None
    singular_values: Float64 | None = None
    singular_values_before: Float64 | None = None
    history: VersionHistory | None = None
    map: MapFigures | None = None
    moved: tuple[MovedItem, ...] = ()
    events: tuple[Event, ...] = ()
    deliveries: Deliveries | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
