"""Attempts at a snapshot: how they are counted, when the next snapshot is tried, and what resets the count."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.nights import configured, night, write_npy
from support.quick import quick_directory

from embsync.config import Config
from embsync.daemon import work
from embsync.daemon.attempts import ATTEMPT, Attempts, FailureKind
from embsync.daemon.daemon import Daemon
from embsync.daemon.job import Job, Outcome, OutcomeKind
from embsync.daemon.work import run
from embsync.errors import StoreError
from embsync.store import Store
from embsync.watching.backlog import Entry
from embsync.watching.discovery import Child


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory for a store."""
    with quick_directory() as directory:
        Store(directory / "S").create()
        yield directory / "S"


def entry(name: str = "day=1", stamp: str = "a") -> Entry:
    """Return a snapshot in the queue."""
    return Entry(Child(name, Path(name), "ready", "marker", stamp, 0), "next", "marker")


def tried(attempts: Attempts, one: Entry, why: FailureKind, times: int) -> None:
    """Begin an attempt and let it fail, this number of times."""
    for _ in range(times):
        attempts.begin(one)
        attempts.record_failure(one, 0.0, 1.0, why)
        attempts.record_end(one)


# the count


@pytest.mark.parametrize(("why", "most"), [("crashes", 3), ("unreadable", 10), ("errors", None)])
def test_a_snapshot_is_set_aside_after_the_last_attempt(root: Path, why: FailureKind, most: int | None) -> None:
    """A snapshot is set aside after three crashes or ten failed reads, and never because of other errors."""
    attempts = Attempts(root)
    if most is None:
        tried(attempts, entry(), why, 200)
        assert attempts.of(entry()).exhausted is None
        return
    tried(attempts, entry(), why, most - 1)
    assert attempts.of(entry()).exhausted is None
    tried(attempts, entry(), why, 1)
    assert str(most) in (attempts.of(entry()).exhausted or "")


def test_a_snapshot_that_kills_the_daemon_thirty_times_is_set_aside(root: Path) -> None:
    """Attempts that began and never ended are counted when the next daemon starts."""
    for died in range(30):
        attempts = Attempts(root)
        attempts.load()
        assert attempts.of(entry()).exhausted is None, died
        attempts.begin(entry())
    attempts = Attempts(root)
    attempts.load()
    assert "30" in (attempts.of(entry()).exhausted or "")


@pytest.mark.parametrize("why", ["crashes", "unreadable", "errors"])
def test_a_completed_attempt_is_not_counted_as_a_crash(root: Path, why: FailureKind) -> None:
    """An attempt whose end was recorded is not a death of the daemon, nor is an orderly stop during one."""
    for _ in range(40):
        attempts = Attempts(root)
        attempts.load()
        attempts.begin(entry())
        attempts.record_end(entry())
    assert not (root / ATTEMPT).exists()
    tried(attempts, entry(), why, 2)
    again = Attempts(root)
    again.load()
    assert (again.of(entry()).lost, again.of(entry()).failures) == (0, 2)


@pytest.mark.parametrize("why", ["crashes", "unreadable", "errors"])
@pytest.mark.parametrize("other", [entry(stamp="b"), entry("day=2")], ids=["contents", "name"])
def test_a_new_snapshot_restarts_the_count_of_attempts(root: Path, why: FailureKind, other: Entry) -> None:
    """Changed contents or another snapshot start with no attempts and no pause, in this daemon and the next."""
    attempts = Attempts(root)
    tried(attempts, entry(), why, 2)
    for memory in (attempts, Attempts(root)):
        memory.load()
        assert (memory.of(other).failures, memory.of(other).exhausted) == (0, None)
        assert memory.due(other, 0.0)
    assert not attempts.due(entry(), 0.0)
    tried(attempts, other, why, 1)
    assert attempts.of(other).failures == 1


def test_success_resets_the_count(root: Path) -> None:
    """A snapshot that failed twice and was then handled has no attempts when it is queued again, and no pause."""
    attempts = Attempts(root)
    tried(attempts, entry(), "crashes", 2)
    attempts.forget()
    assert attempts.due(entry(), 0.0)
    for memory in (attempts, Attempts(root)):
        memory.load()
        assert memory.of(entry()).failures == 0
    tried(attempts, entry(), "crashes", 2)
    assert attempts.of(entry()).exhausted is None


def test_pauses_double_up_to_ten_minutes(root: Path) -> None:
    """Pauses are 1, 2, 4, … rescan intervals; an interval above ten minutes is the pause itself."""
    attempts = Attempts(root)
    pauses = []
    for _ in range(12):
        attempts.record_failure(entry(), 100.0, 2.0, "errors")
        pauses.append(attempts.not_before - 100.0)
    assert pauses == [min(2.0 * 2**tries, 600.0) for tries in range(12)]
    attempts.forget()
    for _ in range(3):
        attempts.record_failure(entry(), 0.0, 5000.0, "errors")
        assert attempts.not_before == 5000.0


# which snapshot is tried next


def test_after_ten_errors_the_next_snapshot_is_tried_once(root: Path) -> None:
    """It is tried after each attempt, during the pause of the first snapshot, which stays first in the queue."""
    attempts = Attempts(root)
    queue = [entry(), entry("day=2"), entry("day=3")]
    for errors in range(1, 15):
        attempts.not_before = 0.0
        assert attempts.choose(queue, 0.0) is queue[0]
        tried(attempts, queue[0], "errors", 1)
        assert attempts.choose(queue, 0.0) is (queue[1] if errors >= 10 else None)
        assert attempts.choose(queue[:1], 0.0) is None
    assert attempts.choose([], 0.0) is None


@pytest.mark.parametrize("why", ["crashes", "unreadable"])
def test_no_snapshot_overtakes_one_that_will_be_set_aside(root: Path, why: FailureKind) -> None:
    """The next snapshot is handled only after the first was set aside."""
    attempts = Attempts(root)
    queue = [entry(), entry("day=2")]
    tried(attempts, queue[0], why, 2)
    assert attempts.choose(queue, 0.0) is None
    assert attempts.choose(queue, 1e9) is queue[0]


# the daemon


class Watched:
    """A daemon that is not started, on a real directory and a real store."""

    def __init__(self, root: Path) -> None:
        self.path = root.parent / "watch"
        self.path.mkdir()
        self.options: dict[str, Any] = {
            "watch__path": str(self.path),
            "store__path": str(root),
            "watch__backlog": "every",
            "watch__complete": "marker",
        }
        for number in (1, 2):
            (write_npy(self.path / f"day={number}", night(number, items=60, users=50, width=4)) / "_SUCCESS").touch()
        self.daemon = Daemon(self._load)
        self.store = Store(root)

    def _load(self) -> Config:
        return configured(**self.options)

    def look(self) -> list[str]:
        """Scan the directory; return the names in the queue."""
        self.daemon._scanner.scan(0.0)
        return [one.child.name for one in self.daemon._scanner.queue]

    def end(self, kind: OutcomeKind, **options: Any) -> None:
        """Record an outcome of the first snapshot in the queue."""
        one = self.daemon._scanner.queue[0]
        self.daemon._attempts.begin(one)
        self.daemon._handle_outcome(one, Outcome(kind, "something", **options), 0.0)

    def aside(self) -> list[str]:
        """Return the snapshots that were set aside."""
        return [
            (event.snapshot or {})["name"] or ""
            for event in self.store.journal.events()
            if event.event == "failed" and "set aside" in (event.reason or "")
        ]


@pytest.fixture
def watched(root: Path) -> Iterator[Watched]:
    """Two snapshots in the queue."""
    found = Watched(root)
    yield found
    found.daemon._scanner.close()


@pytest.mark.parametrize(
    ("outcome", "times"),
    [
        ({"kind": "crashed"}, 3),
        ({"kind": "crashed", "of_snapshot": True}, 3),
        ({"kind": "error", "of_snapshot": True}, 10),
        ({"kind": "error"}, None),
    ],
)
def test_the_next_snapshot_is_tried_when_one_is_set_aside(
    watched: Watched, outcome: dict[str, Any], times: int | None
) -> None:
    """A snapshot that was set aside is journaled once, and not handled again until it changes."""
    assert watched.look() == ["day=1", "day=2"]
    for attempt in range(1, (times or 40) + 1):
        assert watched.aside() == []
        watched.end(**outcome)
        assert watched.look() == (["day=2"] if attempt == times else ["day=1", "day=2"])
    assert watched.aside() == (["day=1"] if times else [])
    assert (watched.store.root / ATTEMPT).exists() == (times is None)
    if times:
        (watched.path / "day=1" / "more").touch()
        (watched.path / "day=1" / "_SUCCESS").touch()
        assert sorted(watched.look()) == ["day=1", "day=2"]


def test_a_snapshot_that_killed_thirty_daemons_is_set_aside(watched: Watched) -> None:
    """The snapshot is set aside without another attempt."""
    watched.look()
    for _ in range(30):
        watched.daemon._attempts.load()
        watched.daemon._attempts.begin(watched.daemon._scanner.queue[0])
    watched.daemon._attempts.load()
    watched.daemon._begin(0.0)
    assert watched.aside() == ["day=1"]
    assert watched.look() == ["day=2"]
    assert watched.daemon._worker.job is None


@pytest.mark.parametrize("kind", ["published", "refused", "failed", "unchanged"])
def test_any_final_outcome_resets_the_attempts(watched: Watched, kind: OutcomeKind) -> None:
    """After two crashes and any final outcome, no attempts remain, on disk or in memory."""
    watched.look()
    for _ in range(2):
        watched.end("crashed")
    one = watched.daemon._scanner.queue[0]
    assert watched.daemon._attempts.of(one).failures == 2
    watched.end(kind)
    assert watched.daemon._attempts.of(one).failures == 0
    assert watched.daemon._attempts.due(one, 0.0)
    assert not (watched.store.root / ATTEMPT).exists()


@pytest.mark.parametrize("kind", ["error", "failed"])
def test_the_parts_of_an_error_are_log_fields(
    watched: Watched, kind: OutcomeKind, caplog: pytest.LogCaptureFixture
) -> None:
    """They are also in status.json, so that nothing has to parse the message."""
    details = {"found": "1 row", "expected": "2 rows", "hint": "write it again"}
    watched.look()
    with caplog.at_level("INFO", "embsync"):
        watched.end(kind, details=details)
    problem = watched.daemon._problems.latest
    assert problem is not None
    assert (problem.found, problem.expected, problem.hint) == tuple(details.values())
    (line,) = [record for record in caplog.records if record.message == kind]
    assert details.items() <= vars(line)["embsync_fields"].items()


def test_the_parts_of_an_error_reach_the_daemon(watched: Watched) -> None:
    """The outcome of a job has the error's own parts."""
    (watched.path / "day=1" / "items.npy").write_bytes(b"no array")
    (watched.path / "day=1" / "_SUCCESS").touch()
    watched.look()
    entry = next(one for one in watched.daemon._scanner.queue if one.child.name == "day=1")
    outcome = run(Job(watched.store.root, watched.daemon._config, entry), lambda _: None)
    assert outcome.kind == "failed"
    assert outcome.details["found"] in outcome.what
    assert outcome.details["expected"] in outcome.what


@pytest.mark.parametrize(
    ("cause", "kind"),
    [(MemoryError(), "crashed"), (OSError(errno.ENOMEM, "no"), "crashed"), (OSError(errno.EIO, "no"), "error")],
)
def test_a_lack_of_memory_counts_as_a_crash_in_any_form(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, cause: Exception, kind: OutcomeKind
) -> None:
    """It is caused by the snapshot and counts as a crash; another error of the system does not."""

    def fail(*_: object) -> None:
        try:
            raise cause
        except Exception as error:
            try:
                raise StoreError("one thing") from error
            except StoreError as second:
                raise StoreError("another") from second

    monkeypatch.setattr(work, "publish_entry", fail)
    watched.look()
    job = Job(watched.store.root, watched.daemon._config, watched.daemon._scanner.queue[0])
    assert run(job, lambda _: None).kind == kind


def test_a_crash_leaves_no_staging_directory(watched: Watched) -> None:
    """It is removed when the crash is noticed, and not only by the next publish."""
    watched.look()
    for number in range(2):
        (watched.store.versions / f".staging-1-{number:08x}").mkdir()
        watched.end("crashed")
        assert list(watched.store.versions.iterdir()) == []


def test_a_reload_retries_at_once(watched: Watched) -> None:
    """The pause does not apply after a reload; attempts are still counted."""
    watched.look()
    for _ in range(5):
        watched.end("error")
    one = watched.daemon._scanner.queue[0]
    assert watched.daemon._attempts.choose([one], 1.0) is None
    watched.daemon._reload()
    assert watched.daemon._attempts.choose([one], 0.0) is one
    assert watched.daemon._attempts.of(one).errors == 5


def test_a_reload_with_another_store_changes_nothing(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """``store.path`` needs a restart: nothing else in that file takes effect, and the error says so."""
    watched.look()
    before = watched.daemon._config, watched.daemon._scanner
    other = watched.path.parent / "other"
    other.mkdir()
    for path in (str(watched.store.root) + "2", str(watched.store.root.parent / "elsewhere" / "S")):
        watched.options |= {
            "store__path": path,
            "watch__path": str(other),
            "threads": 2,
            "log__level": "error",
            "watch__rescan_seconds": 1.0,
            "store__keep_versions": 1,
            "store__on_publish": "true",
        }
        watched.daemon._reload()
        assert (watched.daemon._config, watched.daemon._scanner) == before
        reported = vars(caplog.records[-1])["embsync_fields"]["reason"]
        assert caplog.records[-1].getMessage() == "reload_failed"
        assert "restart" in reported
        assert path in reported
    assert watched.look() == ["day=1", "day=2"]
    assert list(other.iterdir()) == []
    watched.options |= {"store__path": os.path.relpath(watched.store.root)}
    watched.daemon._reload()
    assert watched.daemon._config.watch.path == str(other)
