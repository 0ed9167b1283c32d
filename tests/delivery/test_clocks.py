"""Wrong clocks of the publisher, of the puller and of the place, ahead or behind, or set while a command runs."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from contract import Stores, deliver, pinned
from servers import BUCKET, S3Server
from support.nights import configured, night
from support.stores import assert_intact, sync
from support.waiting import PATIENCE, eventually

from embsync.config import DeliveryConfig, ObjectStoreConfig
from embsync.delivery.courier import Courier
from embsync.delivery.endpoints import open_objects
from embsync.delivery.object_store import ObjectStoreSink
from embsync.delivery.pauses import Moment
from embsync.errors import SinkUnavailable
from embsync.store import Store

_HOURS = [-7.0, 7.0]
#: A library that shifts the clock of a process (Debian's package libfaketime).
_FAKETIME = next((str(path) for path in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
needs_faketime = pytest.mark.skipif(_FAKETIME is None, reason="no libfaketime here")


class Clock:
    """A replacement of ``time.time``, shifted by a test."""

    def __init__(self) -> None:
        self.shift = 0.0
        self._real = time.time

    def __call__(self) -> float:
        return self._real() + self.shift


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "time", made)
    return made


def seconds(text: str | None) -> float:
    """Return a time of a report as a timestamp."""
    assert text is not None
    return dt.datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("hours", _HOURS)
def test_moments_follow_corrections_of_the_clock(clock: Clock, hours: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It also holds for a moment that was recorded while the clock was wrong; its timestamp is otherwise constant."""
    monkeypatch.setattr("embsync.delivery.pauses._ticks", lambda: 1000.0)  # time stands still
    clock._real = lambda: 1.7e9
    before = Moment()
    stated = before.seconds()
    assert before.seconds() == stated
    clock.shift = hours * 3600
    wrong, later = Moment(), Moment(60)
    assert before.seconds() - stated == pytest.approx(clock.shift, abs=1)
    assert later.seconds() - wrong.seconds() == pytest.approx(60, abs=1)
    clock.shift = 0.0
    assert wrong.seconds() == pytest.approx(stated, abs=1)


@pytest.mark.parametrize("hours", _HOURS)
def test_behind_since_is_corrected_with_the_clock(clock: Clock, hours: float, tmp_path: Path) -> None:
    """``behind_since`` is corrected when the clock is; pauses do not depend on it."""
    sync(tmp_path / "store", night(0), "day=0", configured())
    sink = ObjectStoreConfig(name="gone", url=f"file://{tmp_path}/gone")
    began = clock()
    clock.shift = hours * 3600

    def since_it_began(text: str | None, later: float = 0.0) -> bool:
        return began + clock.shift - 1 <= seconds(text) - later <= clock() + 1

    courier = Courier(sink, DeliveryConfig(retry_seconds=5.0), tmp_path / "store", "warn")
    assert courier.attempt()[0] == 5.0
    assert since_it_began(courier.report.behind_since)
    clock.shift, first = 0.0, courier._times["behind_since"]
    assert courier.attempt()[0] == 10.0
    assert courier._times["behind_since"] is first
    assert since_it_began(courier.report.behind_since)
    assert since_it_began(courier.report.next_attempt, 10.0)


def test_a_pause_ends_although_the_clock_was_set_back(clock: Clock, tmp_path: Path) -> None:
    """The clock is set back by a year during the pause."""
    sync(tmp_path / "store", night(0), "day=0", configured())
    sink = ObjectStoreConfig(name="late", url=f"file://{tmp_path}/late")
    settings = DeliveryConfig(retry_seconds=0.1, recheck_seconds=0.1)
    courier = Courier(sink, settings, tmp_path / "store", "warn")
    courier.start()
    eventually(lambda: courier.report.failures)
    clock.shift = -3.15e7
    (tmp_path / "late").mkdir()
    eventually(lambda: courier.report.current == 1)
    courier.stop()
    assert courier.join(PATIENCE)


def _dated(folder: Path, end: str, shift: float) -> None:
    """Set the times of objects whose keys end with ``end``, as a clock that is off by some seconds would."""
    for path in folder.rglob(f"*{end}"):
        moment = time.time() + shift
        os.utime(path, (moment, moment))


@pytest.mark.parametrize(
    ("place", "grace"),
    [
        ("directory", 0.6),
        pytest.param("rclone", 3.0, marks=pytest.mark.services("obstore")),
    ],  # its times have a resolution of one second
)
def test_a_version_dated_in_the_future_delays_a_removal_by_the_grace_period_only(
    place: str, grace: float, stores: Stores, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Versions 2 and 3 are dated a year ahead; the clock is right when they are removed."""
    if place == "directory":
        folder = tmp_path / "remote"
        folder.mkdir()
        url, endpoint = f"file://{folder}", None
    else:
        server: S3Server = request.getfixturevalue("rclone_server")
        url, endpoint = f"s3://{BUCKET}/future", server.url
        folder = server.log.parent / "served" / BUCKET / "future"
    config = ObjectStoreConfig(name="test", url=url, endpoint=endpoint, grace_seconds=grace, lock_seconds=5.0)
    sink, expected = ObjectStoreSink(config), None
    for number in (1, 2, 3):
        with pinned(stores("plain"), number) as version:
            deliver(sink, version, expected)
        expected = number
    _dated(folder, "manifest.json", 3.15e7)
    began = time.monotonic()
    patient = ObjectStoreSink(msgspec.structs.replace(config, grace_seconds=3600.0))
    for number in (1, 2):  # the first dates all of them again: at the second, a short period may be over
        with pytest.raises(SinkUnavailable, match="kept for pulls that are copying it"):
            patient.drop(number)
    eventually(lambda: _dropped(sink, 1))
    assert time.monotonic() - began > grace / 3
    eventually(lambda: _dropped(sink, 2))
    assert [found.number for found in sink.generations()] == [3]


def _dropped(sink: ObjectStoreSink, number: int) -> bool:
    try:
        sink.drop(number)
    except SinkUnavailable:
        return False
    return True


@pytest.mark.services("obstore")
@pytest.mark.parametrize("shift", [-3.15e7, 3.15e7], ids=["behind", "ahead"])
def test_a_lock_of_a_dead_publisher_is_taken_over_whatever_the_clock_there_says(
    shift: float, rclone_server: S3Server
) -> None:
    """It is taken over after it was unchanged for ``lock_seconds``, and not earlier, whatever its date."""
    prefix = f"lock{shift:.0f}"
    config = ObjectStoreConfig(name="test", url=f"s3://{BUCKET}/{prefix}", endpoint=rclone_server.url, lock_seconds=1.5)
    objects = open_objects(config)
    objects.write("lock.json", b'{"token": "of one that died"}')
    _dated(rclone_server.log.parent / "served" / BUCKET / prefix, "lock.json", shift)
    began = time.monotonic()
    assert objects.swap("current.json", b"new", None)
    assert time.monotonic() - began > 1.5
    assert (objects.read("current.json"), objects.read("lock.json")) == (b"new", None)


@pytest.mark.services("obstore")
def test_a_lock_of_publishers_at_work_is_not_taken(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers take turns holding it, in total for longer than ``lock_seconds``."""
    config = ObjectStoreConfig(name="test", url=f"s3://{BUCKET}/busy", endpoint=rclone_server.url, lock_seconds=1.0)
    others, turns, taken, real = open_objects(config), itertools.count(), [], time.sleep

    def change_hands(_: float = 0.0) -> None:
        found = others.read("lock.json")
        if found is not None and b"another" not in found:
            taken.append(found)
        others.write("lock.json", json.dumps({"token": f"of another one, {next(turns)}"}).encode())
        real(0.02)

    change_hands()
    monkeypatch.setattr(time, "sleep", change_hands)
    with pytest.raises(SinkUnavailable, match="another publisher holds the lock"):
        open_objects(config).swap("current.json", b"new", None)
    assert taken == []
    assert others.read("current.json") is None


def with_clock(hours: float, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run embsync with a clock that is off by some hours."""
    environment = {
        **os.environ,
        "LD_PRELOAD": _FAKETIME or "",
        "FAKETIME": f"{hours:+g}h",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    command = [sys.executable, "-m", "embsync", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@needs_faketime
def test_push_and_pull_with_wrong_clocks(stores: Stores, tmp_path: Path) -> None:
    """The version arrives with the publisher's clock ahead and the puller's behind, and after one is set back."""
    (tmp_path / "remote").mkdir()
    url, copy, hours = f"file://{tmp_path}/remote", tmp_path / "copy", max(_HOURS)
    assert with_clock(hours, "push", url, "--store", stores("plain")).returncode == 0
    assert with_clock(-hours, "pull", url, "--store", copy).returncode == 0
    assert assert_intact(copy) == 3
    assert with_clock(-hours, "push", url, "--store", stores("plain")).returncode == 0
    assert Store(copy).current() == 3


@needs_faketime
@pytest.mark.services("obstore")
@pytest.mark.parametrize("hours", _HOURS)
def test_a_service_that_refuses_a_wrong_clock_is_quoted(
    hours: float, stores: Stores, rclone_server: S3Server, tmp_path: Path
) -> None:
    """S3 signatures include the time: the error is one line that names the clock, and is transient."""
    url, options = f"s3://{BUCKET}/skewed{hours:g}", ("--endpoint", rclone_server.url)
    for command, store in (("push", stores("plain")), ("pull", tmp_path / "copy")):
        done = with_clock(hours, command, url, *options, "--store", store)
        assert (done.returncode, done.stderr.count("\n")) == (7, 1), done.stderr
        assert "the clock of this machine is wrong" in done.stderr
        assert "timedatectl" in done.stderr
    assert not list((rclone_server.log.parent / "served" / BUCKET).glob("skewed*"))
