"""Two writers, a daemon and commands that prune, roll back, hold, resume and widen, beside readers of every kind.

``EMBSYNC_CONCURRENCY_SECONDS`` is the duration of the long run (600).
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import assert_intact, sync
from support.waiting import PATIENCE
from torture.report import Tally, tally

import embsync
from embsync.errors import EmbsyncError
from embsync.reader import Version
from embsync.store import Store

SECONDS = float(os.environ.get("EMBSYNC_CONCURRENCY_SECONDS", "600"))
SIZES = {"items": 100, "users": 80, "width": 6}
#: Exit codes during concurrent work: success, not found (6), a lock timeout or a deleted version (5). Neither wrong
#: usage (2) nor an unexpected error (1) may occur.
ALLOWED = {0, 5, 6}


@pytest.fixture
def place() -> Iterator[Path]:
    """A store, snapshots for its writers, a watched directory and a configuration."""
    with quick_directory() as directory:
        (directory / "watched").mkdir()
        settings = {
            "watch": {"path": str(directory / "watched"), "rescan_seconds": 1, "complete": "marker"},
            "store": {"path": str(directory / "S"), "keep_versions": 3},
        }
        (directory / "embsync.yaml").write_text(yaml.safe_dump(settings))
        for number in range(5):
            write_npy(directory / f"snapshots/n{number}", night(number, **SIZES))
        sync(directory / "S", night(0, **SIZES), "n0", configured(store__keep_versions=3))
        yield directory


class Crowd:
    """All concurrent activities, and the harm they did."""

    def __init__(self, place: Path, made: Tally) -> None:
        self.place, self.root, self.made = place, place / "S", made
        self.stop = threading.Event()
        self.did: Counter[str] = Counter()
        self.lock = threading.Lock()

    def harm(self, kind: str, what: str) -> None:
        """Record a harm."""
        with self.lock:
            self.made.harm(kind, what)

    def command(self, *arguments: str) -> None:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "embsync", *arguments, "--config", str(self.place / "embsync.yaml")],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        if done.returncode not in ALLOWED or "Traceback" in done.stderr:
            self.harm("unrepaired", f"{arguments}: {done.returncode} {done.stderr[-500:]}")
        self.did[arguments[0] if done.returncode == 0 else f"{arguments[0]} failed"] += 1

    def write(self, chance: random.Random) -> None:
        """Publish a snapshot."""
        self.command("sync", str(self.place / f"snapshots/n{chance.randrange(5)}"))

    def drop(self, chance: random.Random) -> None:
        """Write a snapshot for the daemon."""
        name = f"day={self.did['dropped'] + 1:05d}"
        path = write_npy(self.place / "watched" / name, night(chance.randrange(5), **SIZES))
        (path / "_SUCCESS").touch()
        self.did["dropped"] += 1
        self.stop.wait(1)

    def change(self, chance: random.Random) -> None:
        """Prune, roll back, hold and resume."""
        self.command(*chance.choice([("prune",), ("rollback",), ("hold", "--reason", "torture"), ("resume",)]))
        if chance.random() < 0.3:
            self.command("resume")

    def widen(self, chance: random.Random) -> None:
        """Widen the space every few seconds."""
        with embsync.open(self.root) as reader:
            dimension = reader.current.record.dimension
        if dimension < 40:
            self.command("widen", str(dimension + chance.randrange(1, 3)))
        self.stop.wait(5)

    def ask(self, chance: random.Random) -> None:
        """Run a command that opens the store and exits."""
        self.command(
            *chance.choice([("status",), ("search", "--user", "2007", "-k", "2"), ("history",), ("show",)]), "--json"
        )

    def refresh(self, _: random.Random) -> None:
        """Read repeatedly with a reader that is refreshed."""
        with embsync.open(self.root) as reader:
            for _ in range(50):
                reader.refresh()
                self.read(reader.current)

    def follow(self, _: random.Random) -> None:
        """Read with a reader that follows."""
        with embsync.open(self.root) as reader:
            reader.follow(interval=0.01, on_error=lambda error: self.harm("torn", f"followed: {error}"))
            for _ in range(100):
                self.read(reader.current)
                self.stop.wait(0.005)

    def read(self, version: Version) -> None:
        """Read a version and check that its parts belong together."""
        try:
            assert version.users is not None
            assert version.lineage[-1] == version.number == version.record.version
            assert version.items.vectors.shape[1] == version.users.vectors.shape[1] == version.record.dimension
            ids, scores = version.search(version.users.vectors[:2], k=3)
            np.testing.assert_allclose(version.items.lookup(ids[0]) @ version.users.vectors[0], scores[0], atol=1e-4)
        except (AssertionError, EmbsyncError) as error:
            self.harm("torn", f"version {version.number}: {error}")
        self.did["reads"] += 1

    def keep_on(self, deed: Callable[[random.Random], None], seed: int) -> None:
        """Repeat an activity until the end."""
        chance = random.Random(seed)
        while not self.stop.is_set():
            try:
                deed(chance)
            except Exception as error:
                self.harm("torn", f"{deed.__name__}: {error!r}")


def acknowledged(root: Path) -> tuple[set[int], set[int]]:
    """Return the published and the pruned versions in the journal."""
    events = list(Store(root).journal.events())
    return (
        {event.version or 0 for event in events if event.event in ("published", "widened")},
        {event.version or 0 for event in events if event.event == "pruned"},
    )


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("seconds", [5.0, pytest.param(SECONDS, marks=pytest.mark.torture)])
def test_writers_daemon_and_readers_run_at_once(place: Path, seconds: float) -> None:
    """Nothing is torn, lost, phantom or unrepaired: versions are intact, and published ones exist or were pruned."""
    root = place / "S"
    with tally("concurrency", least=int(3 * seconds)) as made, contextlib.ExitStack() as stack:
        crowd = Crowd(place, made)
        log = stack.enter_context((place / "run.log").open("w"))
        daemon = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "embsync", "run", "--config", str(place / "embsync.yaml")],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        )
        stack.callback(daemon.kill)
        deeds = [
            crowd.write,
            crowd.write,
            crowd.drop,
            crowd.change,
            crowd.widen,
            crowd.ask,
            crowd.refresh,
            crowd.follow,
        ]
        threads = [threading.Thread(target=crowd.keep_on, args=(deed, seed)) for seed, deed in enumerate(deeds)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        crowd.stop.set()
        for thread in threads:
            thread.join(120)
        if daemon.poll() is not None:
            crowd.harm("unrepaired", f"the daemon ended: {daemon.returncode}")
        daemon.terminate()
        daemon.wait(PATIENCE)
        made.points = sum(crowd.did.values())
        print(f"\n{dict(crowd.did)}")
        if "Traceback" in (place / "run.log").read_text():
            crowd.harm("unrepaired", (place / "run.log").read_text()[-2000:])
        crowd.command("resume")
        crowd.command("sync", str(place / "snapshots/n0"))
        for number in Store(root).numbers():
            if damaged := Store(root).damaged_files(number):
                crowd.harm("torn", f"version {number}: {damaged}")
        published, pruned = acknowledged(root)
        there = set(Store(root).numbers())
        if gone := published - there - pruned:
            crowd.harm("lost", f"published and not there, nor pruned: {sorted(gone)[:10]} of {len(published)}")
        if left := [path.name for path in (root / "versions").iterdir() if not path.name.isdigit()]:
            crowd.harm("unrepaired", f"left behind: {left}")
        assert_intact(root)
