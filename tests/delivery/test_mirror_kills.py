"""``kill -9`` at random moments of push, pull and service: readers see old or new, and the next run completes it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from contract import Stores, deliver, pinned
from servers import BUCKET, S3Server
from support.stores import assert_at_rest, assert_intact, next_line, running
from support.waiting import PATIENCE

from embsync.config import ObjectStoreConfig
from embsync.delivery import remote
from embsync.delivery.endpoints import open_objects
from embsync.delivery.object_store import ObjectStoreSink
from embsync.delivery.pull import Pull
from embsync.delivery.steps import deliver as deliver_current
from embsync.store import Store

_SCRIPT = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import kill_scripts; "
    "kill_scripts.main(*sys.argv[1:])"
)

#: Kills of a default run, and the seconds within which they happen.
_FEW, _SHORT = 2, 0.1
#: Number of timed undisturbed runs, kills between timings, and the longest wait relative to the faster run.
_TIMED, _EVERY, _BEYOND = 2, 5, 1.25


class Killed:
    """A process that is killed some time after it began."""

    def __init__(self, work: str, root: Path, config: ObjectStoreConfig) -> None:
        plain = {**msgspec.to_builtins(config), "kind": "object_store"}
        self._arguments = [work, root, json.dumps(plain)]

    def after(self, seconds: float) -> bool:
        """Kill the process after some seconds; return whether it was still running."""
        with running(_SCRIPT, *self._arguments, "no") as child:
            assert next_line(child) == "begins"
            time.sleep(seconds)
            at_work = child.poll() is None
            child.kill()
            return at_work

    def before_the_pointer(self) -> None:
        """Let the process die after the last object and before the pointer."""
        with running(_SCRIPT, *self._arguments, "yes") as child:
            assert next_line(child) == "begins"
            assert child.wait(PATIENCE) == -9

    def seconds(self, switched: Callable[[], bool]) -> float:
        """Return the seconds of an undisturbed run until readers see the new version."""
        with running(_SCRIPT, *self._arguments, "no") as child:
            assert next_line(child) == "begins"
            began = time.monotonic()
            while not switched():
                assert time.monotonic() < began + 60
                time.sleep(0.001)
            return time.monotonic() - began


def remote_number(config: ObjectStoreConfig) -> int:
    """Return the number of the remote current version, after checking the hash of each of its objects."""
    objects = open_objects(config)
    pointer, _ = remote.read_pointer(objects)
    assert pointer is not None
    found = remote.read_manifest(objects, pointer.version, pointer.sha256)
    assert found is not None
    for entry in found[1].files:
        data = objects.read(f"{remote.folder_of(pointer.version, pointer.sha256)}/{entry.path}")
        assert data is not None
        assert hashlib.sha256(data).hexdigest() == entry.sha256
    return pointer.version


def moments(kills: int, undisturbed: Callable[[], float]) -> Iterator[float]:
    """Yield the seconds before each kill: random, most of them before the switch.

    Undisturbed runs are timed repeatedly, since other load on the machine changes their duration.
    """
    chance, longest = random.Random(7), _SHORT
    for turn in range(kills):
        if kills >= _EVERY and turn % _EVERY == 0:
            longest = _BEYOND * min(undisturbed() for _ in range(_TIMED))
        yield chance.uniform(0.0, longest)


def kill_pushes(work: str, root: Path, config: ObjectStoreConfig, kills: int) -> dict[str, int]:
    """Kill pushes of version 3 to a place where version 2 is current; return the counts of the states found."""
    with pinned(root, 2) as version:
        deliver(ObjectStoreSink(config), version)
    killed, found = Killed(work, root, config), {"old": 0, "complete, not switched": 0, "new": 0, "at work": 0}

    def back() -> None:
        sink = ObjectStoreSink(config)
        deliver_current(sink, root, 3)
        assert remote_number(config) == 3
        assert [there.complete for there in sink.generations()] == [True, True]
        sink.commit(2, 3)
        sink.drop(3)

    def undisturbed() -> float:
        seconds = killed.seconds(lambda: ObjectStoreSink(config).current() == 3)
        back()
        return seconds

    for moment in moments(kills - 1, undisturbed):
        found["at work"] += killed.after(moment)
        new = remote_number(config) == 3
        found["new" if new else "old"] += 1
        complete = {one.number for one in ObjectStoreSink(config).generations() if one.complete}
        found["complete, not switched"] += not new and 3 in complete
        back()
    killed.before_the_pointer()
    found["old"] += 1
    found["complete, not switched"] += 1
    assert remote_number(config) == 2
    assert [there.complete for there in ObjectStoreSink(config).generations()] == [True, True]
    back()
    return found


def kill_pulls(root: Path, config: ObjectStoreConfig, folder: Path, kills: int) -> dict[str, int]:
    """Kill pulls of version 3 into a store where version 2 is current; return the counts of the states found."""
    sink = ObjectStoreSink(config)
    with pinned(root, 2) as version:
        deliver(sink, version)
    Pull(Store(folder / "before"), open_objects(config), 5).once()
    deliver_current(sink, root, 3)
    copy, found = folder / "copy", {"old": 0, "new": 0, "at work": 0}
    killed = Killed("pull", copy, config)

    def afresh() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / "before", copy, symlinks=True)

    def complete() -> None:
        assert Pull(Store(copy), open_objects(config), 5).once().version == 3
        assert assert_intact(copy) == 3
        assert_at_rest(copy, "source.json", "pull.lock")

    def undisturbed() -> float:
        afresh()
        return killed.seconds(lambda: Store(copy).current() == 3)

    for moment in moments(kills - 1, undisturbed):
        afresh()
        found["at work"] += killed.after(moment)
        found["new" if assert_intact(copy) == 3 else "old"] += 1
        complete()
    afresh()
    killed.before_the_pointer()
    assert assert_intact(copy) == 2
    found["old"] += 1
    complete()
    return found


def place(tmp_path: Path) -> ObjectStoreConfig:
    """Return the configuration of a directory as a place."""
    (tmp_path / "remote").mkdir()
    return ObjectStoreConfig(name="test", url=f"file://{tmp_path}/remote", grace_seconds=0.0)


def test_a_killed_push_is_completed_by_the_next(stores: Stores, tmp_path: Path) -> None:
    """Readers see the old or the new version after each of a few kills, in a directory."""
    kill_pushes("push", stores("plain"), place(tmp_path), _FEW)


def test_a_killed_pull_is_completed_by_the_next(stores: Stores, tmp_path: Path) -> None:
    """Readers see the old or the new version after each of a few kills, from a directory."""
    kill_pulls(stores("plain"), place(tmp_path), tmp_path, _FEW)


@pytest.mark.torture
@pytest.mark.services("moto", "obstore")
@pytest.mark.parametrize("work", ["push", "service", "pull"])
@pytest.mark.parametrize("where", ["directory", "moto", "rclone"])
def test_fifty_kills_leave_nothing_wrong(
    work: str,
    where: str,
    stores: Stores,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Readers see the old or the new version; the last kill is between the last object and the pointer."""
    if where == "directory":
        config = place(tmp_path)
    else:
        server: S3Server = request.getfixturevalue(f"{where}_server")
        config = ObjectStoreConfig(
            name="test", url=f"s3://{BUCKET}/kills-{work}", endpoint=server.url, grace_seconds=0.0, lock_seconds=1.0
        )
    root = stores("plain")
    if work == "pull":
        found = kill_pulls(root, config, tmp_path, 50)
    else:
        copy = tmp_path / "store"
        shutil.copytree(root, copy, symlinks=True)
        found = kill_pushes(work, copy, config, 50)
    with capsys.disabled():
        print(f"\n{work} {where}: 50 kills, {found}")
    assert found["old"] >= 20  # enough before the switch, whatever the load of the machine
