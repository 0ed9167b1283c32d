"""Kill, interrupt or terminate every command before and after each call that changes the disk, in forked children.

Run as a program, with one thread, so that forking is safe: ``points.py DIRECTORY MOST SEED OUTPUT``. Tries at most MOST
points, all of them or a seeded sample, and writes a tally to the file OUTPUT.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture.report import Tally
from torture.scenarios import SCENARIOS, Bench, Scenario, examine, forked

CALLS = (
    "open",
    "mkdir",
    "posix_fallocate",
    "write",
    "fsync",
    "fdatasync",
    "ftruncate",
    "close",
    "rename",
    "replace",
    "symlink",
    "unlink",
    "rmdir",
    "chmod",
)
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
_STORE = f"embsync{os.sep}"


def watch(at: Callable[[int, str, bool], None]) -> None:
    """Call ``at`` before and after each call from ``embsync.store``, with number, name and whether the call is over."""
    counted = 0

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal counted
            if not _from_store():
                return real(*arguments, **options)
            number, counted = counted, counted + 1
            at(number, name, False)
            try:
                return real(*arguments, **options)
            finally:
                at(number, name, True)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))


def _from_store() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if f"{os.sep}embsync{os.sep}store{os.sep}" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def count(bench: Bench, scenario: Scenario) -> list[str]:
    """Return the names of the calls of an undisturbed run."""
    log = bench.directory / "calls"
    root = bench.fresh(scenario)

    def work() -> None:
        names: list[str] = []
        watch(lambda _, name, over: None if over else names.append(name))
        scenario.act(root)
        log.write_text(" ".join(names))

    assert forked(work) == 0, scenario.name
    return log.read_text().split()


def strike(bench: Bench, scenario: Scenario, point: int, over: bool, number: signal.Signals) -> int:
    """Run a command and send it a signal before or after a call; return how it ended."""
    root = bench.fresh(scenario)

    def work() -> None:
        def at(found: int, _: str, ended: bool) -> None:
            if (found, ended) == (point, over):
                os.kill(os.getpid(), number)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        watch(at)
        scenario.act(root)

    return forked(work)


def main(directory: Path, most: int, seed: int, output: Path) -> None:
    """Try points and write the tally."""
    tally, chance, bench = Tally("points"), random.Random(seed), Bench(directory)
    points = [
        (scenario, place, name, over, number)
        for scenario in SCENARIOS.values()
        for place, name in enumerate(count(bench, scenario))
        for over in (False, True)
        for number in SIGNALS
    ]
    chosen = points * (most // len(points)) + chance.sample(points, most % len(points))
    for turn, (scenario, place, name, over, number) in enumerate(chosen):
        code = strike(bench, scenario, place, over, number)
        point = f"{number.name} {'after' if over else 'before'} {name} number {place}"
        if code not in {0, -number, number}:
            tally.harm("unrepaired", f"{scenario.name}: {point}: ended with {code}")
        examine(bench, scenario, tally, point, done=code == 0, follow=turn % 8 == 0)
    output.write_text(json.dumps(dataclasses.asdict(tally)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
