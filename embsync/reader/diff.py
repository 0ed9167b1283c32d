"""Differences between two versions: new and removed ids, moved rows, labels, neighbours and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embsync.dtypes import Float64, Int64
from embsync.ids import sample
from embsync.labels import LabelKind, Value, unchanged
from embsync.reader.labels import column_of, records_of
from embsync.reader.side import Side
from embsync.rows import as_slice, block_rows
from embsync.similarity import TOP_K, lowest, overlap, row_cosines

if TYPE_CHECKING:
    from embsync.reader.version import Version
    from embsync.sides import SideName

#: Number of users (items on a one-sided store) whose neighbours are compared.
SAMPLED = 1000
#: Rows whose labels are compared at once: some 20 MB for titles of 40 bytes.
_LABELLED = 1 << 16
#: Queries between two calls of ``between``.
_QUERIES = 100


@dataclass(frozen=True)
class MovedRow:
    """An id live in both versions.

    Attributes
    ----------
    id : int or str
        The id.
    cosine : float
        The cosine between its vectors in the two versions.
    norm_ratio : float
        The norm of its vector in the later version, divided by that in the earlier one.
    labels : dict
        Its labels in the later version, by name; empty for users.
    """

    id: int | str
    cosine: float
    norm_ratio: float
    labels: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class SideDiff:
    """Changes of one side.

    Attributes
    ----------
    live_before : int
        Live ids of the earlier version.
    live_after : int
        Live ids of the later version.
    new : int
        Ids that are live in the later version only.
    gone : int
        Ids that are live in the earlier version only.
    common : int
        Ids that are live in both.
    new_ids : list of int or str
        The first of the new ids, ascending.
    gone_ids : list of int or str
        The first of the ids that are gone, ascending.
    cosine : float or None
        Mean cosine between an id's two vectors; None if the spaces differ, or if no id is live in both.
    cosine_p05 : float or None
        Fifth percentile of that cosine.
    moved_most : list of MovedRow
        The ids with the lowest cosines, lowest first; empty where ``cosine`` is None.
    new_labels : list of dict
        The labels of each of ``new_ids`` in the later version; empty for users.
    gone_labels : list of dict
        The labels of each of ``gone_ids`` in the earlier version; empty for users.
    """

    live_before: int
    live_after: int
    new: int
    gone: int
    common: int
    new_ids: list[int | str]
    gone_ids: list[int | str]
    cosine: float | None
    cosine_p05: float | None
    moved_most: list[MovedRow]
    new_labels: list[dict[str, Value]] = field(default_factory=list)
    gone_labels: list[dict[str, Value]] = field(default_factory=list)


@dataclass(frozen=True)
class ChangedLabel:
    """The values of a label in two versions, for an item live in both.

    Attributes
    ----------
    id : int or str
        The id of the item.
    before : str, int, float, bool, list of str or None
        Its value in the earlier version.
    after : str, int, float, bool, list of str or None
        Its value in the later version.
    """

    id: int | str
    before: Value
    after: Value


@dataclass(frozen=True)
class LabelDiff:
    """Changes of one label.

    Attributes
    ----------
    name : str
        The name of the label.
    kind_before : str or None
        Its type in the earlier version; None if that version does not have the label, so that no item has a value.
    kind_after : str or None
        Its type in the later version, likewise.
    changed : int
        Number of items live in both versions whose values differ; if the kind has changed, all values do.
    examples : list of ChangedLabel
        The first ones, by id.
    """

    name: str
    kind_before: LabelKind | None
    kind_after: LabelKind | None
    changed: int
    examples: list[ChangedLabel]


@dataclass(frozen=True)
class NeighboursDiff:
    """Changes of recommendations.

    Attributes
    ----------
    side : str
        "users", or "items" on a one-sided store.
    sampled : int
        Number of ids compared: those with the lowest hashes among the ids live in both versions.
    overlap_at_10 : float or None
        Mean share of the earlier version's ten nearest items that the later version also finds.
    score_change : float or None
        Mean absolute change of the scores of those ten items, divided by their mean absolute score; items that are gone
        are left out.
    """

    side: str
    sampled: int
    overlap_at_10: float | None
    score_change: float | None


@dataclass(frozen=True)
class Diff:
    """Changes from one version to another.

    Attributes
    ----------
    before, after : int
        Numbers of the two versions.
    same_space : bool
        If False, there are no cosines, since vectors of different spaces cannot be compared.
    items : SideDiff
    users : SideDiff or None
        None unless both versions have users.
    neighbours : NeighboursDiff
    labels : list of LabelDiff
        One for each label of either version, or for each one requested.
    """

    before: int
    after: int
    same_space: bool
    items: SideDiff
    users: SideDiff | None
    neighbours: NeighboursDiff
    labels: list[LabelDiff] = field(default_factory=list)


def diff(
    before: Version,
    after: Version,
    *,
    limit: int = 20,
    labels: Sequence[str] | None = None,
    between: Callable[[], None] = lambda: None,
) -> Diff:
    """Compare two versions; see :meth:`embsync.Version.diff`."""
    wanted = _label_names(before, after, labels)
    same = before.space_id == after.space_id
    names: tuple[SideName, ...] = ("items",) if before.users is None or after.users is None else ("items", "users")
    pairs = {name: _rows(before.side(name), after.side(name)) for name in names}
    sides = {name: _side(before.side(name), after.side(name), *pairs[name], same, limit, between) for name in names}
    sides["items"] = _labelled(before, after, sides["items"], wanted)
    asking = names[-1]
    return Diff(
        before=before.number,
        after=after.number,
        same_space=same,
        items=sides["items"],
        users=sides.get("users"),
        neighbours=_neighbours(before, after, asking, *pairs[asking], between),
        labels=[_label(before, after, name, *pairs["items"], limit, between) for name in wanted],
    )


def _label_names(before: Version, after: Version, wanted: Sequence[str] | None) -> list[str]:
    """Return the labels to compare, by default all; each requested one must be in one of the versions."""
    if wanted is None:
        return [*after.labels, *(name for name in before.labels if name not in after.labels)]
    for name in wanted:
        if name not in before.labels:
            column_of(after, name)
    return list(wanted)


def _label(
    before: Version, after: Version, name: str, old: Int64, new: Int64, limit: int, between: Callable[[], None]
) -> LabelDiff:
    first, second = before.labels.get(name), after.labels.get(name)
    changed = np.zeros(len(old), np.bool_)
    for start in range(0, len(old), _LABELLED):
        between()
        part = slice(start, start + _LABELLED)
        if first is not None and second is not None:
            changed[part] = ~unchanged(first, old[part], second, new[part])
        elif first is not None:
            changed[part] = ~first.null_at(old[part])
        elif second is not None:
            changed[part] = ~second.null_at(new[part])
    shown = np.flatnonzero(changed)[:limit]
    nothing: list[Value] = [None] * len(shown)
    values = (
        nothing if first is None else first.at(old[shown]),
        nothing if second is None else second.at(new[shown]),
    )
    names = after.items.names(new[shown]).tolist()
    return LabelDiff(
        name=name,
        kind_before=None if first is None else first.kind,
        kind_after=None if second is None else second.kind,
        changed=int(np.count_nonzero(changed)),
        examples=[ChangedLabel(*one) for one in zip(names, *values, strict=True)],
    )


def _rows(before: Side, after: Side) -> tuple[Int64, Int64]:
    """Return the rows, in both versions, of the ids live in both."""
    new = after.live_rows()
    old = before.rows(after.ids[new])
    both = (old >= 0) & before.live[np.maximum(old, 0)]
    return old[both], new[both]


def _side(
    before: Side, after: Side, old: Int64, new: Int64, same: bool, limit: int, between: Callable[[], None]
) -> SideDiff:
    gone = np.setdiff1d(before.live_rows(), old, assume_unique=True)
    joined = np.setdiff1d(after.live_rows(), new, assume_unique=True)
    cosines, ratios = _movement(before, after, old, new, between) if same else (np.empty(0), np.empty(0))
    known = cosines[~np.isnan(cosines)]
    most = lowest(cosines, limit)
    return SideDiff(
        live_before=len(old) + len(gone),
        live_after=len(new) + len(joined),
        new=len(joined),
        gone=len(gone),
        common=len(old),
        new_ids=after.names(joined[:limit]).tolist(),
        gone_ids=before.names(gone[:limit]).tolist(),
        cosine=float(known.mean()) if len(known) else None,
        cosine_p05=float(np.percentile(known, 5)) if len(known) else None,
        moved_most=[
            MovedRow(name, cosine, ratio)
            for name, cosine, ratio in zip(
                after.names(new[most]).tolist(), cosines[most].tolist(), ratios[most].tolist(), strict=True
            )
        ],
    )


def _labelled(before: Version, after: Version, items: SideDiff, names: Sequence[str]) -> SideDiff:
    """Return the changes of the items, with the labels of the listed ones."""

    def records(version: Version, ids: list[Any]) -> list[dict[str, Value]]:
        known = [name for name in names if name in version.labels]
        return records_of(version, version.items.rows(ids), known) if ids and known else []

    moved = records(after, [row.id for row in items.moved_most])
    return replace(
        items,
        moved_most=[replace(row, labels=labels) for row, labels in zip(items.moved_most, moved, strict=True)]
        if moved
        else items.moved_most,
        new_labels=records(after, items.new_ids),
        gone_labels=records(before, items.gone_ids),
    )


def _movement(
    before: Side, after: Side, old: Int64, new: Int64, between: Callable[[], None]
) -> tuple[Float64, Float64]:
    """Return cosine and ratio of norms of each pair of rows, block by block; NaN where the cosine is undefined."""
    cosines, ratios = np.full(len(old), np.nan), np.full(len(old), np.nan)
    step = block_rows(after.vectors.shape[1])
    for start in range(0, len(old), step):
        between()
        part = slice(start, start + step)
        left = np.asarray(before.vectors[as_slice(old[part])], np.float64)
        right = np.asarray(after.vectors[as_slice(new[part])], np.float64)
        cosines[part] = row_cosines(left, right)
        lengths = np.linalg.norm(left, axis=1)
        np.divide(np.linalg.norm(right, axis=1), lengths, out=ratios[part], where=lengths > 0)
    return cosines, ratios


def _neighbours(
    before: Version, after: Version, name: SideName, old: Int64, new: Int64, between: Callable[[], None]
) -> NeighboursDiff:
    """Search both versions for the nearest items of the same ids, and compare ids and scores."""
    chosen = sample(after.side(name).ids[new], SAMPLED)
    old, new = old[chosen], new[chosen]
    if len(chosen) == 0:
        return NeighboursDiff(name, 0, None, None)
    first = _nearest(before, name, old, between)
    second = _nearest(after, name, new, between)
    # The later version's rows of the items that the earlier one found, -1 if removed.
    kept = after.items.rows(before.items.names(first.reshape(-1))).reshape(first.shape)
    kept[(first < 0) | ~after.items.live[kept]] = -1
    gone = len(after.items)  # a row that a search never returns
    shares = overlap(np.where(first < 0, -1, np.where(kept < 0, gone, kept)), second)
    there = kept >= 0
    scores = _scores(before, name, old, first)[there], _scores(after, name, new, kept)[there]
    size = float(np.abs(scores[0]).mean()) if there.any() else 0.0
    change = float(np.abs(scores[1] - scores[0]).mean()) / size if size > 0 else None
    return NeighboursDiff(name, len(chosen), shares, change)


def _nearest(version: Version, name: SideName, rows: Int64, between: Callable[[], None]) -> Int64:
    """Return the (q, 10) rows of the items nearest to each row of a side, -1 where there are fewer."""
    search = version.search_by_user if name == "users" else version.search_by_item
    found = []
    for start in range(0, len(rows), _QUERIES):
        between()
        ids, scores = search(version.side(name).names(rows[start : start + _QUERIES]), TOP_K)
        nearest = version.items.rows(ids.reshape(-1)).reshape(ids.shape)
        nearest[np.isneginf(scores)] = -1
        found.append(nearest)
    return np.concatenate(found)


def _scores(version: Version, name: SideName, asked: Int64, found: Int64) -> Float64:
    """Return the (q, k) inner products of rows of a side with the items found for them; undefined for negative rows."""
    queries = np.asarray(version.side(name).vectors[asked]).astype(np.float64)
    items = np.asarray(version.items.vectors).take(found, axis=0, mode="clip").astype(np.float64)
    return np.asarray(np.einsum("qe,qke->qk", queries, items))
