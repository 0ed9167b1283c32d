"""What is synced, and before what: the order without which a power cut tears a version or loses one that was told of.

Every call that changes names and every fsync is recorded, with the inode it was made on. Power cuts on a real file
system are in ``test_power_cut.py``; this says which call of the order is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import sync

from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.widen import widen
from embsync.store import Store, layout
from embsync.store.hold import HOLD, hold, resume

SIZES = {"items": 60, "users": 50, "width": 4}


@dataclass(frozen=True)
class Call:
    """One call: its name, the name of what it was made on, the new name, and the inode."""

    name: str
    path: str
    target: str
    inode: int


class Trace:
    """The calls, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def first(self, name: str, *, target: Path | None = None, path: str = "", after: int = -1) -> int:
        """Return the place of the first such call."""
        for place, call in enumerate(self.calls):
            if place > after and call.name == name and path in call.path and str(target or call.target) == call.target:
                return place
        raise AssertionError(f"no {name} of {path or target} after call {after}")

    def synced(self, inode: int, after: int, before: int) -> bool:
        """Return whether an inode was synced between two calls."""
        return any(call.name == "fsync" and call.inode == inode for call in self.calls[after + 1 : before])


@pytest.fixture
def root() -> Iterator[Path]:
    """A store with one version."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, **SIZES), "n0")
        yield directory / "S"


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Trace]:
    """Begin to record."""

    def begin() -> Trace:
        found = Trace()

        def recorded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if name in {"fsync", "fdatasync"}:
                    descriptor = arguments[0]
                    path, target = str(Path(f"/proc/self/fd/{descriptor}").readlink()), ""
                    inode = os.fstat(descriptor).st_ino
                else:
                    path, target = str(arguments[0]), str(arguments[1]) if name in {"rename", "replace"} else ""
                    inode = 0
                done = real(*arguments, **options)
                found.calls.append(Call(name.replace("fdatasync", "fsync"), path, target, inode))
                return done

            return call

        for name in ("fsync", "fdatasync", "rename", "replace", "unlink", "rmdir", "mkdir"):
            monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
        return found

    return begin


def _inode(path: Path) -> int:
    return path.stat().st_ino


PUBLISHES: dict[str, Callable[[Path, Path], object]] = {
    "publish": lambda root, path: publish_snapshot(Store(root), Request(path), configured()),
    "new space": lambda root, path: publish_snapshot(Store(root), Request(path, new_space=True), configured()),
    "widen": lambda root, _: widen(Store(root), 6, configured()),
}


@pytest.mark.parametrize("how", PUBLISHES)
def test_a_version_is_on_the_disk_before_it_has_its_name_and_its_name_before_current_says_it(
    root: Path, trace: Callable[[], Trace], how: str
) -> None:
    """Every file and every directory, then the rename, then its directory, then the link, then that one's directory."""
    path = write_npy(root.parent / "n1", night(1, **SIZES))
    found = trace()
    PUBLISHES[how](root, path)
    version = Store(root).path(2)
    moved = found.first("rename", target=version)
    switched = found.first("replace", target=root / layout.CURRENT)
    assert moved < switched
    entries = [version, *version.rglob("*")]
    assert sum(entry.is_file() for entry in entries) > 12
    for entry in entries:
        assert found.synced(_inode(entry), -1, moved), f"{entry.relative_to(root)} was not synced before it was moved"
    assert found.synced(_inode(version.parent), moved, switched), "the version's name was not synced before the switch"
    journaled = found.first("fsync", path=layout.JOURNAL, after=switched)
    assert found.synced(_inode(root), switched, journaled), "the link was not synced before the journal told of it"


def test_a_first_version_lies_in_directories_that_are_on_the_disk(trace: Callable[[], Trace]) -> None:
    """A store that is made, and what leads to it; a journal that is made as well."""
    with quick_directory() as directory:
        root = directory / "above" / "S"
        path = write_npy(directory / "n0", night(0, **SIZES))
        found = trace()
        publish_snapshot(Store(root), Request(path), configured())
        moved = found.first("rename", target=Store(root).path(1))
        for folder in (directory, root.parent, root):
            made = found.first("mkdir", path=str(folder / next(iter((root / "versions").relative_to(folder).parts))))
            assert found.synced(_inode(folder), made, moved), f"{folder} was not synced after something was made in it"
        journaled = found.first("fsync", path=layout.JOURNAL)
        assert found.synced(_inode(root), journaled, len(found.calls)), "the journal's name was not synced"


def test_a_rollback_is_on_the_disk_before_the_journal_tells_of_it(root: Path, trace: Callable[[], Trace]) -> None:
    """The link's directory, then the line."""
    sync(root, night(1, **SIZES), "n1")
    found = trace()
    Store(root).rollback(1)
    switched = found.first("replace", target=root / layout.CURRENT)
    journaled = found.first("fsync", path=layout.JOURNAL, after=switched)
    assert found.synced(_inode(root), switched, journaled)


def test_a_version_is_out_of_sight_on_the_disk_before_anything_of_it_is_deleted(
    root: Path, trace: Callable[[], Trace]
) -> None:
    """Else a power cut leaves a version with holes under its name; and what ``current`` names is synced before that."""
    for number in (1, 2):
        sync(root, night(number, **SIZES), f"n{number}")
    store = Store(root)
    versions = _inode(store.versions)
    with store.locked():
        found = trace()
        assert store.prune(1)[0] == [1, 2]
    for number in (1, 2):
        name = layout.version_name(number)
        retired = next(
            place for place, call in enumerate(found.calls) if call.name == "rename" and call.path.endswith(name)
        )
        assert found.synced(_inode(root), -1, retired), "what current names was not synced"
        deleted = found.first("unlink", after=retired)
        assert found.synced(versions, retired, deleted), "deleted before its new name was synced"


SMALL: dict[str, Callable[[Path], object]] = {
    HOLD: lambda root: hold(Store(root), "moving house"),
    layout.STATUS: lambda root: _replace(root / layout.STATUS),
}


def _replace(path: Path) -> None:
    from embsync.store.durable import replace_file

    replace_file(path, b"{}")


@pytest.mark.parametrize("name", SMALL)
def test_a_small_file_is_synced_before_it_has_its_name_and_its_name_after(
    root: Path, trace: Callable[[], Trace], name: str
) -> None:
    """Contents, rename, directory."""
    found = trace()
    SMALL[name](root)
    named = found.first("replace", target=root / name)
    assert found.synced(_inode(root / name), -1, named), "its contents were not synced"
    assert found.synced(_inode(root), named, len(found.calls)), "its name was not synced"


def test_a_hold_that_is_over_is_over_on_the_disk(root: Path, trace: Callable[[], Trace]) -> None:
    """Before the journal says so."""
    hold(Store(root))
    found = trace()
    resume(Store(root))
    gone = found.first("unlink", path=HOLD)
    journaled = found.first("fsync", path=layout.JOURNAL, after=gone)
    assert found.synced(_inode(root), gone, journaled)
