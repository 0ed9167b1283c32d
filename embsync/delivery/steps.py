"""One delivery: the steps that copy the current version of a store to a sink."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from embsync.delivery.sink import Generation, Probe, Sink, fingerprint_of
from embsync.errors import SinkConflict, SinkError, SinkMoved, SinkUnavailable
from embsync.reader import Version, open_version
from embsync.store import layout


@dataclass(frozen=True)
class Delivered:
    """The result of a delivery.

    Attributes
    ----------
    version : int
        The version that readers of the sink see now.
    previous : int or None
        The version that they saw before; the same if nothing had to be done.
    probe : Probe or None
        The result of the probe before the switch; None if nothing had to be done.
    missed : str or None
        A message about the missed target recall; None if it was not missed.
    dropped, waiting : tuple of int
        Old generations that were removed, and those that are still in use.
    restored : tuple of str
        What was missing or damaged in the version that was current already.
    """

    version: int
    previous: int | None
    probe: Probe | None = None
    missed: str | None = None
    dropped: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    restored: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the sink was switched."""
        return self.version != self.previous


class Superseded(SinkMoved):
    """Another version became current in the store while one was delivered; the next attempt delivers that."""


def deliver(
    sink: Sink, root: Path, keep: int, on_missed_recall: Literal["warn", "refuse"] = "warn", *, where: str | None = None
) -> Delivered:
    """Bring the current version of a store into a sink, switch its readers to it, and remove old versions there.

    Parameters
    ----------
    sink : Sink
    root : path
        The store.
    keep : int
        Generations to keep in the sink.
    on_missed_recall : {"warn", "refuse"}
        What to do if the sink cannot reach its target recall.
    where : str, optional
        The sink's name for messages, unless the caller adds it.

    Raises
    ------
    NotFoundError, StoreError
        The store has no version, or a damaged one.
    SinkError
        The sink cannot take the version, now or at all; its readers see the same version as before.
    """
    with open_version(root) as version:
        restored = sink.check(version)
        there = sink.generations()
        expected = sink.current()
        _require_ours(version, there, where)
        if expected == version.number:
            return _cleaned(sink, Delivered(version.number, expected, restored=restored), keep)
        sink.stage(version)
        probe = sink.probe(version)
        _require_rows(version, probe, where)
        missed = _missed(probe, on_missed_recall, where)
        if layout.current_number(root) != version.number:
            raise Superseded("another version has become current", where=root, found=f"version {version.number} staged")
        sink.commit(version.number, expected)
        return _cleaned(sink, Delivered(version.number, expected, probe, missed), keep)


def versions_behind(root: Path, there: int | None) -> int:
    """Return how many versions a sink is behind the store: 0 if it has the current one, 1 after a rollback.

    Raises
    ------
    NotFoundError, StoreError
        The store has no version, or a damaged one.
    """
    with open_version(root, indexed=False) as version:
        if there == version.number:
            return 0
        lineage = np.append(version.lineage[:-1], version.number)
        return max(1, int((lineage > (there or 0)).sum()))


def _require_ours(version: Version, there: list[Generation], where: str | None) -> None:
    """Refuse a sink that holds versions of another store, or is ahead of this one."""
    versions = version.path.parent
    times = dict(zip(version.lineage.tolist(), version.lineage_times.tolist(), strict=True))
    newest = max(layout.version_numbers(versions), default=version.number)
    for found in there:
        same: bool | None = None
        if not found.fingerprint:  # its publisher died before recording it; staging starts over
            continue
        if found.number == version.number:
            same = found.fingerprint == fingerprint_of(version)
        elif (versions / layout.version_name(found.number)).is_dir():
            with contextlib.suppress(OSError):
                data = (versions / layout.version_name(found.number) / layout.MANIFEST).read_bytes()
                same = hashlib.sha256(data).hexdigest() == found.fingerprint
        elif found.created is not None and times.get(found.number) is not None:
            same = times[found.number].strftime("%Y-%m-%dT%H:%M:%SZ") == found.created
        if same is False or (same is None and found.number > newest):
            raise SinkConflict(
                f"version {found.number} in the sink is not of this store" if same is False else "the sink is ahead",
                where=where,
                found=f"version {found.number} made {found.created or 'at an unknown time'}",
                expected=f"versions of {versions.parent}, up to {newest}",
                hint="another store is delivered there, or this one was restored from a backup: name another place, "
                "or remove that version there",
            )


def _require_rows(version: Version, probe: Probe, where: str | None) -> None:
    expected = version.record.sides.map(lambda counts: counts.rows)
    if (probe.items, probe.users) != (expected.items, expected.users):
        raise SinkError(
            "rows are missing in the sink",
            where=where,
            found=f"{probe.items} items, {probe.users} users",
            expected=f"{expected.items} items, {expected.users} users of version {version.number}",
            hint="the sink keeps its current version; check that nothing else deletes rows there",
        )


def _missed(probe: Probe, on_missed_recall: str, where: str | None) -> str | None:
    if probe.recall is None or probe.target is None or probe.recall >= probe.target:
        return None
    missed = f"recall@{probe.k} {probe.recall:.3f} is below the target {probe.target:g}"
    if on_missed_recall == "refuse":
        hint = "lower the target, or set index.on_missed_recall: warn"
        raise SinkError(
            "the sink misses its target recall", where=where, found=missed, expected=f"{probe.target:g}", hint=hint
        )
    return missed


def _cleaned(sink: Sink, done: Delivered, keep: int) -> Delivered:
    """Remove generations beyond those to keep: the highest numbers, and the current one."""
    there = sink.generations()
    kept = {found.number for found in [found for found in there if found.complete][-keep:]} | {done.version}
    dropped, waiting = [], []
    for found in there:
        # a higher incomplete one may be what another publisher is staging
        if found.number not in kept and (found.complete or found.number < done.version):
            try:
                sink.drop(found.number)
            except SinkUnavailable:
                waiting.append(found.number)
            else:
                dropped.append(found.number)
    return replace(done, dropped=tuple(dropped), waiting=tuple(waiting))
