"""``widen``: gives a space more axes by padding all vectors with zeros, which changes no score."""

from __future__ import annotations

import contextlib
import time

import msgspec
import numpy as np

from embsync.config import Config
from embsync.dtypes import Array
from embsync.errors import NotFoundError, StoreError, UsageError
from embsync.ids import sample
from embsync.index import check_factory, estimate_bytes, refresh
from embsync.manifest import FORMAT_OF_PARTS, IndexReport, Manifest, RowCounts, Seconds
from embsync.pipeline.lineage import save_lineage
from embsync.pipeline.parent import ParentCheck
from embsync.pipeline.second_pass import save_maps
from embsync.reader import Version, open_version
from embsync.reader.side import Side
from embsync.rows import block_rows
from embsync.store import Store, layout
from embsync.store.durable import storage_errors
from embsync.store.journal import Event
from embsync.store.records import timestamp
from embsync.store.staging import Staging


def widen(store: Store, dimension: int, config: Config) -> Manifest:
    """Publish the current version with its vectors, anchors, start sample and maps padded to ``dimension`` axes.

    Raises
    ------
    UsageError
        The space is not narrower than ``dimension``.
    NotFoundError
        There is no version to widen.
    """
    began = time.perf_counter()
    store.require()
    with store.locked():
        if store.current() is None:
            raise NotFoundError("nothing to widen", where=store.root, found="a store without versions")
        with open_version(store.root, indexed=False) as parent, ParentCheck(store, parent, (UsageError,)) as check:
            _require_narrower(parent, dimension)
            check_factory(config.index, dimension, parent.record.items.live)
            number = store.next_number()
            with storage_errors(store.root), store.stage(_estimate(parent, dimension, config)) as staging:
                vectors = _copy(staging, parent, number, dimension)
                report = _index(staging, parent, vectors, config)
                created = timestamp()
                save_lineage(staging, store, parent, number, created)
                manifest = _manifest(parent, number, dimension, created, report, staging, time.perf_counter() - began)
                check.require()
                event = Event(
                    event="widened",
                    version=number,
                    parent=parent.number,
                    space_id=parent.space_id,
                    reason=f"{parent.record.dimension} to {dimension} dimensions",
                )
                store.publish(staging, manifest, event)
        with contextlib.suppress(StoreError):  # the version is published; the next publish prunes again
            store.prune(config.store.keep_versions)
    return manifest


def _require_narrower(parent: Version, dimension: int) -> None:
    if parent.record.format == FORMAT_OF_PARTS:
        raise UsageError(
            "a version whose users are in part files cannot be widened",
            where=parent.path,
            hint="train with more dimensions, and begin a new space with accept --new-space",
        )
    if dimension <= parent.record.dimension:
        raise UsageError(
            "the space is not narrower",
            found=f"{parent.record.dimension} dimensions",
            expected=f"less than the requested {dimension}",
        )


def _copy(staging: Staging, parent: Version, number: int, dimension: int) -> Array:
    """Write the padded arrays; return the items' vectors."""

    def copy(side: Side) -> Array:
        name = side.name
        vectors = _pad_rows(staging, layout.side_file(name, "vectors"), side.vectors, dimension)
        staging.save(layout.side_file(name, "ids"), side.ids)
        if side.moments is not None:
            padding = np.zeros(dimension - len(side.moments) + 1)
            staging.save(
                layout.side_file(name, "moments"), np.concatenate([side.moments[:-1], padding, side.moments[-1:]])
            )
        staging.save(layout.side_file(name, "last_seen"), np.where(side.live, number, side.last_seen))
        for folder in ("anchors", "start"):
            ids_file, vectors_file = layout.reference_files(folder, name)
            ids, rows = parent.reference("anchors" if folder == "anchors" else "start", name)
            staging.save(ids_file, ids)
            _pad_rows(staging, vectors_file, rows, dimension)
        ages = parent.anchor_ages(name)
        if ages is not None:
            staging.save(layout.ages_file(name), ages)
        return vectors

    vectors = parent.sides.map(copy)
    save_maps(staging, parent.transform.maps.widened(dimension))
    if parent.neighbours is not None:
        staging.save(layout.NEIGHBOURS, parent.neighbours)
    for label in parent.labels.values():
        for path, array in label.files():
            staging.save(path, array)
    return vectors.items


def _pad_rows(staging: Staging, name: str, rows: Array, dimension: int) -> Array:
    file = staging.array(name, (len(rows), dimension), np.float32)
    step = block_rows(dimension)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        padded = np.zeros((len(block), dimension), np.float32)
        padded[:, : block.shape[1]] = block
        file.put(slice(start, start + len(block)), padded)
    return file.array


def _index(staging: Staging, parent: Version, vectors: Array, config: Config) -> IndexReport:
    """Build a new index: an index cannot be rotated into another width."""
    side = parent.sides.queries
    live = np.flatnonzero(side.live)
    sampled = live[sample(side.ids[live], config.index.sample_queries)]
    queries = np.zeros((len(sampled), vectors.shape[1]), np.float32)
    queries[:, : side.vectors.shape[1]] = side.vectors[sampled]
    built = refresh(vectors, np.flatnonzero(parent.items.live), queries, None, config.index, config.threads)
    with staging.stream(layout.INDEX) as write:
        built.write(write)
    staging.save(layout.INDEX_ROWS, built.labels)
    return msgspec.structs.replace(built.report, reason="the space became wider")


def _manifest(
    parent: Version, number: int, dimension: int, created: str, report: IndexReport, staging: Staging, seconds: float
) -> Manifest:
    """Return the parent's manifest with the changes by widening; the certificate remains valid."""
    return msgspec.structs.replace(
        parent.record,
        version=number,
        dimension=dimension,
        created=created,
        parent=parent.number,
        **vars(parent.record.sides.map(_same_rows)),
        drift=None,
        index=report,
        checks=[],
        seconds=Seconds(total=round(seconds, 3)),
        files=staging.seal(),
        relabels=None,
    )


def _same_rows(counts: RowCounts) -> RowCounts:
    return msgspec.structs.replace(counts, new=0, returned=0, gone=0, common=counts.live)


def _estimate(parent: Version, dimension: int, config: Config) -> int:
    padded = sum(entry.bytes for entry in parent.record.files if entry.path != layout.INDEX)
    index = estimate_bytes(parent.record.items.live, dimension, config.index.factory)
    return index + padded * dimension // parent.record.dimension
