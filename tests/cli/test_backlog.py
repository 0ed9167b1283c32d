"""The watched directory and the journal, as ``embsync sync`` and ``embsync status`` report them from run to run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nights import Night, night, write_npy

from embsync.cli.main import run
from embsync.store import Store
from embsync.store.journal import Event


class Runs:
    """A watched directory and a store."""

    def __init__(self, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.watch = root / "watch"
        self.watch.mkdir()
        self.root = root / "store"
        self._capfd = capfd

    def leave(self, name: str, made: Night) -> Path:
        """Leave a snapshot with its marker."""
        folder = write_npy(self.watch / name, made)
        (folder / "_SUCCESS").touch()
        return folder

    def ask(self, *command: str) -> dict[str, Any]:
        """Run a command and return its JSON document."""
        self._capfd.readouterr()
        run([*command, "--store", str(self.root), "--json"])
        found: dict[str, Any] = json.loads(self._capfd.readouterr().out)
        return found

    def sync(self, *paths: str) -> list[tuple[str, str]]:
        """Sync the backlog, or paths; return the outcome of each."""
        return [(Path(one["snapshot"]).name, one["outcome"]) for one in self.ask("sync", *paths)["results"]]

    def states(self) -> dict[str, str]:
        """Return the state of each child of the watched directory."""
        return {one["name"]: one["state"] for one in self.ask("status")["snapshots"]}

    def events(self) -> list[Event]:
        """Return the journal."""
        return list(Store(self.root).journal.events())


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Runs:
    """One published snapshot."""
    found = Runs(tmp_path, capfd)
    monkeypatch.setenv("EMBSYNC_WATCH__PATH", str(found.watch))
    monkeypatch.setenv("EMBSYNC_WATCH__BACKLOG", "every")
    found.leave("day=1", night(1))
    assert found.sync() == [("day=1", "published")]
    return found


TOUCHES: dict[str, Callable[[Path], object]] = {
    "touched": lambda day: (day / "items.npy").touch(),
    "copied over itself": lambda day: shutil.copy2(
        shutil.copy2(day / "items.npy", day.parent / ".aside"), day / "items.npy"
    ),
    "marked again": lambda day: (day / "_SUCCESS").unlink(),
    "a note added": lambda day: (day / "notes.md").write_text("about this run"),
}


@pytest.mark.parametrize("how", TOUCHES)
def test_a_snapshot_that_was_only_touched_is_not_published_again(
    runs: Runs, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers and ids make no new version; they are compared once, and not read again at each scan."""
    TOUCHES[how](runs.watch / "day=1")
    (runs.watch / "day=1" / "_SUCCESS").touch()  # last, as a job that wrote it again would
    assert runs.sync() == [("day=1", "unchanged")]
    reads: list[object] = []
    monkeypatch.setattr("embsync.pipeline.publish_snapshot", lambda *_: reads.append(1))
    for _ in range(3):
        assert runs.sync() == []
        assert runs.states()["day=1"] == "published"
    assert reads == []
    assert [one["version"] for one in runs.ask("status")["snapshots"] if one["state"] == "published"] == [1]
    assert Store(runs.root).numbers() == [1]
    assert [event.event for event in runs.events()] == ["published", "unchanged"]


def test_a_snapshot_published_by_an_earlier_release_is_known(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A touched snapshot whose fingerprint follows the earlier rule is unchanged, and its version can be verified."""
    with monkeypatch.context() as earlier:
        for module in ("run", "second_pass"):
            earlier.setattr(f"embsync.pipeline.{module}.fingerprint_of", lambda _: _earlier(runs.watch / "day=2"))
        runs.leave("day=2", night(2))
        assert runs.sync() == [("day=2", "published")]
    (runs.watch / "day=2" / "items.npy").touch()
    (runs.watch / "day=2" / "_SUCCESS").touch()
    assert runs.sync() == [("day=2", "unchanged")]
    assert runs.ask("verify")["snapshot"] is not None
    assert [check["name"] for check in runs.ask("sync", str(runs.watch / "day=2"))["results"][0]["checks"]] == [
        "same_snapshot"
    ]
    changed = night(2)
    changed.items[3, 1] += 1
    runs.leave("day=2", changed)
    assert runs.sync() == [("day=2", "published")]


def _earlier(path: Path) -> str:
    """Return the fingerprint that releases before ``rows1`` gave to a snapshot of int64 ids and float32 numbers."""
    digests = []
    for name in ("item", "user"):
        rows, ids = np.load(path / f"{name}s.npy"), np.load(path / f"{name}_ids.npy")
        head = f"{name}s {rows.shape[0]} {rows.shape[1]} {ids.dtype.str}"
        parts = (head.encode(), ids.tobytes(), rows.dtype.str.encode(), rows.tobytes())
        digests.append(hashlib.sha256(b"".join(parts)).hexdigest())
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


CHANGES: dict[str, Callable[[Night], object]] = {
    "a number": lambda made: made.items.__setitem__((3, 1), made.items[3, 1] + 1),
    "an id": lambda made: made.item_ids.__setitem__(3, 10**9),
    "the order": lambda made: made.items.__setitem__(slice(0, 2), made.items[[1, 0]]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_snapshot_that_was_changed_is_published_again(runs: Runs, what: str) -> None:
    """A changed number, a changed id or two exchanged rows in files of the same names and sizes make a new version."""
    made = night(1)
    CHANGES[what](made)
    runs.leave("day=1", made)
    assert runs.sync() == [("day=1", "published")]
    assert Store(runs.root).numbers() == [1, 2]


def test_a_snapshot_of_the_same_name_elsewhere_is_a_different_one(runs: Runs, tmp_path: Path) -> None:
    """A snapshot published by hand from another directory, whatever its name, does not affect the watched directory."""
    for name in ("day=2", "day=9"):
        elsewhere = write_npy(tmp_path / "elsewhere" / name, night(2))
        assert runs.sync(str(elsewhere)) == [(name, "published")]
    assert runs.states() == {"day=1": "published"}
    runs.leave("day=2", night(3))
    assert runs.states()["day=2"] == "next"
    assert runs.sync() == [("day=2", "published")]
    assert [(event.snapshot or {})["path"] for event in runs.events()][-1] == str(runs.watch / "day=2")


def test_a_watched_snapshot_is_recognised_by_any_path(runs: Runs, tmp_path: Path) -> None:
    """A snapshot that is published by hand, or through a link to the directory, counts as handled."""
    runs.leave("day=2", night(2))
    link = tmp_path / "link"
    link.symlink_to(runs.watch)
    assert runs.sync(str(link / "day=2")) == [("day=2", "published")]
    assert runs.states() == {"day=1": "published", "day=2": "published"}
    assert runs.sync() == []


def test_a_refused_snapshot_is_not_retried_until_it_changes(runs: Runs) -> None:
    """It is refused once; its contents are checked again after they change."""
    bad = night(2).shuffled_item_ids()
    runs.leave("day=2", bad)
    assert runs.sync() == [("day=2", "refused")]
    assert runs.sync() == []
    assert runs.states()["day=2"] == "refused"
    (runs.watch / "day=2" / "_SUCCESS").touch()
    assert runs.sync() == [("day=2", "unchanged")]
    assert runs.sync() == []
    assert runs.states()["day=2"] == "refused"
    good = night(2)
    assert not np.array_equal(good.item_ids, bad.item_ids)
    runs.leave("day=2", good)
    assert runs.sync() == [("day=2", "published")]
