"""Pulling gives an ordinary store, whatever fails during it; a refusal changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import Stores
from support.disk import mounted
from support.nights import configured, night
from support.parts import in_parts
from support.stores import AT_REST, assert_at_rest, assert_intact, snapshot_of, sync
from support.units import exit_code_in_time, listening
from support.waiting import eventually

import embsync
from embsync.config import ObjectStoreConfig
from embsync.delivery.endpoints import open_objects
from embsync.delivery.object_store import ObjectStoreSink
from embsync.delivery.objects import Objects
from embsync.delivery.pull import ObjectGone, Pull
from embsync.delivery.source import read_source
from embsync.delivery.steps import deliver
from embsync.errors import (
    EmbsyncError,
    NotFoundError,
    OutOfSpace,
    SinkConflict,
    SinkError,
    SinkUnavailable,
    StoreBusy,
    UsageError,
)
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store
from embsync.store.hold import HeldError, hold, resume
from embsync.store.locks import exclusive
from embsync.store.version_manifest import read

#: Additional files of a pulled store at rest.
PULLED = ("source.json", "pull.lock")


class Mirror:
    """A store that is pushed to a directory and pulled from there."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.remote = folder / "remote"
        self.copy = folder / "copy"
        self.remote.mkdir(parents=True)
        self.config = ObjectStoreConfig(name="test", url=f"file://{self.remote}", grace_seconds=0.0)
        self.nights = 0

    @property
    def objects(self) -> Objects:
        return open_objects(self.config)

    def publish(self) -> int:
        """Publish a night and push it; return its number."""
        number = sync(self.store, night(self.nights), f"day={self.nights}", configured()).version
        self.nights += 1
        self.push()
        return number

    def push(self) -> None:
        deliver(ObjectStoreSink(self.config), self.store, 3)

    def pull(self, objects: Objects | None = None, keep: int = 5) -> Pull:
        return Pull(Store(self.copy), objects or self.objects, keep)

    def key(self, end: str) -> str:
        """Return the key of the current version's object that ends with ``end``."""
        (key,) = [entry.key for entry in self.objects.list() if entry.key.endswith(end)]
        return key


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """A mirror with one night published and pushed."""
    made = Mirror(tmp_path)
    made.publish()
    return made


def test_a_transfer_reports_its_bytes(mirror: Mirror, tmp_path: Path) -> None:
    """Push and pull report the bytes of all files, from none to all."""
    (tmp_path / "second").mkdir()
    second = ObjectStoreConfig(name="second", url=f"file://{tmp_path / 'second'}")
    wanted = sum(entry.bytes for entry in read(Store(mirror.store).path(1))[1].files)
    for transfer in (
        lambda report: deliver(ObjectStoreSink(second, report), mirror.store, 3),
        lambda report: Pull(Store(mirror.copy), open_objects(second), 5, progress=report).once(),
    ):
        reported: list[tuple[Any, float]] = []
        transfer(lambda *seen, into=reported: into.append(seen))
        assert {(stage, stage.amount, stage.unit) for stage, _ in reported} == {("copying", wanted, "bytes")}
        shares = [share for _, share in reported]
        assert shares == sorted(shares)
        assert len(shares) > 5
        assert shares[-1] == pytest.approx(1)


class Broken:
    """Objects, one of which is cut off or observed during its transfer."""

    def __init__(self, objects: Objects, end: str, most: int | None = None) -> None:
        self._objects = objects
        self._end = end
        self._most = most
        self.transferred = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    @contextlib.contextmanager
    def stream(self, key: str, start: int = 0) -> Iterator[Any]:
        with self._objects.stream(key, start) as arriving:
            assert arriving is not None
            yield self._pieces(key, arriving)

    def _pieces(self, key: str, arriving: Iterator[Any]) -> Iterator[bytes]:
        for piece in arriving:
            for first in range(0, len(piece), 1000):
                if key.endswith(self._end) and self._most is not None and self.transferred >= self._most:
                    raise SinkUnavailable("the line is cut")
                part = bytes(piece[first : first + 1000])
                self.transferred += len(part)
                yield part


def test_a_pulled_store_is_an_ordinary_store(mirror: Mirror) -> None:
    """It is opened, searched, verified, rolled back and pruned as any other, and has no other files."""
    first = mirror.pull().once()
    assert (first.version, first.changed, first.linked) == (1, True, 0)
    assert mirror.publish() == 2
    assert mirror.pull().once().version == 2
    assert assert_intact(mirror.copy) == 2
    assert_at_rest(mirror.copy, *PULLED)
    for number in (1, 2):
        with embsync.open(mirror.store) as one, embsync.open(mirror.copy) as other:
            here, there = one.version(number), other.version(number)
            assert here.manifest_bytes == there.manifest_bytes
            here.close()
            there.close()
    assert Store(mirror.copy).rollback(None) == (2, 1)
    mirror.pull(keep=1).once()
    mirror.publish()
    mirror.pull(keep=1).once()
    assert Store(mirror.copy).numbers() == [3]


def test_part_files_are_pushed_and_pulled(mirror: Mirror) -> None:
    """They are transferred like any other file of a version, and lookups return the same vectors."""
    assert sync(mirror.store, night(1), "day=1", configured()).version == 2
    in_parts(mirror.store)
    mirror.push()
    assert mirror.pull().once().version == 2
    assert Store(mirror.copy).damaged_files(2) == []
    with embsync.open(mirror.copy) as here, embsync.open(mirror.store) as there:
        users = there.current.users
        assert users is not None
        assert here.current.users is not None
        ids = users.names(np.arange(len(users)))
        assert np.array_equal(here.current.users.lookup(ids), users.lookup(ids))
        assert here.current.record.parts == there.current.record.parts


def test_a_pull_without_a_new_version_changes_nothing(mirror: Mirror) -> None:
    """No content and no time changes."""
    mirror.pull().once()
    before = snapshot_of(mirror.copy), (mirror.copy / "source.json").stat().st_mtime_ns
    again = mirror.pull().once()
    assert (again.version, again.changed, again.transferred) == (1, False, 0)
    assert (snapshot_of(mirror.copy), (mirror.copy / "source.json").stat().st_mtime_ns) == before


def test_a_broken_transfer_is_continued(mirror: Mirror) -> None:
    """Complete files are kept, and an incomplete one is continued where it was cut off."""
    whole = sum(entry.bytes for entry in Store(mirror.store).manifest(1).files)
    cut = Broken(mirror.objects, "users/vectors.npy", most=3000)
    with pytest.raises(SinkUnavailable, match="cut"):
        mirror.pull(cut).once()
    assert Store(mirror.copy).current() is None
    assert 3000 <= cut.transferred < whole
    rest = Broken(mirror.objects, "nothing")
    assert mirror.pull(rest).once().version == 1
    assert rest.transferred <= whole - cut.transferred + 4 * 1000  # the buffers of four threads
    assert assert_intact(mirror.copy) == 1
    assert_at_rest(mirror.copy, *PULLED)


def test_a_damaged_partial_transfer_is_not_continued(mirror: Mirror) -> None:
    """Neither a complete nor a partial file is used without checking its hash."""
    with pytest.raises(SinkUnavailable):
        mirror.pull(Broken(mirror.objects, "users/vectors.npy", most=3000)).once()
    (folder,) = (mirror.copy / "versions").iterdir()
    for path in [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert mirror.pull().once().version == 1
    assert assert_intact(mirror.copy) == 1


def test_a_partial_transfer_of_another_version_is_removed(mirror: Mirror) -> None:
    """What is left of an interrupted pull is removed when another version is pulled."""
    with pytest.raises(SinkUnavailable):
        mirror.pull(Broken(mirror.objects, "users/vectors.npy", most=3000)).once()
    mirror.publish()
    mirror.pull().once()
    assert_at_rest(mirror.copy, *PULLED)


@pytest.mark.parametrize("damage", ["changed", "shorter", "longer"])
@pytest.mark.parametrize("name", ["items/vectors.npy", "items/ids.npy", "index.faiss", "manifest.json"])
def test_a_damaged_object_is_refused_and_leaves_nothing(mirror: Mirror, name: str, damage: str) -> None:
    """The current version stays; the error names the object, and its command restores it for the next pull."""
    mirror.pull().once()
    mirror.publish()
    objects = [entry.key for entry in mirror.objects.list("versions") if entry.key.startswith("versions/000002-")]
    (key,) = [key for key in objects if key.endswith(f"/{name}")]
    good = mirror.objects.read(key)
    assert good is not None
    bad = {"changed": good[:-1] + bytes([good[-1] ^ 1]), "shorter": good[:-5], "longer": good + b"more"}[damage]
    mirror.objects.write(key, bad)
    before = snapshot_of(mirror.copy)
    with pytest.raises(SinkError, match="a damaged object") as caught:
        mirror.pull().once()
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 8
    assert snapshot_of(mirror.copy) == before
    restored = run(*suggested(caught.value), "--store", mirror.store)
    assert (restored.returncode, restored.stderr) == (0, "")
    assert restored.stdout == f"version 2 is current at {mirror.config.url}; restored 1 object: {name}\n"
    assert mirror.objects.read(key) == good
    assert mirror.pull().once().version == 2


def suggested(error: EmbsyncError) -> list[str]:
    """Return the words after ``embsync`` of the command that an error prints for the publishing host."""
    before, line = str(error.hint).split(": embsync ")
    assert before.endswith("on the host that publishes, with its --store or --config")
    return shlex.split(line)


def flip(objects: Objects, key: str) -> bytes:
    """Change the last byte of an object, and return its previous content."""
    good = objects.read(key)
    assert good is not None
    objects.write(key, good[:-1] + bytes([good[-1] ^ 1]))
    return good


@pytest.mark.parametrize("of", ["items/vectors.npy", "manifest.json"])
def test_push_verify_restores_damaged_objects_of_equal_size(mirror: Mirror, of: str) -> None:
    """``--verify`` restores an object of the same size before the switch; otherwise the error names the command."""
    assert sync(mirror.store, night(1), "day=1", configured()).version == 2
    with embsync.open(mirror.store) as reader:
        ObjectStoreSink(mirror.config).stage(reader.current)
    (key,) = (
        entry.key
        for entry in mirror.objects.list("versions/")
        if entry.key.endswith(f"/{of}") and "/000002-" in entry.key
    )
    good = flip(mirror.objects, key)
    if of == "manifest.json":
        with pytest.raises(SinkError) as caught:
            mirror.push()
        assert str(caught.value).endswith(f"hint: embsync push {mirror.config.url} --verify")
    assert run("push", mirror.config.url, "--verify", "--store", mirror.store).stdout.startswith(
        "version 2 is current at"
    )
    assert mirror.objects.read(key) == good
    assert mirror.pull().once().version == 2


def test_a_push_that_hashes_copies_no_damaged_object(mirror: Mirror) -> None:
    """An object of another version with the same file is not linked; it is restored after a rollback."""
    key = mirror.key("start/items.npy")
    good = flip(mirror.objects, key)
    assert sync(mirror.store, night(1), "day=1", configured()).version == 2
    command = "push", mirror.config.url, "--verify", "--store", mirror.store, "--json"
    assert json.loads(run(*command).stdout)["restored"] == []
    assert mirror.pull().once().version == 2
    Store(mirror.store).rollback(1)
    run("push", mirror.config.url, "--store", mirror.store)
    assert json.loads(run(*command).stdout)["restored"] == ["start/items.npy"]
    assert mirror.objects.read(key) == good


def test_an_intact_version_is_verified_and_not_transferred(mirror: Mirror) -> None:
    """Nothing is written again."""
    before = snapshot_of(mirror.remote)
    done = run("push", mirror.config.url, "--verify", "--store", mirror.store)
    assert done.stdout == f"version 1 was already current at {mirror.config.url}; every object there has its hash\n"
    assert snapshot_of(mirror.remote) == before


def test_a_file_that_is_transferred_twice_is_named(mirror: Mirror) -> None:
    """The pull succeeds and reports a file whose first copy was wrong, such as after an interrupted pull."""
    with pytest.raises(SinkUnavailable):
        mirror.pull(Broken(mirror.objects, "users/vectors.npy", most=3000)).once()
    (partial,) = (mirror.copy / "versions").rglob("users/vectors.npy.partial")
    partial.write_bytes(bytes(1000))
    done = run("pull", mirror.config.url, "--store", mirror.copy)
    assert (done.returncode, done.stdout) == (0, f"version 1 is current in {mirror.copy}\n")
    assert done.stderr.startswith(
        f"embsync: {mirror.key('users/vectors.npy')}: transferred twice, since the first copy was wrong:"
    )
    assert done.stderr.count("\n") == 1


def test_a_wrong_object_says_that_it_was_transferred_twice(mirror: Mirror) -> None:
    """The error and the notice say so before the object is refused."""
    flip(mirror.objects, mirror.key("items/vectors.npy"))
    noticed: list[tuple[str, str]] = []
    refused = Pull(Store(mirror.copy), mirror.objects, 5, notice=lambda *seen: noticed.append(seen))
    with pytest.raises(SinkError, match=r"…, transferred twice; expected"):
        refused.once()
    assert [key for key, _ in noticed] == [mirror.key("items/vectors.npy")]


@pytest.mark.parametrize("kind", ["FIFO", "socket", "directory", "link to itself"])
@pytest.mark.parametrize("name", ["items/vectors.npy", "manifest.json", "current.json"])
def test_an_object_that_is_not_a_file_is_reported_and_replaceable(mirror: Mirror, name: str, kind: str) -> None:
    """It blocks neither pull nor push; after the commands in the error, the version is pulled."""
    path = mirror.remote / mirror.key(name)
    path.unlink()
    place(path, kind)
    refused = run("pull", mirror.config.url, "--store", mirror.copy)
    assert (refused.returncode, refused.stderr.count("\n")) == (8, 1)
    assert f"{path}: not an object; found a {kind}; expected a file" in refused.stderr
    remove, push = refused.stderr.partition("hint: ")[2].split(
        "; on the host that publishes, with its --store or --config: "
    )
    subprocess.run(remove, shell=True, check=True)
    assert run(*shlex.split(push)[1:], "--store", mirror.store).returncode == 0
    assert mirror.pull().once().version == 1


@pytest.mark.parametrize("kind", ["FIFO", "socket", "link to itself"])
def test_a_push_replaces_an_object_that_is_not_a_file(mirror: Mirror, kind: str) -> None:
    """It is treated like a deleted object; a directory is refused, since it may contain something."""
    path = mirror.remote / mirror.key("items/vectors.npy")
    path.unlink()
    place(path, kind)
    mirror.push()
    assert mirror.pull().once().version == 1
    path.unlink()
    place(path, "directory")
    with pytest.raises(SinkError, match="not an object; found a directory; expected a file; hint: rm -r"):
        mirror.push()
    assert (path / "theirs").read_text() == "theirs"


def place(path: Path, kind: str) -> None:
    """Create something other than a file."""
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "directory":
        path.mkdir()
        (path / "theirs").write_text("theirs")
    else:
        path.symlink_to(path.name)


def test_an_object_that_was_deleted_is_pushed_again(mirror: Mirror) -> None:
    """The push of a version that is already current restores the object and reports it."""
    key = mirror.key("items/vectors.npy")
    good = mirror.objects.read(key)
    mirror.objects.delete([key])
    with pytest.raises(ObjectGone, match="missing"):
        mirror.pull().once()
    restored = run("push", mirror.config.url, "--store", mirror.store)
    assert restored.stdout == f"version 1 is current at {mirror.config.url}; restored 1 object: items/vectors.npy\n"
    assert mirror.objects.read(key) == good
    assert mirror.pull().once().version == 1


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 50])
def test_a_damaged_pointer_is_refused(mirror: Mirror, damage: bytes) -> None:
    """The error is one line, and the copy is unchanged."""
    mirror.pull().once()
    mirror.objects.write("current.json", damage)
    before = snapshot_of(mirror.copy)
    refused = run("pull", mirror.config.url, "--store", mirror.copy)
    assert (refused.returncode, refused.stderr.count("\n")) == (8, 1)
    assert "current.json is damaged" in refused.stderr
    assert snapshot_of(mirror.copy) == before


@pytest.mark.parametrize(
    "change", [{"sha256": "0" * 64}, {"version": 7}, {"manifest": "versions/x/manifest.json"}, {"space_id": "another"}]
)
def test_a_pointer_that_contradicts_itself_is_refused(mirror: Mirror, change: dict[str, Any]) -> None:
    """The error names the pointer and not a missing object, and nothing is pulled."""
    path = mirror.remote / "current.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SinkConflict, match=r"current\.json is damaged") as caught:
        mirror.pull().once()
    assert str(next(iter(change.values()))) in str(caught.value)
    path.unlink()
    assert run(*suggested(caught.value), "--store", mirror.store).returncode == 0
    assert mirror.pull().once().version == 1


def test_a_pull_that_misses_an_object_rereads_the_pointer(mirror: Mirror) -> None:
    """If the version was deleted meanwhile, the new current one is pulled; otherwise the error names the object."""
    sink = ObjectStoreSink(mirror.config)
    stale, pointer = mirror.pull(), mirror.pull()._pointer()
    mirror.publish()
    sink.drop(1)
    stale._pointer = _first_then(pointer, stale._pointer)
    assert stale.once().version == 2
    key = mirror.key("items/vectors.npy")
    mirror.objects.delete([key])
    with pytest.raises(ObjectGone, match="missing"):
        Pull(Store(mirror.copy.with_name("other")), mirror.objects, 3).once()


def _first_then(first: Any, rest: Any) -> Any:
    answers = [first]
    return lambda: answers.pop() if answers else rest()


def test_files_that_exist_locally_are_not_transferred_again(mirror: Mirror) -> None:
    """Files that are unchanged between versions, such as the start sample, are linked."""
    mirror.pull().once()
    mirror.publish()
    watched = Broken(mirror.objects, "nothing")
    pulled = mirror.pull(watched).once()
    assert pulled.linked > 0
    assert pulled.transferred == watched.transferred
    start = Path("versions/000002/start/items.npy")
    assert (mirror.copy / start).stat().st_nlink == 2


def test_a_file_that_is_damaged_here_is_transferred(mirror: Mirror) -> None:
    """A file is not linked if its content differs from the manifest of the local version."""
    mirror.pull().once()
    mirror.publish()
    damaged = mirror.copy / "versions/000001/start/items.npy"
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert mirror.pull().once().version == 2
    assert (mirror.copy / "versions/000002/start/items.npy").stat().st_nlink == 1
    assert assert_intact(mirror.copy) == 2


def test_a_remote_rollback_is_followed_without_a_transfer(mirror: Mirror) -> None:
    """The version exists locally, and is verified."""
    mirror.pull().once()
    mirror.publish()
    mirror.pull().once()
    Store(mirror.store).rollback(1)
    mirror.push()
    pulled = mirror.pull().follow_once()
    assert pulled is not None
    assert (pulled.version, pulled.changed, pulled.transferred) == (1, True, 0)
    assert Store(mirror.copy).current() == 1


def test_a_local_rollback_stays_until_another_version_is_pushed(mirror: Mirror) -> None:
    """A follower leaves the store as it is; ``pull`` without ``--follow`` returns to the remote's current version."""
    mirror.pull().once()
    mirror.publish()
    mirror.pull().once()
    Store(mirror.copy).rollback(1)
    assert mirror.pull().follow_once() is None
    assert Store(mirror.copy).current() == 1
    assert mirror.pull().once().version == 2
    Store(mirror.copy).rollback(1)
    mirror.publish()
    pulled = mirror.pull().follow_once()
    assert pulled is not None
    assert pulled.version == 3


def test_a_hold_stops_pulling_until_resume(mirror: Mirror) -> None:
    """A hold prevents both a single pull and following."""
    mirror.pull().once()
    hold(Store(mirror.copy))
    mirror.publish()
    for attempt in (mirror.pull().once, mirror.pull().follow_once):
        with pytest.raises(HeldError) as caught:
            attempt()
        assert "resume" in str(caught.value.hint)
    resume(Store(mirror.copy))
    assert mirror.pull().follow_once() is not None


def test_concurrent_pulls_on_one_host_transfer_once(mirror: Mirror) -> None:
    """One of them transfers, and the others find the version complete."""
    watched = Broken(mirror.objects, "nothing")
    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(mirror.pull(watched).once())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.changed for outcome in outcomes) == [False, False, False, True]
    assert watched.transferred == sum(entry.bytes for entry in Store(mirror.store).manifest(1).files)


def test_a_store_with_a_daemon_is_refused(mirror: Mirror) -> None:
    """Only its daemon publishes there."""
    Store(mirror.copy).make()
    before = snapshot_of(mirror.copy)
    with exclusive(mirror.copy / "daemon.lock", 1.0, "test"), pytest.raises(StoreBusy, match="daemon"):
        mirror.pull().once()
    (mirror.copy / "daemon.lock").unlink()
    (mirror.copy / "pull.lock").unlink()
    assert snapshot_of(mirror.copy) == before


def test_a_store_pulled_from_elsewhere_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    """A store that was published locally or pulled from another place is refused."""
    (tmp_path / "elsewhere").mkdir()
    elsewhere = open_objects(ObjectStoreConfig(name="test", url=f"file://{tmp_path}/elsewhere"))
    with pytest.raises(UsageError, match="not pulled"):
        Pull(Store(mirror.store), mirror.objects, 3).once()
    assert_at_rest(mirror.store, "pull.lock")
    mirror.pull().once()
    for entry in mirror.objects.list():
        elsewhere.write(entry.key, mirror.objects.read(entry.key) or b"")
    with pytest.raises(UsageError, match="another place"):
        mirror.pull(elsewhere).once()
    assert read_source(mirror.copy).url == mirror.config.url


def test_nothing_can_be_published_into_a_pulled_store(mirror: Mirror) -> None:
    """Its version numbers are those of another store."""
    mirror.pull().once()
    before = snapshot_of(mirror.copy)
    with pytest.raises(UsageError, match="the store is a copy"):
        publish_snapshot(Store(mirror.copy), Request(mirror.store.parent / "snapshots" / "day=0"), configured())
    with pytest.raises(UsageError, match="the store is a copy"):
        Store(mirror.copy).stage(100)
    assert snapshot_of(mirror.copy) == before


def test_another_store_under_the_same_url_is_refused(mirror: Mirror, stores: Stores) -> None:
    """The local version 1 differs from that of the other store."""
    mirror.pull().once()
    for entry in list(mirror.objects.list()):
        mirror.objects.delete([entry.key])
    other = Mirror(mirror.store.parent / "other")
    sync(other.store, night(5), "day=5", configured())
    deliver(ObjectStoreSink(mirror.config), other.store, 3)
    with pytest.raises(SinkConflict, match="has a different version 1"):
        mirror.pull().once()
    assert assert_intact(mirror.copy) == 1


def test_a_mistyped_url_creates_no_store(tmp_path: Path) -> None:
    """The hint is the command that pushes there."""
    (tmp_path / "empty").mkdir()
    objects = open_objects(ObjectStoreConfig(name="test", url=f"file://{tmp_path}/empty"))
    with pytest.raises(NotFoundError, match="nothing was pushed") as caught:
        Pull(Store(tmp_path / "copy"), objects, 3).once()
    assert suggested(caught.value) == ["push", f"file://{tmp_path}/empty"]
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone", "gone: no such directory; hint: check the URL; is it mounted?"),
        (
            "photos",
            "nothing was pushed there; found objects that embsync did not push, such as 2026/a.jpg; "
            "hint: check the URL",
        ),
        ("begun", "no version was pushed completely yet; found only embsync.json; hint: check the URL"),
        (
            "store",
            "a store, not the target of a push; hint: name what it is pushed to, or use the store where it is",
        ),
    ],
)
def test_a_place_without_a_pointer_is_described(mirror: Mirror, tmp_path: Path, name: str, says: str) -> None:
    """The error says what is there; the printed command for a store works."""
    (tmp_path / "photos" / "2026").mkdir(parents=True)
    (tmp_path / "photos" / "2026" / "a.jpg").write_text("theirs")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "embsync.json").write_text("{}")
    refused = run("pull", f"file://{tmp_path / name}", "--store", mirror.copy)
    assert (refused.returncode, refused.stderr.count("\n")) == (NotFoundError.exit_code, 1)
    assert says in refused.stderr
    if name == "store":
        shown = shlex.split(refused.stderr.rpartition(": ")[2])
        assert run(*shown[3:] if shown[0] != "embsync" else shown[1:]).returncode == 0
    assert not mirror.copy.exists()


def test_a_trailing_slash_names_the_same_place(mirror: Mirror) -> None:
    """A URL with a trailing slash is the same source."""
    mirror.pull().once()
    objects = open_objects(ObjectStoreConfig(name="test", url=f"{mirror.config.url}/"))
    assert mirror.pull(objects).once().changed is False


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run embsync."""
    command = [sys.executable, "-m", "embsync", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_push_and_pull_report_what_they_did(mirror: Mirror) -> None:
    """They print the current version and whether it changed; the variable of the unit sets no key."""
    url = mirror.config.url
    assert "was already current" in run("push", url, "--store", mirror.store).stdout
    assert '"changed": true' in run("pull", url, "--store", mirror.copy, "--json", EMBSYNC_URL=url).stdout
    assert AT_REST | set(PULLED) >= {path.name for path in mirror.copy.iterdir()}
    refused = run("pull", url, "--store", mirror.store)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_a_full_disk_leaves_the_current_version(mirror: Mirror) -> None:
    """The error is one line with its own exit code; with free space, the next pull completes the version."""
    mirror.copy.mkdir()
    with mounted(mirror.copy, "24m"):
        assert mirror.pull().once().version == 1
        mirror.publish()
        filler = mirror.copy / "filler"
        free = os.statvfs(mirror.copy)
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 8192))
        refused = run("pull", mirror.config.url, "--store", mirror.copy)
        assert refused.returncode == OutOfSpace.exit_code
        assert refused.stderr.count("\n") == 1
        assert assert_intact(mirror.copy) == 1
        filler.unlink()
        assert mirror.pull().once().version == 2


@pytest.mark.long
def test_pull_follow_pulls_each_version_until_stopped(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishes and a rollback are followed; a local rollback and a hold stay; SIGTERM ends it with exit code 0."""
    command = [sys.executable, "-m", "embsync", "pull", mirror.config.url, "--store", str(mirror.copy), "--json"]
    command += ["--follow", "--interval", "0.1"]
    address = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    with (
        listening(address) as messages,
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process,
    ):
        try:
            assert process.stderr is not None
            started = json.loads(process.stderr.readline())
            assert (started["event"], started["source"]) == ("started", mirror.config.url)
            arrive(mirror, 1)
            for number in (2, 3):
                assert mirror.publish() == number
                arrive(mirror, number)
            Store(mirror.store).rollback(2)
            mirror.push()
            arrive(mirror, 2)
            Store(mirror.copy).rollback(1)
            mirror.publish()
            arrive(mirror, 4)
            hold(Store(mirror.copy))
            mirror.publish()
            assert any("pull_held" in line for line in iter(process.stderr.readline, ""))
            assert Store(mirror.copy).current() == 4
            resume(Store(mirror.copy))
            arrive(mirror, 5)
            process.send_signal(signal.SIGTERM)
            assert exit_code_in_time(process, "embsync-pull@.service") == 0
            eventually(lambda: "STOPPING=1" in messages)
        finally:
            process.kill()
    assert assert_intact(mirror.copy) == 5
    assert_at_rest(mirror.copy, *PULLED)


def test_a_follower_that_says_it_started_handles_signals(mirror: Mirror) -> None:
    """SIGTERM right after the log line is a stop: it is logged, and the exit code is 0."""
    command = [sys.executable, "-m", "embsync", "pull", mirror.config.url, "--store", str(mirror.copy), "--json"]
    with subprocess.Popen([*command, "--follow"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["event"] == "started"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert json.loads(process.stderr.read().splitlines()[-1])["event"] == "stopped"


def arrive(mirror: Mirror, number: int) -> None:
    """Wait until a version is current in the copy."""

    def arrived() -> bool:
        with contextlib.suppress(EmbsyncError, OSError):
            return Store(mirror.copy).current() == number
        return False

    eventually(arrived)
