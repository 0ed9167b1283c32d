"""What a manifest records of a version's alignment: the fit to the anchors, the certificate, and the drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from embsync.sides import Sides

_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
_Number = Annotated[int, msgspec.Meta(ge=1, lt=2**62)]


class SideFitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Fit of a side to the anchors, its row norms relative to the parent's, and its raw values.

    The fit is out of sample: each row is mapped by a rotation that was fitted without it. A figure is None where there
    is nothing to measure it on, as in a new space, and NaN, which JSON writes as null, where the data made it
    impossible. Those after ``norm_ratio`` are None in manifests of earlier releases that did not measure them.

    Attributes
    ----------
    anchors : int
        Anchors that the version stores for the next one.
    common : int
        Rows of the snapshot that have an anchor of the parent. Up to 8,000 of them, or 8 per dimension, are compared.
    cosine : float or None
        Mean cosine of rows with their anchors, -1 to 1.
    cosine_mismatched : float or None
        The same with the anchors of other ids, -1 to 1: what a wrong assignment of ids would give.
    share_below_half : float or None
        Share of rows whose cosine with their anchor is below 0.5, 0 to 1.
    norm_ratio : float or None
        Median norm of the stable rows, divided by the parent's: 1 if unchanged. Over rows live in both versions.
    norm_outliers : float or None
        Share of these rows whose norm changed by more than a factor of 3 relative to the median, 0 to 1.
    lost : float or None
        Estimated share of rows with another id's vector, 0 to 1: twice the share of cosines below
        ``cosine_mismatched``.
    axis_agreement : float or None
        Smallest agreement with the anchors along any axis: 1 for equal rows, 0 for an axis that only one of them has,
        -1 for a reversed axis.
    column_fit : float or None
        Smallest share of the variance of a raw column that the anchors explain, adjusted for the number of axes: 1 at
        most, about 0 for noise. Among the columns that are explained on the other side.
    column_scale : float or None
        Largest spread of a raw column relative to the anchors', divided by the median column's: about 1 if all columns
        have kept their scale.
    unchanged : float or None
        Share of rows whose raw vector is the parent's within float32 rounding, 0 to 1.
    saturation : float or None
        Share of sampled raw values equal to their column's largest or smallest value, summed over columns: 0 to
        ``width``; a constant column adds 1.
    zero_values : float or None
        Share of sampled raw values that are exactly zero, 0 to 1; rows of zeros alone do not count.
    magnitude : float or None
        Root mean square of the stable values, in units of the embeddings; rows of zeros alone do not count.
    repeated : float or None
        Share of sampled rows that have the same raw vector as another, 0 to 1; rows of zeros alone do not count.
    unexplained_columns : int or None
        Raw columns that the anchors of neither side explain, 0 to ``width``; those that a wider model added do not
        count.
    lone_scale : float or None
        Factor, 1 or more, by which the raw rows grew or shrank, divided by the square of the other side's: 1 if neither
        changed, less if the other side changed as much.
    axis_scale : float or None
        Smallest spread along any axis relative to the anchors', divided by the median axis's: about 1 if all axes have
        kept their scale, 0 for one that has vanished.
    mean_shift : float or None
        Distance between the mean of the rows and that of their anchors, each in root mean square lengths: 0 to 2.
    longest : float or None
        Norm of the longest row relative to the median, over the same of the parent's rows: 1 if unchanged.
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


class AlignmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the snapshot was mapped into the space.

    Attributes
    ----------
    policy : str
        How the anchors are updated, a value of ``space.anchors.policy``.
    weight : float
        Weight of the newest vector in the stored anchors under ``moving_average`` and ``two_time_scales``, 0 to 1.
        Other policies do not use it.
    standardized : bool
        Whether both sides were standardized to the same Gram matrix; False if ``space.standardize`` is, and in a
        one-sided store.
    rank : int
        Directions that carry scores: singular values above 1e-7 of the largest, 1 to ``width``.
    truncation_loss : float
        Relative Frobenius norm of the scores that the axes of the space cannot hold, 0 to 1; 0 unless the snapshot is
        wider than the space.
    rotation_disagreement : float or None
        Distance between the rotations fitted to each side alone: 0 if they are equal, about 1 if they are unrelated.
        None in a new space, in a one-sided store, and for sides too small to be judged.
    items : SideFitRecord
        The items' fit.
    users : SideFitRecord or None
        The users' fit; None in a one-sided store.
    parent_share : float or None
        Under ``two_time_scales``, weight of the parent's rows in the reference that the snapshot was fitted to, 0 to 1;
        the rest is the stored anchors'. None under other policies.
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

    @property
    def sides(self) -> Sides[SideFitRecord]:
        """The fit of each side."""
        return Sides(self.items, self.users)


@dataclass(frozen=True)
class Preservation:
    """The certificate: how far a version's scores differ from its snapshot's.

    Attributes
    ----------
    map_error : float
        ``||A_W^T A_T - P||_2`` with the maps ``A_T`` of the items and ``A_W`` of the users, and the projector ``P``
        nearest to their product: 0 if the maps leave all scores unchanged.
    score_error : float
        Relative error of the scores as written, ``||T' W'^T - T W^T||_F / ||T W^T||_F`` over all pairs, with the raw
        items ``T`` and users ``W`` and the stable ``T'`` and ``W'``: about 4e-8 by rounding to float32.
    top_k_agreement : float or None
        Share of the sampled users whose exact ten best items are the same by raw and by stable vectors, 0 to 1. None
        without users to sample.
    sampled_users : int
        Users sampled for ``top_k_agreement`` and the overlaps of ``drift``, 1,000 or ``index.sample_queries`` if that
        is more; items in a one-sided store.
    """

    map_error: float
    score_error: float
    top_k_agreement: float | None
    sampled_users: _Count


@dataclass(frozen=True)
class Moved:
    """An id that moved far.

    Attributes
    ----------
    id : int or str
        The id.
    cosine : float
        Cosine of its stable vector with that of the parent, -1 to 1.
    """

    id: int | str
    cosine: float


@dataclass(frozen=True)
class SideDrift:
    """Movement of a side relative to the parent version, over ids live in both; None if there is nothing to compare.

    Attributes
    ----------
    cosine_raw : float or None
        Mean cosine of raw rows with the parent's raw rows, -1 to 1; None if the parent's cannot be computed, since a
        map has no inverse or the widths differ.
    cosine : float or None
        Mean cosine of stable rows with the parent's, -1 to 1.
    cosine_p05 : float or None
        5th percentile of the cosines of stable rows, -1 to 1.
    displacement_raw : float or None
        ``||new - old||_F / ||old||_F`` of the raw rows, 0 or more; None where ``cosine_raw`` is.
    displacement : float or None
        ``||new - old||_F / ||old||_F`` of the stable rows, 0 or more.
    cosine_since_start : float or None
        Mean cosine of up to 1,000 rows with their vectors in the first version of the space, -1 to 1.
    moved_most : tuple of Moved
        The ten ids of the lowest cosines, ascending; fewer if fewer are live in both.
    """

    cosine_raw: float | None = None
    cosine: float | None = None
    cosine_p05: float | None = None
    displacement_raw: float | None = None
    displacement: float | None = None
    cosine_since_start: float | None = None
    moved_most: tuple[Moved, ...] = ()


class DriftRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Movement relative to the parent version.

    Attributes
    ----------
    parent : int or None
        Number of the version compared with.
    items : SideDrift
        The items' movement.
    users : SideDrift or None
        The users' movement; None in a one-sided store.
    overlap_at_10 : float or None
        Mean share, 0 to 1, of a sampled user's exact ten best items that were among the ten best in the parent, each by
        the vectors of its own version. Over users live in both; None without any.
    stale_overlap_at_10 : float or None
        The same for the parent's stable user vectors, which a consumer may have cached, against this version's items:
        mean share of the ten best that is also found by the users' new vectors.
    stale_overlap_at_10_raw : float or None
        The same by raw vectors: what a consumer would get without stabilization. None where ``cosine_raw`` is.
    """

    parent: _Number | None
    items: SideDrift
    users: SideDrift | None
    overlap_at_10: float | None
    stale_overlap_at_10: float | None
    stale_overlap_at_10_raw: float | None
