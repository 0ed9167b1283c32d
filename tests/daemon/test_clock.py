"""The wall clock jumps while a daemon runs; the monotonic clock does not."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from daemons import Place, eventually
from support.nights import night, write_npy
from support.stores import assert_intact
from torture.report import tally
from torture.shim import CLOCK, WallClock, build

import embsync

#: Seconds: the largest jump, as by a wrong time zone, a replaced clock battery or a resumed host.
_FARTHEST = 30 * 3600


@pytest.fixture
def clock(root: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """The wall clock of all processes that the test starts."""
    shim = build(root)
    if shim is None:
        pytest.skip("gcc and the C library's headers are not installed")
    made = WallClock(root / "clock")
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv(CLOCK, str(root / "clock"))
    return made


def ages(found: object, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every age and duration in a document."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from ages(value, key)
    elif isinstance(found, list):
        for value in found:
            yield from ages(value, name)
    elif isinstance(found, int | float) and ("seconds" in name or "age" in name):
        yield name, float(found)


def assert_sane(place: Place) -> None:
    """Assert that no age or duration that the daemon, a command or a version reports is negative."""
    printed = json.loads(place.run("status", "--json").stdout)
    assert not printed["damage"]
    found = [*ages(place.status()), *ages(printed)]
    assert any(name == "age_seconds" for name, _ in found)
    assert [one for one in found if one[1] < 0.0] == []
    with embsync.open(place.store.root) as reader:
        for side in reader.current.sides:
            assert (side.age(side.ids, unit="seconds") >= 0).all()
    lines = (place.store.root / "metrics.prom").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#") and line.split()[-1].startswith("-")] == []


@pytest.mark.parametrize("jumps", [2, pytest.param(60, marks=pytest.mark.torture)])
def test_the_wall_clock_may_jump_while_the_daemon_runs(place: Place, clock: WallClock, jumps: int) -> None:
    """After jumps of hours in both directions, even during a publish, every night is published in order.

    Snapshots are dated by the same clock. Ages are never negative.
    """
    chance, off, names = random.Random(5), [20 * 3600, -20 * 3600], []
    with place.daemon() as process, tally("jumps of a daemon's clock", jumps) as counted:
        for turn in range(jumps):
            shift = off[turn] if turn < len(off) else chance.randrange(-_FARTHEST, _FARTHEST)
            clock.set(shift)
            names.append(f"2026-{1 + turn // 28:02d}-{1 + turn % 28:02d}")
            folder = write_npy(place.watch / names[-1], night(turn, items=60, users=50, width=4))
            for path in folder.iterdir():
                os.utime(path, (time.time() + shift, time.time() + shift))
            (folder / "_SUCCESS").touch()
            if turn % 2 == 1:
                place.at_work(turn + 1)
                clock.set(-shift)
                shift = -shift
            begun = time.monotonic()
            eventually(lambda: len(place.published()) == len(names))
            counted.points += 1
            if place.published() != names:
                counted.harm("phantom", f"{place.published()} after {names}")
            made = datetime.fromisoformat(place.store.manifest(turn + 1).created).timestamp()
            assert turn % 2 == 1 or abs(made - time.time() - shift) < 60.0 + time.monotonic() - begun
            if assert_intact(place.store.root) != turn + 1:
                counted.harm("torn", f"turn {turn}")
        assert clock.asked > 20
        assert process.poll() is None
        clock.set(-10 * _FARTHEST)
        place.wait_looks()
        place.wait_state("idle")
        assert_sane(place)
    assert place.events("failed", "refused") == []
    place.assert_at_rest()
