"""The contract of every sink: the test modules of each kind of sink inherit these tests.

A module of tests subclasses :class:`SinkContract`, implements the methods below that raise NotImplementedError, and
names its class ``Test…``::

    class TestPostgresql(SinkContract):
        @pytest.fixture(autouse=True)
        def _place(self, server: Server) -> Iterator[None]:
            self.schema = server.new_schema()
            yield
            server.remove(self.schema)

        def sink(self) -> PostgresqlSink:
            return PostgresqlSink(PostgresqlConfig(name="test", …))

The place must be empty for each test, and one server is shared by all of them (session fixture).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nights import Array

import embsync
from embsync.delivery.rows import label_objects, row_blocks
from embsync.delivery.sink import Sink, fingerprint_of
from embsync.errors import SinkConflict, SinkError, SinkMoved

Stores = Callable[[str], Path]


@dataclass
class ServedSide:
    """One side as readers of a sink see it, ascending by id."""

    ids: list[Any]
    vectors: Array
    live: list[bool]
    ages: list[int]
    #: Of items, by name; None for sinks whose readers find the store's own files.
    labels: list[dict[str, Any]] | None = None


@dataclass
class Served:
    """A version as readers of a sink see it, read as docs/how-to/milvus.md describes, so that no versions are mixed."""

    number: int
    items: ServedSide
    users: ServedSide | None


def side_of(version: embsync.Version, name: str) -> ServedSide:
    """Return a side as a sink must serve it."""
    blocks = list(row_blocks(version, name))
    return ServedSide(
        [id_ for block in blocks for id_ in block.ids.tolist()],
        np.concatenate([block.vectors for block in blocks]),
        [value for block in blocks for value in block.live.tolist()],
        [value for block in blocks for value in block.ages.tolist()],
        [one for block in blocks for one in label_objects(block.labels or {}, len(block))],
    )


def assert_served(served: Served | None, version: embsync.Version) -> None:
    """Assert that readers see exactly this version."""
    assert served is not None
    assert served.number == version.number
    for name in ("items", "users"):
        found, expected = getattr(served, name), None
        if name == "items" or version.users is not None:
            expected = side_of(version, name)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found.ids == expected.ids
            assert found.live == expected.live
            assert found.ages == expected.ages
            if found.labels is not None:
                assert found.labels == expected.labels
            np.testing.assert_array_equal(found.vectors, expected.vectors)


@contextmanager
def pinned(root: Path, number: int | None = None) -> Iterator[embsync.Version]:
    """Pin a version of a store."""
    with ExitStack() as stack:
        reader = stack.enter_context(embsync.open(root))
        yield reader.current if number is None else stack.enter_context(reader.version(number))


def deliver(sink: Sink, version: embsync.Version, expected: int | None = None) -> None:
    """Run all steps of a delivery."""
    sink.check(version)
    sink.stage(version)
    sink.probe(version)
    sink.commit(version.number, expected)


class SinkContract:
    """Tests of any sink."""

    #: Recall that a probe must reach; None for sinks that do not search.
    recall: float | None = 0.95

    def sink(self) -> Sink:
        """Return a new sink for this test's place, as another process or host would open it."""
        raise NotImplementedError

    def served(self) -> Served | None:
        """Return what readers of the place see now, None before the first commit."""
        raise NotImplementedError

    def break_off(self, version: embsync.Version) -> None:
        """Leave a version as if its process died near the end of staging."""
        raise NotImplementedError

    def leave_foreign(self) -> Callable[[], object]:
        """Put similar data of another program next to embsync's; return a function that reads all of it."""
        raise NotImplementedError

    def occupy(self) -> None:
        """Put another program's data in the place, under embsync's names and without its mark."""
        raise NotImplementedError

    def test_a_staged_version_is_invisible_until_committed(self, stores: Stores) -> None:
        """After the commit, readers see exactly the version: ids, vectors, live and carried rows, and ages."""
        sink = self.sink()
        with pinned(stores("plain")) as version:
            sink.check(version)
            assert (sink.generations(), sink.current(), self.served()) == ([], None, None)
            sink.stage(version)
            assert (sink.current(), self.served()) == (None, None)
            probe = sink.probe(version)
            assert (probe.items, probe.users) == (version.record.items.rows, version.record.users.rows)
            sink.commit(version.number, None)
            assert sink.current() == version.number
            assert_served(self.served(), version)
            (found,) = self.sink().generations()
            assert (found.number, found.fingerprint, found.complete) == (3, fingerprint_of(version), True)
            assert (found.space_id, found.created) == (version.space_id, version.record.created)
        sink.close()

    def test_the_probe_reaches_the_target_and_stores_its_parameters(self, stores: Stores) -> None:
        """The search parameters are stored with the generation, where another host finds them."""
        sink = self.sink()
        with pinned(stores("plain")) as version:
            sink.stage(version)
            probe = sink.probe(version)
            if self.recall is None:
                assert (probe.recall, probe.search) == (None, {})
            else:
                assert probe.k == 5
                assert probe.recall is not None
                assert probe.recall >= self.recall
            (found,) = self.sink().generations()
            assert dict(found.search) == dict(probe.search)

    def test_staging_twice_changes_nothing(self, stores: Stores) -> None:
        """A version that is already staged, by this process or another, is not changed."""
        with pinned(stores("plain")) as version:
            self.sink().stage(version)
            before = self.sink().generations()
            self.sink().stage(version)
            assert self.sink().generations() == before
            self.sink().probe(version)

    def test_an_incomplete_generation_is_completed(self, stores: Stores) -> None:
        """It is listed as incomplete, cannot be committed, and is completed by the next run."""
        with pinned(stores("plain")) as version:
            self.break_off(version)
            (half,) = self.sink().generations()
            assert (half.number, half.fingerprint, half.complete) == (3, fingerprint_of(version), False)
            with pytest.raises(SinkError):
                self.sink().commit(3, None)
            assert self.served() is None
            deliver(self.sink(), version)
            assert_served(self.served(), version)

    def test_a_half_made_generation_can_be_dropped(self, stores: Stores) -> None:
        """An incomplete generation that no run will complete can be removed."""
        with pinned(stores("plain")) as version:
            self.break_off(version)
        self.sink().drop(3)
        assert self.sink().generations() == []

    def test_a_stale_publisher_changes_nothing(self, stores: Stores) -> None:
        """A commit that expects another version than readers see fails with ``SinkMoved``."""
        root, first, second = stores("plain"), self.sink(), self.sink()
        for number in (1, 2, 3):
            with pinned(root, number) as version:
                first.stage(version)
        first.commit(1, None)
        assert second.current() == 1
        first.commit(3, 1)
        for expected in (1, None, 2):
            with pytest.raises(SinkMoved):
                second.commit(2, expected)
        assert second.current() == 3
        with pinned(root, 3) as version:
            assert_served(self.served(), version)

    def test_of_two_publishers_at_once_one_wins(self, stores: Stores) -> None:
        """Of two concurrent commits that expect the same version, exactly one succeeds."""
        root = stores("plain")
        with pinned(root, 1) as version:
            deliver(self.sink(), version)
        for number in (2, 3):
            with pinned(root, number) as version:
                self.sink().stage(version)
        for _ in range(3):
            outcomes: list[str] = []
            start = threading.Barrier(2)

            def commit(
                number: int, sink: Sink, start: threading.Barrier = start, outcomes: list[str] = outcomes
            ) -> None:
                start.wait()
                try:
                    sink.commit(number, 1)
                except SinkMoved:
                    outcomes.append("moved")
                else:
                    outcomes.append("won")

            threads = [threading.Thread(target=commit, args=(number, self.sink())) for number in (2, 3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(outcomes) == ["moved", "won"]
            now = self.sink().current()
            self.sink().commit(1, now)

    def test_a_rollback_is_a_commit(self, stores: Stores) -> None:
        """Any host can commit a staged version again, older or newer."""
        root = stores("plain")
        expected = None
        for number in (2, 3, 2, 3, 1):
            with pinned(root, number) as version:
                deliver(self.sink(), version, expected)
                assert_served(self.served(), version)
            expected = number

    def test_readers_see_both_sides_switch_at_once(self, stores: Stores) -> None:
        """Each read sees items, users and number of one version while versions are switched."""
        root = stores("plain")
        sides = {}
        for number in (1, 2):
            with pinned(root, number) as version:
                self.sink().stage(version)
                sides[number] = [side_of(version, name).ids for name in ("items", "users")]
        self.sink().commit(1, None)
        done, looks, mixed = threading.Event(), [0], []

        def look() -> None:
            while not done.is_set() or not looks[0]:
                served = self.served()
                assert served is not None
                assert served.users is not None
                looks[0] += 1
                if [served.items.ids, served.users.ids] != sides[served.number]:
                    mixed.append(served)

        reader = threading.Thread(target=look)
        reader.start()
        sink = self.sink()
        for number, expected in [(2, 1), (1, 2)] * 3:
            sink.commit(number, expected)
        done.set()
        reader.join()
        assert mixed == []

    def test_an_old_generation_is_dropped_and_the_current_one_never(self, stores: Stores) -> None:
        """Dropping a missing generation does nothing."""
        root, sink = stores("plain"), self.sink()
        for number, expected in ((1, None), (2, 1)):
            with pinned(root, number) as version:
                deliver(sink, version, expected)
        with pytest.raises(SinkError):
            sink.drop(2)
        sink.drop(1)
        sink.drop(1)
        assert [found.number for found in self.sink().generations()] == [2]
        with pinned(root, 2) as version:
            assert_served(self.served(), version)

    def test_objects_of_other_programs_are_untouched(self, stores: Stores) -> None:
        """They are not changed by staging, switching or dropping, and not listed."""
        read = self.leave_foreign()
        before = read()
        root, sink = stores("plain"), self.sink()
        for number, expected in ((1, None), (2, 1)):
            with pinned(root, number) as version:
                deliver(sink, version, expected)
        sink.drop(1)
        assert [found.number for found in sink.generations()] == [2]
        assert read() == before

    def test_a_place_made_by_another_program_is_refused(self, stores: Stores) -> None:
        """The check fails with a hint, before any row is written."""
        self.occupy()
        with pinned(stores("plain")) as version, pytest.raises(SinkConflict) as caught:
            self.sink().check(version)
        assert caught.value.hint

    def test_a_version_of_another_store_is_refused(self, stores: Stores) -> None:
        """A version of another store with the same number is a conflict."""
        with pinned(stores("plain")) as version:
            deliver(self.sink(), version)
        with pinned(stores("other")) as stranger, pytest.raises(SinkConflict):
            self.sink().stage(stranger)
        with pinned(stores("plain")) as version:
            assert_served(self.served(), version)

    def test_a_version_that_is_not_staged_cannot_be_committed(self) -> None:
        """The commit fails, and nothing is served."""
        with pytest.raises(SinkError):
            self.sink().commit(7, None)
        assert self.served() is None

    @pytest.mark.parametrize("name", ["named", "one_sided", "new_space", "labelled"])
    def test_every_kind_of_version_is_served(self, name: str, stores: Stores) -> None:
        """It includes string ids, also non-ASCII ones, items without users, a version of a new space, and labels."""
        root, expected = stores(name), None
        with embsync.open(root) as reader:
            newest = reader.current.number
        for number in (newest - 1, newest):
            with pinned(root, number) as version:
                deliver(self.sink(), version, expected)
                assert_served(self.served(), version)
            expected = number
