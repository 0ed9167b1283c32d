"""Jumps of the clock: versions are ordered by number and by what they were made from, never by time."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import assert_intact
from torture.report import tally

from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store
from embsync.store.locks import exclusive
from embsync.watching.backlog import survey

SIZES = {"items": 40, "users": 36, "width": 4}


@pytest.fixture
def watched() -> Iterator[Path]:
    with quick_directory() as directory:
        for number in range(3):
            write_npy(directory / "watch" / f"day={number}", night(number, **SIZES))
            (directory / "watch" / f"day={number}" / "_SUCCESS").touch()
        yield directory


@pytest.mark.parametrize("jumps", [3, pytest.param(200, marks=pytest.mark.torture)])
def test_the_wall_clock_may_jump_at_any_time(watched: Path, monkeypatch: pytest.MonkeyPatch, jumps: int) -> None:
    """Jumps of years during every publish change neither numbers nor parents nor the backlog."""
    chance, shift = random.Random(3), dt.timedelta()
    real = dt.datetime

    class Jumping(real):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            nonlocal shift
            shift = dt.timedelta(days=chance.randrange(-3_000, 3_000))
            return real.now(tz) + shift

    monkeypatch.setattr(dt, "datetime", Jumping)
    config = configured(watch__path=str(watched / "watch"), store__keep_versions=2)
    root = watched / "S"
    with tally("jumps of the clock", jumps) as counted:
        for turn in range(jumps):
            made = publish_snapshot(Store(root), Request(watched / "watch" / f"day={turn % 3}"), config)
            counted.points += 1
            if (made.version, made.parent) != (turn + 1, turn or None):
                counted.harm("phantom", f"version {made.version} of {made.parent} in turn {turn}")
            if assert_intact(root) != turn + 1:
                counted.harm("torn", f"turn {turn}")
            if turn >= 2 and any(entry.state == "next" for entry in _entries(survey(Store(root), config))):
                counted.harm("phantom", f"a handled night is new in turn {turn}")


def _entries(found: object) -> list[object]:
    return list(getattr(found, "entries", found))


def test_waiting_for_a_lock_is_not_measured_by_the_wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock without a holder is acquired even if the clock was set back."""
    monkeypatch.setattr("time.time", lambda: -1e9)
    with exclusive(tmp_path / "lock", 0.0, "it"):
        pass
