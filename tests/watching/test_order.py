"""The order of snapshots: nights under names of schedulers and training jobs, and snapshots that must stay old."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support import nights
from support.nights import configured
from support.quick import quick_directory

from embsync.config import Config
from embsync.pipeline.entry import publish_entry
from embsync.snapshots import signature
from embsync.store import Store
from embsync.store.journal import Event
from embsync.watching.backlog import Entry, survey
from embsync.watching.history import snapshot_event
from embsync.watching.series import position

DAY = 86_400.0
NIGHTS = 10
#: The first night: a Saturday near the end of a month, early enough that all nights are before today.
START = dt.datetime(2026, 9, 26, 2, 10, tzinfo=dt.UTC)


class World:
    """A watched directory, a store with only a journal, and a publisher of the next snapshot."""

    def __init__(self, root: Path, **watch: object) -> None:
        self.watch = root / "watch"
        self.store = Store(root / "store")
        self.store.create()
        self.watch.mkdir()
        self.config: Config = configured(
            watch__path=str(self.watch),
            store__path=str(self.store.root),
            watch__settle_seconds=0,
            **{f"watch__{key}": value for key, value in watch.items()},
        )
        self._contents = 0

    def write(self, name: str, when: float) -> Path:
        """Write a snapshot with new contents and the given mtime."""
        folder = self.watch / name
        folder.mkdir(exist_ok=True)
        self._contents += 1
        np.save(folder / "items.npy", np.full((2, 2), self._contents, np.float32))
        np.save(folder / "item_ids.npy", np.arange(2))
        for file in folder.iterdir():
            os.utime(file, (when, when))
        return folder

    def look(self) -> dict[str, Entry]:
        """Survey the directory without saving the order."""
        return {entry.child.name: entry for entry in survey(self.store, self.config).entries}

    def turn(self, outcome: str = "published") -> list[str]:
        """Handle snapshots as the daemon does until the queue is empty; return their names."""
        handled: list[str] = []
        while True:
            found = survey(self.store, self.config)
            found.order.save(self.store)
            if not (queue := found.queue):
                return handled
            self.journal(queue[0].child.path, outcome)
            handled.append(queue[0].child.name)
            assert len(handled) < 50, handled

    def journal(self, path: Path, outcome: str = "published", **changes: str | None) -> None:
        """Journal that a snapshot was handled."""
        snapshot = snapshot_event(
            path.name, path, hashlib.sha256((path / "items.npy").read_bytes()).hexdigest(), signature(path)
        )
        for key, value in changes.items():
            snapshot[key] = value
        version = self.store.next_number() if outcome == "published" else None
        self.store.journal.append(Event(event=outcome, version=version, snapshot=snapshot))


@pytest.fixture
def root() -> Iterator[Path]:
    with quick_directory() as path:
        yield path


@pytest.fixture
def world(root: Path) -> World:
    return World(root)


def hexes(length: int, seed: int) -> Callable[[int, dt.datetime], str]:
    """Return a function that returns names of random hexadecimal digits."""
    drawn = random.Random(seed)
    names = [f"{drawn.getrandbits(4 * length):0{length}x}" for _ in range(NIGHTS)]
    return lambda night, _: names[night]


def form(text: str) -> Callable[[int, dt.datetime], str]:
    """Return a function that formats the date as a name."""
    return lambda _, when: when.strftime(text)


def uuids(prefix: str, seed: int) -> Callable[[int, dt.datetime], str]:
    """Return a function that returns names with a random UUID."""
    drawn = random.Random(seed)
    names = [f"{prefix}{uuid.UUID(int=drawn.getrandbits(128), version=4)}" for _ in range(NIGHTS)]
    return lambda night, _: names[night]


SUFFIXES = random.Random(5)

#: Names of a night's directory under schedulers, trackers and scripts, by number and time.
NAMES: dict[str, Callable[[int, dt.datetime], str]] = {
    "airflow scheduled": form("scheduled__%Y-%m-%dT%H:%M:%S+00:00"),
    "airflow scheduled, then by hand": lambda night, when: when.strftime(
        f"{'manual' if night in {2, 3, 7} else 'scheduled'}__%Y-%m-%dT%H:%M:%S+00:00"
    ),
    "airflow, scheduled for the day before": lambda night, when: (when - dt.timedelta(days=night % 3 != 1)).strftime(
        f"{'manual' if night % 3 == 1 else 'scheduled'}__%Y-%m-%d"
    ),
    "mlflow": hexes(32, 1),
    "mlflow models": lambda night, when: f"m-{hexes(32, 2)(night, when)}",
    "git shas": hexes(7, 3),
    "git shas of digits alone": lambda night, _: str(random.Random(91 + night).randrange(10**6, 10**7)),
    "kubeflow": uuids("recommender-pipeline-", 4),
    "argo": lambda *_: "als-" + "".join(SUFFIXES.choices("bcdfghjklmnpqrstvwxz2456789", k=5)),
    "zenml": form("training_pipeline-%Y_%m_%d-%H_%M_%S_123456"),
    "zenml runs": lambda night, _: str(118 + night),
    "weights and biases": lambda night, when: when.strftime(f"run-%Y%m%d_%H%M%S-{hexes(8, 6)(night, when)}"),
    "spark batches": lambda night, _: f"batch={night}",
    "spark parts": uuids("part-00000-", 7),
    "hive partitions": form("dt=%Y-%m-%d"),
    "dvc": lambda night, when: hashlib.md5(str(night).encode(), usedforsecurity=False).hexdigest() + ".dir",
    "cron": form("model_%Y%m%d_%H%M"),
    "cron, one number": form("%Y%m%d%H%M%S"),
    "epoch seconds": lambda _, when: f"{when.timestamp():.0f}",
    "date and sha": lambda night, when: when.strftime(f"%Y-%m-%d-{hexes(7, 8)(night, when)}"),
    "days": lambda night, _: f"day={night + 5}",
    "days of the month": form("day=%d"),
    "days of the month, yesterday's": lambda _, when: (when - dt.timedelta(days=1)).strftime("day=%d"),
    "semantic versions": lambda night, _: f"v1.{night + 5}",
    "semantic versions, then the next": lambda night, _: f"v1.{night + 8}" if night < 5 else f"v2.{night - 5}",
    "weekdays": form("%A"),
    "numbers of weekdays": form("model-%u"),
    "months": lambda night, _: dt.date(2026, 1 + night, 1).strftime("%B"),
    "days and months": form("%b-%d"),
    "day before month": form("%d-%m-%Y"),
    "day before month, one number": form("als%d%m%Y"),
    "month and day": form("%m%d"),
    "weeks": lambda night, when: (when + dt.timedelta(weeks=night)).strftime("week=%V"),
    "blue and green": lambda night, _: ("blue", "green")[night % 2],
    "green and blue": lambda night, _: ("green", "blue")[night % 2],
    "a and b": lambda night, _: f"model_{'ba'[night % 2]}",
    "two numbers in turn": lambda night, _: f"slot-{2 - night % 2}",
    "nought and one in turn": lambda night, _: f"model.{night % 2}",
    "latest": lambda *_: "latest",
    "one file name with a number": lambda *_: "als64",
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("backlog", ["newest", "every"])
def test_every_night_is_published_without_configuration(root: Path, names: str, backlog: str) -> None:
    """Each of ten nights, trained one after the other, is published exactly once."""
    world = World(root, backlog=backlog)
    for night in range(NIGHTS):
        when = START + dt.timedelta(days=night)
        name = NAMES[names](night, when)
        world.write(name, when.timestamp())
        assert world.turn() == [name], f"night {night + 1}: {world.look()[name].reason}"


@pytest.mark.parametrize(
    "names", ["days", "hive partitions", "cron", "airflow scheduled", "semantic versions", "zenml"]
)
def test_a_retrained_old_day_stays_old(world: World, names: str) -> None:
    """A backfill is reported as changed and newer, with a command that publishes it; the next night is published."""
    named = [NAMES[names](night, START + dt.timedelta(days=night)) for night in range(5)]
    for night, name in enumerate(named[:4]):
        world.write(name, START.timestamp() + night * DAY)
        world.turn()
    for old in named[:2]:
        world.write(old, START.timestamp() + 3.5 * DAY)
    assert world.turn() == []
    entry = world.look()[named[0]]
    assert (entry.state, entry.passed_over) == ("changed", True)
    assert "watch.order: mtime" in entry.reason
    assert "embsync sync " in entry.reason
    world.write(named[4], START.timestamp() + 4 * DAY)
    assert world.turn() == [named[4]]
    assert not world.look()[named[0]].passed_over


def test_an_old_snapshot_that_arrives_late_stays_old(world: World) -> None:
    """A missing day that arrives after later ones is skipped, and reported as newer."""
    for night in (1, 2, 4):
        world.write(f"day={night}", START.timestamp() + night * DAY)
        world.turn()
    world.write("day=3", START.timestamp() + 5 * DAY)
    assert world.turn() == []
    assert (world.look()["day=3"].state, world.look()["day=3"].passed_over) == ("skipped", True)


@pytest.mark.parametrize("order", ["auto", "name", "mtime"])
@pytest.mark.parametrize("how", ["deleted", "half of it gone", "moved away and back", "newest deleted"])
def test_expired_snapshots_do_not_bring_back_older_ones(root: Path, order: str, how: str) -> None:
    """Nothing is published because retention deletes old days, at once or file by file."""
    world = World(root, order=order)
    for night in range(1, 5):
        world.write(f"day={night}", START.timestamp() + night * DAY)
        world.turn()
    if how == "deleted":
        shutil.rmtree(world.watch / "day=1")
    elif how == "half of it gone":
        (world.watch / "day=1" / "item_ids.npy").unlink()
    elif how == "newest deleted":
        shutil.rmtree(world.watch / "day=4")
    else:
        shutil.copytree(world.watch / "day=1", root / "aside")
        shutil.rmtree(world.watch / "day=1")
        (root / "aside").rename(world.watch / "day=1")
    assert world.turn() == []
    if how == "half of it gone":
        assert world.look()["day=1"].state == "changed"
    if how == "moved away and back":
        assert world.look()["day=1"].state == "published"
    assert not any(entry.passed_over for entry in world.look().values())
    world.write("day=5", START.timestamp() + 5 * DAY)
    assert world.turn() == ["day=5"]


@pytest.mark.parametrize("order", ["auto", "name"])
@pytest.mark.parametrize("outcome", ["refused", "failed"])
@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("name", ["experiment-a", "zzz", "day=99", "2031-01-01"])
def test_an_unpublished_snapshot_does_not_make_others_old(
    root: Path, order: str, outcome: str, removed: bool, name: str
) -> None:
    """A refused or ill-formed directory, present or deleted, delays no night, however its name sorts."""
    world = World(root, order=order)
    for night in range(1, 4):
        world.write(f"day={night}", START.timestamp() + night * DAY)
        world.turn()
    stray = world.write(name, START.timestamp() + 3.2 * DAY)
    assert world.turn(outcome) in ([name], [])
    if removed:
        shutil.rmtree(stray)
    for night in range(4, 7):
        world.write(f"day={night}", START.timestamp() + night * DAY)
        assert world.turn() == [f"day={night}"]


def test_a_name_without_a_date_delays_no_dated_snapshot(world: World) -> None:
    """``latest`` is a copy that is rewritten after each night; both are published."""
    for night in range(NIGHTS):
        when = START + dt.timedelta(days=night)
        name = when.strftime("%Y-%m-%d")
        world.write(name, when.timestamp())
        assert world.turn() == [name]
        world.write("latest", when.timestamp() + 60)
        assert world.turn() == ["latest"]


def test_with_order_name_a_snapshot_that_is_passed_over_is_reported(root: Path) -> None:
    """Run ids that sort before the newest one are passed over and reported."""
    world = World(root, order="name")
    world.write("latest", START.timestamp())
    world.turn()
    world.write("2026-10-25", START.timestamp() + DAY)
    assert world.turn() == []
    entry = world.look()["2026-10-25"]
    assert (entry.state, entry.passed_over) == ("skipped", True)
    assert "watch.order: mtime" in entry.reason


@pytest.mark.parametrize("shuffled", range(3))
@pytest.mark.parametrize("names", ["days", "hive partitions", "semantic versions"])
def test_a_history_copied_without_times_is_ordered_by_name(root: Path, names: str, shuffled: int) -> None:
    """``cp -r``, ``git checkout`` and ``untar -m`` write in any order within minutes: the last name is the newest."""
    world = World(root)
    named = [NAMES[names](night, START + dt.timedelta(days=night)) for night in range(NIGHTS)]
    for place, name in enumerate(random.Random(shuffled).sample(named, NIGHTS)):
        world.write(name, START.timestamp() + 20 * DAY + 40 * place)
    assert world.turn() == [named[-1]]
    world.write(NAMES[names](NIGHTS, START + dt.timedelta(days=NIGHTS)), START.timestamp() + 21 * DAY)
    assert len(world.turn()) == 1


def test_two_days_copied_without_times_are_ordered_by_name(root: Path) -> None:
    """The later name was written first, within a minute."""
    world = World(root, backlog="every")
    world.write("day=10", START.timestamp())
    world.write("day=9", START.timestamp() + 30)
    assert world.turn() == ["day=9", "day=10"]


@pytest.mark.parametrize(
    ("name", "dated"),
    [
        ("2026-11-28", True),
        ("2026-11-30", True),
        ("2026-12-02", False),
        ("20261201", False),
        ("2099-12-31", False),
        ("2026-02-30", False),
    ],
)
def test_a_date_far_in_the_future_is_not_a_date(name: str, dated: bool) -> None:
    """A model may be dated tomorrow in any time zone, but not years ahead."""
    found = position(f"day={name}", dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC).timestamp())
    assert (found is not None and found.dated) == dated


def test_equal_times_are_ordered_by_name(root: Path) -> None:
    """If all files of an archive have the same time, such as 1970, natural order applies, also to later ones."""
    world = World(root, backlog="every")
    for name in ("run-b2", "run-10", "run-9"):
        world.write(name, 0.0)
    assert world.turn() == ["run-9", "run-10", "run-b2"]
    world.write("run-c1", 0.0)
    assert world.turn() == ["run-c1"]


def test_a_history_copied_with_times_is_ordered_by_time(world: World) -> None:
    """Of run ids copied by ``rsync -a``, the newest is published, and the others are skipped."""
    names = [NAMES["mlflow"](night, START) for night in range(NIGHTS)]
    for night, name in enumerate(names):
        world.write(name, START.timestamp() + night * DAY)
    assert world.turn() == [names[-1]]


@pytest.mark.parametrize("names", ["days", "hive partitions"])
def test_a_slow_clock_delays_no_snapshot(world: World, names: str) -> None:
    """If the clock of one training machine is three days slow, numbers and dates decide."""
    for night in range(NIGHTS):
        when = START + dt.timedelta(days=night)
        name = NAMES[names](night, when)
        world.write(name, when.timestamp() - 3 * DAY * (night == 6))
        assert world.turn() == [name]


def test_a_fast_clock_delays_no_snapshot(world: World) -> None:
    """A snapshot with a time in the far future counts as written when it was published."""
    world.write("3f", dt.datetime.now(dt.UTC).timestamp() + 4000 * DAY)
    assert world.turn() == ["3f"]
    world.write("1a", dt.datetime.now(dt.UTC).timestamp() + 2)
    assert world.turn() == ["1a"]


def test_whether_numbers_are_an_order_is_decided_once(world: World) -> None:
    """The decision is saved at the third night; neither a rewrite nor a restart nor more nights change it."""
    for night in (1, 2, 3):
        world.write(f"day={night}", START.timestamp() + night * DAY)
        world.turn()
    output = (world.store.root / "order.json").read_bytes()
    assert b'"day=#"' in output
    world.write("day=1", START.timestamp() + 4 * DAY)
    world.write("day=2", START.timestamp() + 5 * DAY)
    assert world.turn() == []
    assert (world.store.root / "order.json").read_bytes() == output


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\x00", b'{"order": "none"}', b"[" * 9999])
def test_a_damaged_order_is_decided_again(world: World, damage: bytes) -> None:
    """The journal decides it, and no old snapshot is published."""
    for night in (1, 2, 3, 4):
        world.write(f"day={night}", START.timestamp() + night * DAY)
        world.turn()
    (world.store.root / "order.json").write_bytes(damage)
    world.write("day=2", START.timestamp() + 5 * DAY)
    assert world.turn() == []
    assert b'"day=#"' in (world.store.root / "order.json").read_bytes()


def test_a_store_of_an_earlier_release_keeps_its_order(root: Path) -> None:
    """An earlier release ordered by name: a newer run id is passed over as before, and reported."""
    world = World(root)
    world.journal(world.write("9f", START.timestamp()), listing=None)
    world.write("3a", START.timestamp() + DAY)
    assert world.turn() == []
    assert world.look()["3a"].passed_over
    world.write("a1", START.timestamp() + 2 * DAY)
    assert world.turn() == ["a1"]
    assert b'"name"' in (world.store.root / "order.json").read_bytes()


def test_a_dry_run_writes_no_order(world: World) -> None:
    """``status``, which any user may run, saves no order."""
    world.write("day=1", START.timestamp())
    world.look()
    assert not (world.store.root / "order.json").exists()


def test_a_replaced_watched_directory_keeps_its_history(root: Path) -> None:
    """If the link is switched to a fresh checkout each night, handled snapshots still count as handled."""
    world = World(root)
    for name in ("one", "two", "three"):
        (root / name).mkdir()
    world.watch.rmdir()
    for tree, days in (("one", [1, 2, 3]), ("two", [1, 2, 3, 4]), ("three", [1, 2, 3])):
        world.watch.unlink(missing_ok=True)
        world.watch.symlink_to(tree)
        for night in days:
            world.write(f"day={night}", START.timestamp() + 100 * night)
        assert world.turn() == {"one": ["day=3"], "two": ["day=4"], "three": []}[tree]


def test_a_lost_journal_line_makes_no_old_snapshot_new(root: Path) -> None:
    """The version's manifest has the mtime of its snapshot, so that snapshots skipped because of it stay skipped."""
    watch = root / "watch"
    config = configured(watch__path=str(watch), store__path=str(root / "store"), watch__settle_seconds=0)
    store = Store(root / "store")
    for names in (("c1",), ("b2", "a3")):
        for name in names:
            nights.write_npy(watch / name, nights.night(int(name[1]), items=60, users=50, width=4))
            for file in (watch / name).iterdir():
                os.utime(file, (START.timestamp() + int(name[1]) * DAY,) * 2)
        (entry,) = survey(store, config).queue
        publish_entry(store, entry, config)
    lines = (store.root / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert b'"a3"' in lines[-1]
    (store.root / "journal.jsonl").write_bytes(b"".join(lines[:-1]))
    assert [entry.child.name for entry in survey(store, config).queue if entry.child.name != "a3"] == []


def test_an_order_decided_by_a_command_is_kept(root: Path) -> None:
    """After a history was copied without times, a second ``sync`` finds nothing new: the first saved the order."""
    watch, store = root / "watch", root / "store"
    for place, number in enumerate((2, 3, 1)):
        folder = nights.write_npy(watch / f"day={number}", nights.night(number, items=60, users=50, width=4))
        for file in folder.iterdir():
            os.utime(file, (START.timestamp() + 40 * place,) * 2)
    settings = root / "c.yaml"
    settings.write_text(f"watch: {{path: {watch}, settle_seconds: 0}}\nstore: {{path: {store}}}\n")
    for _ in range(2):
        output = subprocess.run(
            [sys.executable, "-m", "embsync", "sync", "-c", str(settings)], capture_output=True, text=True, check=False
        )
        assert output.returncode == 0, output.stderr
    assert "nothing new" in output.stdout
    assert Store(store).manifest(1).snapshot.name == "day=3"


@pytest.mark.parametrize("order", ["auto", "name", "mtime"])
def test_a_restored_newest_snapshot_is_new(root: Path, order: str) -> None:
    """An older model that is copied over ``latest`` with its times is published, since nothing comes after it."""
    world = World(root, order=order)
    for when in (START.timestamp(), START.timestamp() - 5 * DAY):
        world.write("latest", when)
        assert world.turn() == ["latest"]
