"""``relabel``: the current version with other labels, and the same rows and index."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import msgspec
import numpy as np

from embsync.config import Config
from embsync.errors import NotFoundError, SnapshotError, StoreError
from embsync.labels import LabelColumn
from embsync.manifest import LabelRecord, Manifest, Seconds
from embsync.pipeline.labels import LaidOut, placed, replaced
from embsync.pipeline.parent import ParentCheck
from embsync.reader import Version, open_version
from embsync.reader.verification import verify
from embsync.snapshots.files import Place
from embsync.snapshots.labels import Labels, table_at
from embsync.store import Store
from embsync.store.durable import storage_errors
from embsync.store.journal import Event
from embsync.store.staging import Staging

#: Space for the manifest, in addition to the labels.
_MANIFEST_BYTES = 2**20


def relabel(store: Store, file: Path, config: Config) -> Manifest:
    """Publish the current version with labels of a table; items and labels that are not in it are unchanged.

    The new version adds no step to the lineage: everything except labels is hard-linked.

    Raises
    ------
    SnapshotError
        The table is ill-formed, has a label that changed its type or is not configured, or none of its ids is an
        item.
    NotFoundError
        There is no table, or no version to relabel.
    """
    began = time.perf_counter()
    store.require()
    place = Place.at(file)
    with store.locked():
        if store.current() is None:
            raise NotFoundError("nothing to relabel", where=store.root, found="a store without versions")
        with open_version(store.root) as parent, ParentCheck(store, parent, (SnapshotError,)) as check:
            laid_out = _laid_out(parent, _read(place, parent, config))
            size = sum(array.nbytes for column in laid_out.columns for _, array in column.files())
            with storage_errors(store.root), store.stage(size + _MANIFEST_BYTES) as staging:
                labels = _write(staging, parent, laid_out)
                verify(parent, below="index")
                check.require()
                manifest = msgspec.structs.replace(
                    parent.record,
                    version=store.next_number(),
                    parent=parent.number,
                    relabels=parent.record.night,
                    labels=labels,
                    seconds=Seconds(total=round(time.perf_counter() - began, 3)),
                    files=staging.seal(),
                )
                store.publish(staging, manifest, _event(manifest, place, laid_out))
        with contextlib.suppress(StoreError):  # the labels are published; the next publish prunes
            store.prune(config.store.keep_versions)
    return manifest


def _read(place: Place, parent: Version, config: Config) -> Labels:
    kinds = {name: label.kind for name, label in parent.labels.items()}
    ids = "integer" if parent.items.ids.dtype.kind == "i" else "string"
    labels = table_at(place, config.snapshot).read(None, kinds, ids)
    configured = config.snapshot.labels
    others = [column.name for column in labels.columns if configured is not None and column.name not in configured]
    if others:
        raise SnapshotError(
            "labels are not configured, and would be lost with the next snapshot",
            where=labels.where,
            found=", ".join(others)[:200],
            expected=f"among {', '.join(configured or ())} (snapshot.labels)",
        )
    return labels


def _laid_out(parent: Version, labels: Labels) -> LaidOut:
    """Return the labels of all rows: those of the table, and the previous ones of other items and labels."""
    to, rows, unknown = placed(labels, parent.items.ids)
    before = np.arange(len(parent.items.ids))
    columns: dict[str, LabelColumn] = dict(parent.labels)
    for column in labels.columns:
        columns[column.name] = replaced(column, parent.labels.get(column.name), before, to, rows)
    return LaidOut(tuple(columns.values()), {column.name: unknown for column in labels.columns})


def _write(staging: Staging, parent: Version, laid_out: LaidOut) -> list[LabelRecord]:
    """Link the unchanged files, and write the labels."""
    for entry in parent.record.files:
        if not entry.path.startswith("labels/"):
            staging.link(entry, parent.path)
    return laid_out.save(staging)


def _event(manifest: Manifest, place: Place, laid_out: LaidOut) -> Event:
    names = ", ".join((laid_out.unknown or {}).keys())
    return Event(
        event="relabelled",
        version=manifest.version,
        parent=manifest.parent,
        space_id=manifest.space_id,
        action="reused",
        reason=f"{names} from {place.name}",
        seconds=manifest.seconds.total,
    )
