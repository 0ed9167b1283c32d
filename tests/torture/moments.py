"""Send signals at random moments to a process that runs one command after the other and reports each that is done.

Run as a program, as ``points.py`` is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from torture.report import Tally
from torture.scenarios import CONFIG, SCENARIOS, Bench, Scenario, examine

from embsync.errors import EmbsyncError
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.relabel import relabel
from embsync.pipeline.widen import widen
from embsync.store import Store
from embsync.store.contents import PUBLISHES
from embsync.store.hold import hold, resume

#: Seconds after which a signal without effect is sent again.
_PATIENCE = 5.0
_ANY = Scenario("any command", "two", lambda _: None, frozenset(range(1, 10_000)))


def _commands(root: Path, snapshots: Path, chance: random.Random) -> dict[str, Callable[[], int | bool]]:
    """Return the commands; those that make a version current return its number."""
    store = Store(root)
    night = snapshots / f"night-{chance.randrange(4)}"
    return {
        "publish": lambda: publish_snapshot(store, Request(night), CONFIG).version,
        "new space": lambda: publish_snapshot(store, Request(night, new_space=True), CONFIG).version,
        "rollback": lambda: store.rollback(chance.choice(store.numbers()))[1],
        "widen": lambda: widen(store, store.manifest(store.current() or 0).dimension + 1, CONFIG).version,
        "relabel": lambda: relabel(store, snapshots / "labels.csv", CONFIG).version,
        "hold": lambda: hold(store),
        "resume": lambda: resume(store),
    }


def live(root: Path, snapshots: Path, seed: int, reported: int) -> None:
    """Run commands forever; write when each was completed and which version is then current."""
    chance = random.Random(seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _one_after_the_other(root, snapshots, chance, reported)
    finally:
        os._exit(1)


def _one_after_the_other(root: Path, snapshots: Path, chance: random.Random, reported: int) -> None:
    while True:
        commands = _commands(root, snapshots, chance)
        name = chance.choices(list(commands), [5, 1, 2, 1, 1, 1, 1])[0]
        try:
            version = commands[name]()
        except EmbsyncError:  # refused, or nothing to return to: not acknowledged
            continue
        if not isinstance(version, bool):
            os.write(reported, f"{time.monotonic()} {version}\n".encode())


def begun(bench: Bench, seed: int) -> tuple[int, int]:
    """Start a process that runs commands; return its process id and the reading end of its output."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        live(bench.root, bench.directory, seed, writer)
    os.close(writer)
    return child, reader


def acknowledged(reader: int, until: float) -> list[int]:
    """Return the versions that were acknowledged before a moment."""
    with open(reader, "rb") as lines:
        reported = [line.split() for line in lines]
    return [int(version) for at, version in reported if float(at) < until]


def main(directory: Path, most: int, seed: int, output: Path) -> None:
    """Try moments and write the tally."""
    tally, chance, bench = Tally("moments"), random.Random(seed), Bench(directory)
    bench.fresh(SCENARIOS["publish"])
    for turn in range(most):
        child, reader = begun(bench, seed + turn)
        time.sleep(chance.uniform(0.0, 0.5))
        number = chance.choice((signal.SIGKILL, signal.SIGINT, signal.SIGTERM))
        _end(child, number)
        check(bench, tally, f"{number.name} in turn {turn}", acknowledged(reader, time.monotonic()))
        if turn % 50 == 49:  # a small store again, with few dimensions
            bench.fresh(SCENARIOS["publish"])
    output.write_text(json.dumps(dataclasses.asdict(tally)))


def _end(child: int, number: signal.Signals) -> None:
    """Send the signal until the process has ended, as a user at a keyboard would.

    Python drops an interrupt that arrives while it runs a finalizer or the hooks of a fork.
    """
    while True:
        os.kill(child, number)
        again = time.monotonic() + _PATIENCE
        while time.monotonic() < again:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            time.sleep(0.001)


def check(bench: Bench, tally: Tally, point: str, reported: list[int]) -> None:
    """Examine the store; the version that was acknowledged last is in the journal, and it or a later one is current."""
    store = Store(bench.root)
    examine(bench, _ANY, tally, point, done=False, follow=False)
    if not reported:
        return
    moves = {*PUBLISHES, "rolled_back"}
    known = [event.version for event in store.journal.events() if event.event in moves]
    if reported[-1] not in known:
        tally.harm("lost", f"{point}: version {reported[-1]} was acknowledged")
    elif store.current() not in known[len(known) - 1 - known[::-1].index(reported[-1]) :]:
        tally.harm("lost", f"{point}: {reported[-1]} was acknowledged, {store.current()} is current")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
