"""Publishing one snapshot as one version, or refusing it; the same code for the command line and the daemon."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from embsync.alignment.preservation import certify
from embsync.alignment.two_pass import Alignment, fit
from embsync.config import Config
from embsync.dtypes import Array
from embsync.errors import NotFoundError, OutOfSpace, SnapshotChanged, SnapshotError, StoreError, UsageError
from embsync.index import Built, check_factory, refresh
from embsync.manifest import FORMAT, FORMAT_OF_PARTS, CheckRecord, IndexReport, Manifest, Parts, Seconds
from embsync.pipeline import record
from embsync.pipeline.checks import CheckRefusedError, Measured, judge, require
from embsync.pipeline.engine import Reported, open_engine
from embsync.pipeline.estimate import estimate
from embsync.pipeline.inputs import Inputs, gather, live_rows
from embsync.pipeline.lineage import save_lineage
from embsync.pipeline.neighbours import Neighbours
from embsync.pipeline.parent import ParentCheck, current_number, open_current, parent_index
from embsync.pipeline.request import Request, UnchangedError
from embsync.pipeline.second_pass import write_sides
from embsync.pipeline.table_run import readable
from embsync.progress import Progress, silent
from embsync.reader import Version
from embsync.rows import library_threads, release_memory
from embsync.snapshots import Signature, fingerprint_of, is_earlier, open_snapshot, signature, stamp
from embsync.store import Store, layout
from embsync.store.durable import storage_errors
from embsync.store.journal import Event
from embsync.store.records import timestamp
from embsync.store.staging import Staging
from embsync.watching.history import snapshot_event

#: Attempts without the lock before one under it, so that a run ends even if the store keeps changing.
_OPTIMISTIC_RUNS = 3


@dataclass
class _Clock:
    """Wall-clock seconds by stage."""

    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def record(self) -> Seconds:
        parts = {name: round(value, 3) for name, value in self.seconds.items()}
        return Seconds(**parts, total=round(time.perf_counter() - self.started, 3))


class _ParentChanged(Exception):
    """The current version changed while a run was aligned to it."""


def publish_snapshot(store: Store, request: Request, config: Config, progress: Progress = silent) -> Manifest:
    """Publish one snapshot.

    The store's lock is held only for the final switch, so that a rollback never waits for a run. If ``current`` has
    moved meanwhile, the run is repeated on the new current version.

    Raises
    ------
    SnapshotError, NotFoundError
        The snapshot is missing, ill-formed or changing; nothing is written.
    CheckRefusedError
        A check refuses; its figures are in the journal, and nothing else has changed.
    StoreError
        The store is locked, damaged, unwritable or out of space.
    """
    manifest = _attempt(store, request, config, progress)
    # Versions that cannot be pruned now are pruned after the next publish; that must not make this one fail.
    with contextlib.suppress(StoreError), store.locked(even_when_full=True):
        store.prune(config.store.keep_versions)
    return manifest


def _attempt(store: Store, request: Request, config: Config, progress: Progress) -> Manifest:
    for _ in range(_OPTIMISTIC_RUNS):
        with contextlib.suppress(_ParentChanged):
            return _Run(store, request, config, progress).publish()
    with store.locked():
        return _Run(store, request, config, progress, locked=True).publish()


def dry_run(store: Store, request: Request, config: Config, progress: Progress = silent) -> Manifest:
    """Do what :func:`publish_snapshot` does, in a temporary directory; return the manifest that would be published.

    The store is only read: no lock, no journal line, no directory. ``TMPDIR`` needs space for one version.

    Raises
    ------
    SnapshotError, NotFoundError, CheckRefusedError, StoreError
        As for :func:`publish_snapshot`.
    """
    return _DryRun(store, request, config, progress).publish()


class _Run:
    """One attempt, aligned to the version that is current when it starts."""

    def __init__(
        self, store: Store, request: Request, config: Config, progress: Progress, *, locked: bool = False
    ) -> None:
        self._store = store
        self._request = request
        self._config = config
        self._progress = progress
        self._locked = locked
        self._clock = _Clock()
        self._checks: list[CheckRecord] = []
        self._signature = Signature("", "", 0)
        self._fingerprint: str | None = None
        self._damage: dict[str, object] | None = None
        self._current: int | None = None
        self._parent = ParentCheck(store, None)

    def publish(self) -> Manifest:
        """Run to a published version; if the snapshot is replaced meanwhile, its errors are reported as that change."""
        try:
            return self._publish()
        except (SnapshotError, UsageError) as error:  # UsageError: executors do not see a path that is gone
            if error.transient or not self._has_changed():
                raise
            raise self._changed(error.what) from error

    def _publish(self) -> Manifest:
        with contextlib.ExitStack() as stack:
            with self._clock.stage("read"):
                known, self._current = open_current(self._store, stack, new_space=self._request.new_space)
                parent = None if self._request.new_space else known
                self._parent = stack.enter_context(ParentCheck(self._store, parent, (UnchangedError, _ParentChanged)))
                inputs = self._gather(known, stack)
            self._check_factory(inputs)
            with self._clock.stage("align"), library_threads(1, "blas"):
                found = self._fit(inputs)
            self._fingerprint = fingerprint_of(run.digest for run in inputs)
            if inputs.has_fingerprint(self._request.known_fingerprint):
                raise UnchangedError("the same contents as before", where=self._request.path)
            self._parent.raise_if_damaged()
            self._require(record.checks_of_fit(self._config, inputs, found))
            if inputs.parent is None:  # no checks remain, and no store is created
                inputs.labels.require()
            staging = stack.enter_context(self._stage(inputs))
            with storage_errors(self._store.root):
                describe, index = self._write(staging, inputs, found)
                del inputs, found  # frees the per-row arrays before the index is built
                release_memory()
                return self._finish(staging, parent, describe, index)

    def _gather(self, known: Version | None, stack: contextlib.ExitStack) -> Inputs:
        self._signature = signature(self._request.path)
        snapshot = open_snapshot(
            self._request.path,
            self._config.snapshot,
            follow_link=self._request.follow_link,
            marker=self._config.watch.marker,
        )
        number = self._store.next_number() if self._store.versions.is_dir() else 1
        parent = None if self._request.new_space else known
        compared = [self._request.known_fingerprint, None if parent is None else parent.record.snapshot.fingerprint]
        earlier = any(map(is_earlier, compared))
        engine = None
        if self._config.engine.kind != "local" and snapshot.users is not None:
            readable(snapshot.users, self._config)
            self._progress = reported = stack.enter_context(Reported(self._progress, self._config.engine.stall_seconds))
            engine = stack.enter_context(open_engine(self._config.engine))
            if engine is not None:
                reported.watch(engine)
        return gather(snapshot, parent, known, number, self._config, self._progress, earlier=earlier, engine=engine)

    def _check_factory(self, inputs: Inputs) -> None:
        """Refuse an unusable factory before any work; a trained index may be kept, however few rows there are."""
        index, parent = self._config.index, inputs.parent
        kept = parent is not None and parent.record.index.factory == index.factory and index.refresh != "rebuild"
        check_factory(index, inputs.dimension, None if kept else inputs.items.side.count)

    def _fit(self, inputs: Inputs) -> Alignment:
        return fit(
            inputs.map(lambda run: run.fitted),
            dimension=inputs.dimension,
            standardized=self._config.space.standardize,
            threads=self._config.threads,
        )

    def _stage(self, inputs: Inputs) -> contextlib.AbstractContextManager[Staging]:
        self._store.create()
        return self._store.stage(estimate(inputs, self._config))

    def _write(self, staging: Staging, inputs: Inputs, found: Alignment) -> tuple[partial[Manifest], partial[Built]]:
        """Run the second pass and its checks; return callables that make the manifest and the index."""
        with self._clock.stage("write"), library_threads(1, "blas"):
            neighbours = Neighbours(inputs, found, self._config.index, self._config.threads)
            written, read = write_sides(staging, inputs, found, neighbours, self._config, self._progress)
            self._reject_change(read)
            alignment = record.alignment_record(self._config, inputs, found, written)
            residuals = written.map(lambda side: side.residual)
            sampled, agreement = len(neighbours.queries), neighbours.agreement()
            preservation = certify(found.transform, residuals, agreement, sampled, threads=self._config.threads)
            drift = record.drift_record(inputs, written, neighbours)
        sides = record.checks_of_sides(inputs, found, alignment)
        self._require(record.checks_of_rows(found, preservation, sides))
        inputs.labels.require()
        assert self._fingerprint is not None
        parent = inputs.parent
        counts = record.row_counts(inputs, found)
        parts = [] if written.users is None else written.users.parts
        describe = partial(
            Manifest,
            format=FORMAT_OF_PARTS if parts else FORMAT,
            parts=Parts(users=parts) if parts else msgspec.UNSET,
            version=inputs.number,
            space_id=uuid.uuid4().hex if parent is None else parent.space_id,
            dimension=inputs.dimension,
            parent=None if parent is None else parent.number,
            snapshot=record.snapshot_record(inputs, self._fingerprint, self._signature),
            items=counts.items,
            users=counts.users,
            alignment=alignment,
            preservation=preservation,
            drift=drift,
            labels=inputs.labels.save(staging),
        )
        return describe, self._index_builder(inputs, written.items.vectors, neighbours)

    def _index_builder(self, inputs: Inputs, vectors: Array, neighbours: Neighbours) -> partial[Built]:
        return partial(
            refresh,
            vectors,
            live_rows(inputs.items),
            neighbours.queries[neighbours.gate],
            neighbours.ground_truth[neighbours.gate],
            self._config.index,
            self._config.threads,
            parent_index(inputs),
        )

    def _finish(
        self, staging: Staging, parent: Version | None, describe: partial[Manifest], index: partial[Built]
    ) -> Manifest:
        """Build the index, make all files durable, and publish."""
        staging.start_sealing()
        report = self._index(staging, index)
        self._require([record.check_of_recall(self._config, report)])
        self._progress("publishing", 0.0)
        created = timestamp()
        with self._clock.stage("publish"):
            save_lineage(staging, self._store, parent, describe.keywords["version"], created)
            files = staging.seal()
            self._parent.require()
        manifest = describe(
            created=created, index=report, checks=self._checks, seconds=self._clock.record(), files=files
        )
        return self._switch(staging, manifest)

    def _index(self, staging: Staging, index: partial[Built]) -> IndexReport:
        self._progress("indexing", 0.0)
        with self._clock.stage("index"):
            built = index()
            with staging.stream(layout.INDEX) as write:
                built.write(write)
            staging.save(layout.INDEX_ROWS, built.labels)
        self._damage = None if built.damage is None else built.damage.as_dict()
        gate = round(built.seconds.get("gate", 0.0) + built.seconds.get("truth", 0.0), 3)
        self._clock.seconds["recall"] = gate
        self._clock.seconds["index"] = max(self._clock.seconds["index"] - gate, 0.0)
        return built.report

    def _switch(self, staging: Staging, manifest: Manifest) -> Manifest:
        """Publish under the lock, if the parent is still current."""
        with contextlib.nullcontext() if self._locked else self._store.locked():
            number = current_number(self._store, new_space=self._request.new_space)
            if (number, self._store.next_number()) != (self._current, manifest.version):
                raise _ParentChanged
            with self._clock.stage("publish"):
                manifest = msgspec.structs.replace(manifest, seconds=self._clock.record())
                self._store.publish(staging, manifest, self._published(manifest))
        self._progress("publishing", 1.0)
        return manifest

    def _published(self, manifest: Manifest) -> Event:
        return Event(
            event="published",
            version=manifest.version,
            parent=manifest.parent,
            space_id=manifest.space_id,
            snapshot=self._snapshot_event(),
            checks=[msgspec.to_builtins(check) for check in manifest.checks if check.outcome != "pass"],
            action=manifest.index.action,
            reason=manifest.index.reason,
            seconds=manifest.seconds.total,
            accepted=list(self._request.accepted) or None,
            error=self._damage,
        )

    def _snapshot_event(self) -> dict[str, str | None]:
        path = self._request.path.absolute()
        return snapshot_event(path.name, path, self._fingerprint, self._signature)

    def _reject_change(self, fingerprint: str) -> None:
        if fingerprint != self._fingerprint or self._has_changed():
            raise self._changed("different contents in the second pass", "the contents of the first pass")

    def _has_changed(self) -> bool:
        """Return whether the path has changed since the beginning of the run."""
        if not self._signature.stamp:
            return False
        try:
            return stamp(self._request.path) != self._signature.stamp
        except (SnapshotChanged, NotFoundError):
            return True

    def _changed(self, found: str, expected: str | None = None) -> SnapshotChanged:
        return SnapshotChanged(
            "the snapshot changed while it was read",
            where=self._request.path,
            found=found,
            expected=expected,
            hint="have the training job rename the finished directory into place",
        )

    def _require(self, measured: list[Measured]) -> None:
        """Apply checks; a refusal is journaled with all figures."""
        self._checks += [judge(one, self._config, self._request.accepted) for one in measured]
        try:
            require(self._checks, str(self._request.path), self._store.root)
        except CheckRefusedError as refusal:
            self._parent.require()  # the snapshot must not be refused because of damage in the store
            if self._has_changed():  # nor because of rows of another snapshot
                raise self._changed(refusal.what) from refusal
            self._journal(refusal)
            raise

    def _journal(self, refusal: CheckRefusedError) -> None:
        self._store.create()
        event = Event(
            event="refused",
            snapshot=self._snapshot_event(),
            checks=[msgspec.to_builtins(check) for check in refusal.records],
            reason=refusal.what,
        )
        with contextlib.nullcontext() if self._locked else self._store.locked():
            self._store.journal.append(event)


class _DryRun(_Run):
    """A run whose version is written to a temporary directory and deleted."""

    @contextlib.contextmanager
    def _stage(self, inputs: Inputs) -> Iterator[Staging]:
        needed = estimate(inputs, self._config)
        if self._store.versions.is_dir():
            self._store.require_room(needed)
        with tempfile.TemporaryDirectory(prefix="embsync-check-") as directory:
            free = shutil.disk_usage(directory).free
            if free < needed:
                raise OutOfSpace(
                    "too little space for a dry run",
                    where=Path(directory).parent,
                    found=f"{free:,} bytes free",
                    expected=f"{needed:,} bytes",
                    hint="set TMPDIR to a directory with room",
                )
            with Staging(Path(directory)) as staging:
                yield staging

    def _switch(self, staging: Staging, manifest: Manifest) -> Manifest:
        del staging
        self._progress("publishing", 1.0)
        return manifest

    def _journal(self, refusal: CheckRefusedError) -> None:
        """Do nothing: a dry run is not journaled."""
