"""SIGKILL at random moments, and long runs: short by default, long in ``make torture``."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from daemons import PATIENCE, RESCAN, Place, eventually
from support.goodbooks import DAYS, needs_goodbooks, read_day
from support.nights import night
from support.stores import assert_intact

LONG = pytest.mark.torture


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=[LONG, pytest.mark.timeout(3000)])])
def test_kill_9_at_random_moments_loses_nothing(place: Place, kills: int) -> None:
    """Snapshots that arrive while the daemon is killed again and again are each published once, in order."""
    moments = random.Random(20)
    place.configure(store={"keep_versions": 3})
    number = 0
    for _ in range(kills):
        with place.daemon() as process:
            number += 1
            arriving = threading.Timer(moments.uniform(0.0, 0.8), place.drop, (number,))
            arriving.start()
            time.sleep(moments.uniform(0.3, 2.2))
            process.send_signal(moments.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
            process.wait()
            arriving.join()
        if place.published():
            assert_intact(place.store.root)
        assert set(place.published()) <= {f"day={day}" for day in range(1, number + 1)}
        assert not place.events("failed")
    with place.daemon():
        place.wait_for(*range(1, number + 1), seconds=PATIENCE + 3 * number)  # on a busy machine, most are left
        place.wait_state("idle")
    assert place.published() == [f"day={day}" for day in range(1, number + 1)]
    place.assert_at_rest()


@pytest.mark.parametrize("count", [5, pytest.param(500, marks=[LONG, pytest.mark.timeout(3000)])])
def test_memory_does_not_grow_over_a_long_run(root: Path, count: int) -> None:
    """Memory, descriptors, threads and the store are the same after many snapshots as after few."""
    place = Place(root, rescan_seconds=RESCAN)
    measured = []
    with place.daemon() as process:
        for number in range(count):
            place.drop(number)
            eventually(lambda name=f"day={number}": place.published()[-1:] == [name], 60)
            measured.append(_size(process.pid))
        place.wait_state("idle")
    early, late = np.median(measured[2 : count // 4 + 3], axis=0), np.median(measured[-max(count // 4, 2) :], axis=0)
    memory, descriptors, threads = late - early
    assert memory < 12_000
    assert abs(descriptors) <= 3
    assert abs(threads) <= 2
    assert len(list(place.store.versions.iterdir())) == 3
    place.assert_at_rest()


def _size(process: int) -> tuple[int, int, int]:
    """Return resident KiB, open descriptors and threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return (int(status["VmRSS"].split()[0]), len(list(Path(f"/proc/{process}/fd").iterdir())), int(status["Threads"]))


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=needs_goodbooks)])
def test_the_daemon_adds_little_to_the_time_of_the_pipeline(place: Place, real: bool) -> None:
    """From marker to publish, the daemon adds at most half a second to the time of the pipeline."""
    place.configure(watch={"rescan_seconds": 30.0}, index={"factory": "auto" if real else "Flat"})
    above = []
    with place.daemon():
        place.wait_state("idle")
        for version, number in enumerate(DAYS if real else range(1, 41), 1):
            place.wait_state("idle")
            time.sleep(1.2)  # the next worker has loaded its modules by then, as on any night
            folder = place.drop(number, read_day(number) if real else night(number), marker=False)
            begin = time.monotonic()
            (folder / "_SUCCESS").touch()
            eventually(lambda version=version: place.store.current() == version)
            took = time.monotonic() - begin
            place.wait_for(number)
            above.append(took - (place.events("published")[-1].seconds or 0.0))
            if above[-1] < 0.5:  # one fast night suffices, since the machine may be busy
                break
    assert min(above) < 0.5
