"""The kept versions of a store, as series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np

from embsync.dtypes import Float64
from embsync.manifest import Manifest, RowCounts, Seconds
from embsync.measurements import DriftRecord, SideDrift
from embsync.reporting.figures import SideHistory, VersionHistory
from embsync.sides import NAMES, SideName, Sides
from embsync.store.contents import PUBLISHES
from embsync.store.journal import Event

_COUNTS = ("live", "new", "returned", "gone", "carried")


def version_history(
    manifests: Sequence[Manifest], events: Iterable[Event] = (), unreadable: tuple[int, ...] = ()
) -> VersionHistory:
    """Return the figures that manifests store, one array per figure."""

    def drift(figure: Callable[[DriftRecord], float | None]) -> Float64:
        return _series(manifests, lambda one: None if one.drift is None else figure(one.drift))

    known = {manifest.version for manifest in manifests} | set(unreadable)
    published = {event.version for event in events if event.event in PUBLISHES and event.version is not None}
    two_sided = any(manifest.users is not None for manifest in manifests)
    return VersionHistory(
        manifests=tuple(manifests),
        sides=Sides(_side(manifests, NAMES.items), _side(manifests, "users") if two_sided else None),
        overlap=drift(lambda one: one.overlap_at_10),
        stale_overlap=drift(lambda one: one.stale_overlap_at_10),
        stale_overlap_raw=drift(lambda one: one.stale_overlap_at_10_raw),
        recall=_series(manifests, lambda one: one.index.recall_at_10),
        target=_series(manifests, lambda one: one.index.target_recall),
        score_error=_series(manifests, lambda one: one.preservation.score_error),
        seconds={
            name: _series(manifests, lambda one, name=name: getattr(one.seconds, name))  # type: ignore[misc]
            for name in msgspec.structs.asdict(Seconds())
        },
        pruned=len(published - known),
        unreadable=unreadable,
    )


def _side(manifests: Sequence[Manifest], name: SideName) -> SideHistory:
    def drift(figure: Callable[[SideDrift], float | None]) -> Float64:
        def value(manifest: Manifest) -> float | None:
            moved = None if manifest.drift is None else getattr(manifest.drift, name)
            return None if moved is None else figure(moved)

        return _series(manifests, value)

    def count(figure: str) -> Float64:
        def value(manifest: Manifest) -> float | None:
            rows: RowCounts | None = getattr(manifest, name)
            return None if rows is None else float(getattr(rows, figure))

        return _series(manifests, value)

    return SideHistory(
        drift(lambda one: one.cosine),
        drift(lambda one: one.cosine_raw),
        drift(lambda one: one.cosine_since_start),
        *map(count, _COUNTS),
    )


def _series(manifests: Sequence[Manifest], figure: Callable[[Manifest], float | None]) -> Float64:
    values = map(figure, manifests)
    return np.array([np.nan if value is None else value for value in values], np.float64)
