"""The real store compared with a model in memory, for any sequence of commands and readers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.nights import Night, configured, night, write_npy
from support.quick import quick_directory
from support.stores import assert_at_rest, snapshot_of
from torture.points import watch
from torture.scenarios import forked

import embsync
from embsync.errors import SnapshotError, UsageError
from embsync.pipeline import CheckRefusedError, Request, publish_snapshot
from embsync.pipeline.widen import widen
from embsync.reader import Version, open_version
from embsync.store import Store
from embsync.store.hold import hold, resume
from embsync.store.locks import identity

STOPS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
KEEP, CARRY, WIDTH = 3, 2, 4
WIDEST = 7
SIDES = ("items", "users")
CONFIG = configured(store__keep_versions=KEEP, store__carry_forward_versions=CARRY)
#: Every model is a retraining of this one; only ids that a rule removes are absent.
UNIVERSE = {"items": 48, "users": 40, "width": WIDTH, "churn": 0.0}


@dataclass
class Row:
    """A row of the model: the version that last had its id live, and the vector of that version."""

    last_seen: int
    vector: bytes


@dataclass
class Modelled:
    """The expected state of a version."""

    parent: int | None
    space: int
    dimension: int
    lineage: list[int]
    times: list[str]
    rows: dict[str, dict[int, Row]] = field(default_factory=dict)

    def age(self, row: Row) -> int:
        """Return the number of lineage steps since a row was live."""
        return len(self.lineage) - 1 - self.lineage.index(row.last_seen)


class StoreMachine(RuleBasedStateMachine):
    """Drives a store with two sides and integer ids."""

    def __init__(self) -> None:
        super().__init__()
        self.resources = contextlib.ExitStack()
        directory = self.resources.enter_context(quick_directory())
        self.root = directory / "S"
        self.inbox = directory / "in"
        self.store = Store(self.root, wait=1.0)
        self.versions: dict[int, Modelled] = {}
        self.current = 0
        self.highest = 0
        self.spaces = 0
        self.count = 0
        self.pins: dict[int, tuple[Version, bytes]] = {}
        self.space_ids: dict[int, str] = {}
        self.raw: dict[int, Night] = {}
        self.holding = False
        #: Pins of versions in a store that was since replaced by a copy.
        self.elsewhere: set[int] = set()

    def teardown(self) -> None:
        """Close the readers and remove the directory."""
        for version, _ in self.pins.values():
            version.close()
        self.resources.close()

    # commands

    @initialize(seed=st.integers(0, 99))
    def begin(self, seed: int) -> None:
        """Publish a first version."""
        self._publish(self._made(seed, 0.0), new_space=True)

    @rule(seed=st.integers(0, 99), absent=st.sampled_from((0.0, 0.1, 0.25)))
    def sync(self, seed: int, absent: float) -> None:
        """Publish a healthy retraining with some ids absent."""
        self._publish(self._made(seed, absent))

    @rule(seed=st.integers(0, 99))
    def new_space(self, seed: int) -> None:
        """Start a new space."""
        self._publish(self._made(seed, 0.1), new_space=True)

    @precondition(lambda self: len(self._now.rows["items"]) > 2 * WIDTH)
    @rule(seed=st.integers(0, 99))
    def sync_refused(self, seed: int) -> None:
        """Publish shuffled ids: they are refused and journaled, and nothing else changes."""
        made = self._made(seed, 0.0)
        assert made.user_ids is not None
        user_ids = np.random.default_rng(seed + 1).permutation(made.user_ids)
        made = replace(made.shuffled_item_ids(seed), user_ids=user_ids)
        before = self._tree()
        events = len(list(self.store.journal.events()))
        with pytest.raises(CheckRefusedError, match="cosine_items"):
            publish_snapshot(self.store, Request(write_npy(self._place(), made)), CONFIG)
        assert self._tree() == before
        assert [event.event for event in self.store.journal.events()][events:] == ["refused"]

    @rule(row=st.integers(0, 20))
    def sync_ill_formed(self, row: int) -> None:
        """Publish NaN: an error, and no byte changes."""
        made = self._made(1, 0.0)
        made.items[row, 2] = np.nan
        before = snapshot_of(self.root)
        with pytest.raises(SnapshotError, match=f"row {row} "):
            publish_snapshot(self.store, Request(write_npy(self._place(), made)), CONFIG)
        assert snapshot_of(self.root) == before

    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        """Make any existing version current."""
        target = data.draw(st.sampled_from(sorted(self.versions)))
        assert self.store.rollback(target) == (self.current, target)
        self.current = target

    @rule(keep=st.integers(1, 4))
    def prune(self, keep: int) -> None:
        """Delete old versions."""
        with self.store.locked():
            pruned, in_use = self.store.prune(keep)
        doomed = self._doomed(keep)
        assert pruned == [number for number in doomed if number not in self._held()]
        assert in_use == [number for number in doomed if number in self._held()]
        self._forget(pruned)

    @precondition(lambda self: self._now.dimension < WIDEST)
    @rule(more=st.integers(1, 2))
    def widen(self, more: int) -> None:
        """Pad the space with zeros; ids and ages are unchanged."""
        now = self._now
        dimension = min(now.dimension + more, WIDEST)
        manifest = widen(self.store, dimension, CONFIG)
        number = self._next(manifest.version)
        made = Modelled(self.current, now.space, dimension, [*now.lineage, number], [*now.times, manifest.created])
        for side in SIDES:
            made.rows[side] = {
                id_: Row(number if now.age(row) == 0 else row.last_seen, _padded(row.vector, now.dimension, dimension))
                for id_, row in now.rows[side].items()
            }
        self._adopt(number, made)

    @rule()
    def widen_to_no_more(self) -> None:
        """Widen to the current width: an error, and no byte changes."""
        before = snapshot_of(self.root)
        with pytest.raises(UsageError, match="not narrower"):
            widen(self.store, self._now.dimension, CONFIG)
        assert snapshot_of(self.root) == before

    @rule(seed=st.integers(0, 99), place=st.integers(0, 60), number=st.sampled_from(STOPS))
    def crash(self, seed: int, place: int, number: signal.Signals) -> None:
        """Publish, and get a signal at some call: the old or the new version is current."""
        path = write_npy(self._place(), made := self._made(seed, 0.0))
        struck = forked(
            lambda: _struck(place, number, lambda: publish_snapshot(Store(self.root), Request(path), CONFIG))
        )
        assert struck in {0, number, -number}
        with self.store.locked():
            pass
        published = [event for event in self.store.journal.events() if event.version == self.highest + 1]
        if published or struck == 0:
            self._adopt_published(made, self.highest + 1)
            with self.store.locked():
                self._prune_leftovers()

    @rule(seed=st.integers(0, 99), number=st.sampled_from(STOPS), data=st.data())
    def crash_rollback(self, seed: int, number: signal.Signals, data: st.DataObject) -> None:
        """Roll back, and get a signal at some call: the old or the target version is current."""
        target = data.draw(st.sampled_from(sorted(self.versions)))
        forked(lambda: _struck(seed % 12, number, lambda: Store(self.root).rollback(target)))
        found = self.store.current()
        assert found in {self.current, target}
        self.current = found
        with self.store.locked():
            pass

    @rule(on=st.booleans())
    def hold_or_resume(self, on: bool) -> None:
        """Set or clear the hold, which does not affect commands by hand."""
        assert (hold if on else resume)(self.store) is (self.holding != on)
        self.holding = on

    @rule()
    def move(self) -> None:
        """Move the store while readers have it open; everything continues at the new path."""
        self.count += 1
        there = self.inbox.parent / f"S{self.count}"
        self.root.rename(there)
        self.root, self.store = there, Store(there, wait=1.0)

    @rule()
    def restore(self) -> None:
        """Replace the store by a copy, as from a backup; open versions are unchanged."""
        copy, aside = self.inbox.parent / "copy", self.inbox.parent / f"aside{self.count}"
        shutil.copytree(self.root, copy, symlinks=True)
        self.root.rename(aside)
        copy.rename(self.root)
        self.elsewhere |= set(self.pins)
        self.count += 1

    # readers

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        """Open a version and keep it open."""
        number = data.draw(st.sampled_from(sorted(self.versions)))
        version = open_version(self.root, number)
        self.pins[len(self.pins) + 1000 * self.count] = (version, version.items.vectors.tobytes())
        self.count += 1

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        """Close one of the open versions."""
        version, _ = self.pins.pop(data.draw(st.sampled_from(sorted(self.pins))))
        version.close()

    # invariants after every step

    @invariant()
    def the_store_is_the_model(self) -> None:
        """The store has the model's numbers, current version, ids, ages, vectors and lineage, and no leftovers."""
        if not self.versions:
            return
        assert self.store.current() == self.current
        assert self.store.numbers() == sorted(self.versions)
        assert self.store.next_number() == self.highest + 1
        assert_at_rest(self.root, *(["hold"] if self.holding else []))
        assert (self.root / "hold").exists() == self.holding
        with embsync.open(self.root) as reader:
            self._compare(reader.current)

    @invariant()
    def held_versions_stay(self) -> None:
        """A pinned version has the same bytes, whatever was published and pruned since."""
        for version, data in self.pins.values():
            assert version.items.vectors.tobytes() == data
            if identity(version.path) == version.identity:  # otherwise the store was moved or replaced
                assert (version.path / "manifest.json").read_bytes() == version.manifest_bytes

    def _compare(self, version: Version) -> None:
        model = self._now
        record = version.record
        assert (record.version, record.parent, record.dimension) == (self.current, model.parent, model.dimension)
        assert version.lineage.tolist() == model.lineage
        assert [f"{time}Z" for time in version.lineage_times] == model.times
        assert version.space_id == self.space_ids.setdefault(model.space, version.space_id)
        assert len(set(self.space_ids.values())) == len(self.space_ids)
        for name in SIDES:
            side, rows = version.side("items" if name == "items" else "users"), model.rows[name]
            ids = sorted(rows)
            assert side.ids.tolist() == ids
            assert side.last_seen.tolist() == [rows[id_].last_seen for id_ in ids]
            assert side.age(ids).tolist() == [model.age(rows[id_]) for id_ in ids]
            assert side.live.tolist() == [model.age(rows[id_]) == 0 for id_ in ids]
            assert side.vectors.tobytes() == b"".join(rows[id_].vector for id_ in ids)
        counts = record.items
        assert (counts.rows, counts.live, counts.carried) == (
            len(version.items.ids),
            int(version.items.live.sum()),
            int((~version.items.live).sum()),
        )

    # the model

    @property
    def _now(self) -> Modelled:
        return self.versions[self.current]

    def _made(self, seed: int, absent: float) -> Night:
        made = night(seed, seed=1, **UNIVERSE)
        assert made.users is not None
        assert made.user_ids is not None
        random = np.random.default_rng((seed, 7))
        here, there = (
            np.sort(random.permutation(len(rows))[: round((1 - absent) * len(rows))])
            for rows in (made.items, made.users)
        )
        return Night(made.items[here], made.item_ids[here], made.users[there], made.user_ids[there])

    def _publish(self, made: Night, **request: Any) -> None:
        manifest = publish_snapshot(self.store, Request(write_npy(self._place(), made), **request), CONFIG)
        self._adopt_published(made, manifest.version, new_space=bool(request))

    def _adopt_published(self, made: Night, version: int, *, new_space: bool = False) -> None:
        parent = None if new_space else self._now
        created = self.store.manifest(version).created
        number = self._next(version)
        if parent is None:
            self.spaces += 1
            model = Modelled(None, self.spaces, WIDTH, [number], [created])
        else:
            times = [*parent.times, created]
            model = Modelled(self.current, parent.space, parent.dimension, [*parent.lineage, number], times)
        with embsync.open(self.root) as reader:
            opened = reader.current
            for name, raw, ids in (("items", made.items, made.item_ids), ("users", made.users, made.user_ids)):
                assert raw is not None
                assert ids is not None
                carried = (
                    {}
                    if parent is None
                    else {id_: row for id_, row in parent.rows[name].items() if parent.age(row) + 1 <= CARRY}
                )
                side = opened.side("items" if name == "items" else "users")
                live = {id_: Row(number, side.lookup([id_])[0].tobytes()) for id_ in ids.tolist()}
                model.rows[name] = carried | live
            _assert_scores_kept(opened, made)
        self._adopt(number, model)

    def _next(self, number: int) -> int:
        assert number == self.highest + 1
        self.highest = number
        return number

    def _adopt(self, number: int, model: Modelled) -> None:
        self.versions[number] = model
        self.current = number
        self._forget([other for other in self._doomed(KEEP) if other not in self._held()])

    def _doomed(self, keep: int) -> list[int]:
        return [number for number in sorted(self.versions)[:-keep] if number != self.current]

    def _held(self) -> set[int]:
        return {version.number for key, (version, _) in self.pins.items() if key not in self.elsewhere}

    def _prune_leftovers(self) -> None:
        """Prune as the next publisher would after one that was killed after the switch."""
        self.store.prune(KEEP)

    def _forget(self, numbers: list[int]) -> None:
        for number in numbers:
            del self.versions[number]

    def _place(self) -> Path:
        self.count += 1
        return self.inbox / f"night-{self.count}"

    def _tree(self) -> dict[str, bytes | str]:
        return {name: data for name, data in snapshot_of(self.root).items() if name != "journal.jsonl"}


def _struck(place: int, number: signal.Signals, act: Callable[[], object]) -> None:
    """Run ``act``, and send this process a signal at a call that changes the disk."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def at(found: int, _: str, over: bool) -> None:
        if (found, over) == (place, False):
            os.kill(os.getpid(), number)

    watch(at)
    act()


def _padded(vector: bytes, width: int, dimension: int) -> bytes:
    return vector + bytes(4 * (dimension - width))


def _assert_scores_kept(version: Version, made: Night) -> None:
    items, users = made.both
    stable = [version.items.lookup(made.item_ids), version.side("users").lookup(made.user_ids)]
    raw = items.astype(np.float64) @ users.astype(np.float64).T
    error = np.linalg.norm(stable[0].astype(np.float64) @ stable[1].T - raw) / np.linalg.norm(raw)
    assert error < 1e-6


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=6, stateful_step_count=10)


@pytest.mark.torture
class TestStoreForLong(StoreMachine.TestCase):
    """The same machine with more examples and steps."""

    settings = settings(max_examples=300, stateful_step_count=60, derandomize=False)
