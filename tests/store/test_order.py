"""The order of writes: what must be on the disk after a power cut at any moment was synced before."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import sync

from embsync.errors import StoreError
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.on_publish import note
from embsync.pipeline.widen import widen
from embsync.store import Store, removal
from embsync.store.durable import replace_file
from embsync.store.hold import HeldError, HoldableStore, hold, resume
from embsync.store.staging import ArrayFile, Staging

SIZES = {"items": 60, "users": 50, "width": 4}
CONFIG = configured(store__keep_versions=2)


class Recorder:
    """Calls on names and files, in order: pairs of a call and a path, the target for a rename."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        for name in ("fsync", "fdatasync", "rename", "replace", "symlink", "unlink", "rmdir", "mkdir", "write", "open"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            at = arguments[1] if name in {"rename", "replace", "symlink"} else arguments[0]
            path = str(Path(f"/proc/self/fd/{at}").readlink()) if isinstance(at, int) else os.fspath(at)
            if options.get("dir_fd") is not None:  # as called by shutil.rmtree
                folder = Path(f"/proc/self/fd/{options['dir_fd']}").readlink()
                path = f"{folder}/{path}"
            done = real(*arguments, **options)
            kind = "create" if name == "open" and arguments[1] & os.O_CREAT else name.replace("fdatasync", "fsync")
            self.calls.append((kind, path))
            return done

        return call

    def place(self, call: str, path: Path | str, after: int = -1) -> int:
        """Return the position of the first such call after a position."""
        wanted = (call, str(path))
        found = next((place for place, seen in enumerate(self.calls) if place > after and seen == wanted), None)
        assert found is not None, f"never: {call} {path}"
        return found

    def last(self, call: str, path: Path | str, before: int) -> int:
        """Return the position of the last such call before a position."""
        wanted = (call, str(path))
        found = [place for place, seen in enumerate(self.calls) if place < before and seen == wanted]
        assert found, f"never before: {call} {path}"
        return found[-1]


@pytest.fixture
def root() -> Iterator[Path]:
    """A store with two versions."""
    with quick_directory() as directory:
        for number in range(2):
            sync(directory / "S", night(number, **SIZES), f"n{number}", CONFIG)
        write_npy(directory / "n2", night(2, **SIZES))
        yield directory / "S"


PUBLISHES: dict[str, Callable[[Path], object]] = {
    "publish": lambda root: publish_snapshot(Store(root), Request(root.parent / "n2"), CONFIG),
    "new space": lambda root: publish_snapshot(Store(root), Request(root.parent / "n2", new_space=True), CONFIG),
    "widen": lambda root: widen(Store(root), 6, CONFIG),
}


@pytest.mark.parametrize("how", PUBLISHES)
def test_everything_of_a_version_is_synced_before_it_is_moved(
    root: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Files and manifest are synced, then each directory; then the version is moved, and then the link switched."""
    seen = Recorder(monkeypatch)
    PUBLISHES[how](root)
    monkeypatch.undo()
    version, versions = root / "versions/000003", root / "versions"
    moved = seen.place("rename", version)
    staging = next(path for call, path in seen.calls if call == "mkdir" and ".staging-" in path)
    names = [entry.path for entry in Store(root).manifest(3).files] + ["manifest.json", "manifest.sha256"]
    for name in names:
        assert seen.last("fsync", f"{staging}/{name}", moved) > seen.place("create", f"{staging}/{name}"), name
    for folder in {staging, *(f"{staging}/{Path(name).parent}" for name in names if "/" in name)}:
        created = [
            place
            for place, (call, path) in enumerate(seen.calls[:moved])
            if call in {"create", "mkdir", "replace"} and str(Path(path).parent) == folder
        ]
        assert seen.last("fsync", folder, moved) > max(created), folder
    in_place = seen.place("fsync", versions, moved)
    switched = seen.place("replace", root / "current")
    current = seen.place("fsync", root, switched)
    journaled = seen.place("fsync", root / "journal.jsonl", switched)
    assert moved < in_place < switched < current < journaled
    assert seen.place("unlink", version / "publishing.json") > journaled


def test_a_pruned_version_is_durably_hidden_before_it_is_deleted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``current`` is synced, the version renamed and journaled, and only then deleted."""
    sync(root, night(2, **SIZES), "n2", configured())
    with Store(root).locked():
        seen = Recorder(monkeypatch)
        assert Store(root).prune(1)[0] == [1, 2]
    for name in ("000001", "000002"):
        retired, path = next(
            (place, path)
            for place, (call, path) in enumerate(seen.calls)
            if call == "rename" and f".pruned-{name}-" in path
        )
        removals = ((place, call, at) for place, (call, at) in enumerate(seen.calls) if call in {"unlink", "rmdir"})
        deleted = next(place for place, _, at in removals if at.startswith(path))
        current = seen.place("fsync", root)
        durable_rename = seen.place("fsync", root / "versions", retired)
        journaled = seen.place("fsync", root / "journal.jsonl", retired)
        assert current < retired < durable_rename < journaled < deleted


@pytest.mark.parametrize(
    ("work", "name"),
    [
        (lambda root: hold(Store(root)), "hold"),
        (lambda root: note(Store(root), 2, None), "on_publish.json"),
        (lambda root: replace_file(root / "status.json", b"{}"), "status.json"),
    ],
)
def test_a_small_file_is_synced_before_and_after_its_rename(
    root: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Path], object], name: str
) -> None:
    """The contents are synced before the rename, and the directory after it."""
    seen = Recorder(monkeypatch)
    work(root)
    replaced = seen.place("replace", root / name)
    synced = [place for place, (call, path) in enumerate(seen.calls) if call == "fsync" and f"/.{name}-" in path]
    assert synced
    assert synced[0] < replaced < seen.place("fsync", root, replaced)


def test_a_rollback_and_a_resume_are_synced_before_they_are_journaled(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change of ``current``, or the removal of the hold, is synced before the journal's line."""
    hold(Store(root))
    seen = Recorder(monkeypatch)
    Store(root).rollback(1)
    switched = seen.place("replace", root / "current")
    assert switched < seen.place("fsync", root, switched) < seen.place("fsync", root / "journal.jsonl", switched)
    resume(Store(root))
    removed = seen.place("unlink", root / "hold")
    assert removed < seen.place("fsync", root, removed) < seen.place("fsync", root / "journal.jsonl", removed)


def test_a_new_store_is_durable_with_its_parent_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new directory is synced in its parent, and so is the journal's name."""
    with quick_directory() as directory:
        path = write_npy(directory / "n0", night(0, **SIZES))
        root = directory / "a/b/S"
        seen = Recorder(monkeypatch)
        publish_snapshot(Store(root), Request(path), CONFIG)
        for folder in (directory / "a", directory / "a/b", root, root / "versions"):
            made = seen.place("mkdir", folder)
            assert seen.place("fsync", folder.parent, made) < seen.place("rename", root / "versions/000001")
        journal = seen.place("fsync", root / "journal.jsonl")
        seen.place("fsync", root, journal)


# reading back


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 9), (0, 9)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, "S5"])
def test_exchanged_rows_are_detected_when_read_back(tmp_path: Path, first: int, second: int, dtype: Any) -> None:
    """A file with all bytes but two exchanged rows is not sealed."""
    array = np.arange(10 * (1 if dtype == "S5" else 2)).astype(dtype).reshape(10, -1)
    file = ArrayFile(tmp_path / "a.npy", array.shape, np.dtype(dtype))
    swapped = np.arange(10)
    swapped[[first, second]] = second, first
    file.put(slice(0, 10), array)
    assert file.seal(tmp_path).bytes > 0
    wrong = ArrayFile(tmp_path / "b.npy", array.shape, np.dtype(dtype))
    wrong.put(slice(0, 10), array)
    wrong.array.setflags(write=True)
    wrong.array[:] = array[swapped]
    with pytest.raises(StoreError, match="does not read back"):
        wrong.seal(tmp_path)


# the removal of leftovers


@pytest.mark.parametrize("moment", ["open", "flock"])
def test_a_sweep_never_removes_what_its_owner_still_uses(
    root: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """If a sweep removes a directory before its maker has locked it, the maker creates another."""
    versions = root / "versions"
    owner = os if moment == "open" else fcntl
    real = getattr(owner, moment)
    swept: list[bool] = []

    def meanwhile(what: Any, *rest: Any, **options: Any) -> Any:
        path = str(Path(f"/proc/self/fd/{what}").readlink()) if isinstance(what, int) else str(what)
        if ".staging-" in path and not swept:
            swept.append(True)
            thread = threading.Thread(target=removal.sweep, args=(root, versions))
            thread.start()
            thread.join()
        return real(what, *rest, **options)

    monkeypatch.setattr(owner, moment, meanwhile)
    with Staging(versions) as staging:
        staging.save("a.npy", np.arange(3))
        assert (staging.path / "a.npy").is_file()
    assert swept


def test_a_sweep_holds_the_lock_while_it_removes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes cannot lock, and therefore not use, what is being removed."""
    left = root / "versions/.staging-1-0123abcd"
    left.mkdir()
    locked: list[bool] = []
    real = removal.shutil.rmtree

    def looking(path: Any, *rest: Any, **options: Any) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked.append(True)
        os.close(descriptor)
        real(path, *rest, **options)

    monkeypatch.setattr(removal.shutil, "rmtree", looking)
    removal.sweep(root, root / "versions")
    assert locked == [True]


# the hold


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\x00", b"[]", b'{"time": 3}'])
def test_a_hold_during_work_prevents_the_publish(
    root: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """It is read under the lock, at the moment of publishing; any content of the file is a hold."""

    def late(stage: str, _: float) -> None:
        if stage == "publishing" and not (root / "hold").exists():
            (root / "hold").write_bytes(b'{"time":"2026-01-01T00:00:00Z"}' if content is None else content)

    with pytest.raises(HeldError):
        publish_snapshot(HoldableStore(root), Request(root.parent / "n2"), CONFIG, late)
    assert Store(root).current() == 2
    assert Store(root).numbers() == [1, 2]
    assert resume(Store(root)) is True
    assert publish_snapshot(HoldableStore(root), Request(root.parent / "n2"), CONFIG).version == 3
