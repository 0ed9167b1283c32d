"""Make calls of the C library fail, be short or falsely succeed, at each point of each command, in forked children.

Run as a program, as ``points.py`` is; it builds ``shim.c`` and restarts itself with ``LD_PRELOAD``.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import os
import random
import sys
from pathlib import Path

from torture.report import Tally
from torture.scenarios import SCENARIOS, Bench, Scenario, examine, forked
from torture.shim import build

_FAIL, _SHORT, _LIE = range(3)
_EVER = 10**9
#: Mode, errno, and the number of affected calls in a row.
WAYS = (
    (_FAIL, errno.EIO, 1),
    (_FAIL, errno.ENOSPC, 1),
    (_FAIL, errno.EIO, 3),
    (_FAIL, errno.ENOSPC, _EVER),
    (_FAIL, errno.EIO, _EVER),
    (_FAIL, errno.EDQUOT, 2),
    (_FAIL, errno.EINTR, 1),
    (_FAIL, errno.ENOMEM, 1),
    (_SHORT, errno.EIO, 1),
    (_SHORT, errno.EINTR, 1),
    (_SHORT, errno.ENOSPC, 3),
    (_LIE, 0, 1),
)
_SHIM = "EMBSYNC_TEST_SHIM"


def load_shim(directory: Path) -> ctypes.CDLL:
    """Return the shim; if it is not loaded yet, build it and restart this program with it."""
    if built := os.environ.get(_SHIM):
        return ctypes.CDLL(built)
    made = build(directory)
    if made is None:
        print("the C library's headers are not installed")
        sys.exit(77)
    built = str(made)
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, _SHIM: built, "LD_PRELOAD": built})
    raise AssertionError  # never reached


def strike(bench: Bench, shim: ctypes.CDLL, scenario: Scenario, point: int, way: tuple[int, int, int]) -> int:
    """Run a command whose calls on its store go wrong from a given one on; return how it ended."""
    root = bench.fresh(scenario)
    how, error, many = way

    def work() -> None:
        shim.shim_arm(str(root).encode(), how, error, ctypes.c_long(point), ctypes.c_long(many))
        try:
            scenario.act(root)
        finally:
            shim.shim_disarm()

    return forked(work)


def count(bench: Bench, shim: ctypes.CDLL, scenario: Scenario) -> int:
    """Return the number of a command's calls on its store."""
    root, log = bench.fresh(scenario), bench.directory / "calls"

    def work() -> None:
        shim.shim_arm(str(root).encode(), _FAIL, 0, ctypes.c_long(_EVER), ctypes.c_long(1))
        scenario.act(root)
        shim.shim_disarm()
        log.write_text(str(shim.shim_counted()))

    assert forked(work) == 0, scenario.name
    return int(log.read_text())


def main(directory: Path, most: int, seed: int, output: Path) -> None:
    """Try points and write the tally."""
    shim = load_shim(directory)
    tally, chance, bench = Tally("failing"), random.Random(seed), Bench(directory)
    points = [
        (scenario, place, way)
        for scenario in SCENARIOS.values()
        for place in range(count(bench, shim, scenario))
        for way in WAYS
    ]
    chosen = points * (most // len(points)) + chance.sample(points, most % len(points))
    for turn, (scenario, place, way) in enumerate(chosen):
        code = strike(bench, shim, scenario, place, way)
        kind = ("failing", "short", "lying")[way[0]]
        point = f"{kind} with {errno.errorcode.get(way[1])}, {way[2]} from call {place}"
        if code not in {0, 1}:
            tally.harm("unrepaired", f"{scenario.name}: {point}: ended with {code}")
        examine(bench, scenario, tally, point, done=code == 0, follow=turn % 8 == 0)
    output.write_text(json.dumps(dataclasses.asdict(tally)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
