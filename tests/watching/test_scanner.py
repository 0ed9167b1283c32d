"""The queue that results from scans of the watched directory, from one scan to the next."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.nights import configured, night, write_npy
from support.stores import sync

from embsync.errors import EmbsyncError
from embsync.store import Store
from embsync.watching.scanner import Scanner, store_state


@pytest.fixture
def store(root: Path) -> Store:
    """An empty store."""
    made = Store(root / "S")
    made.create()
    return made


@pytest.fixture
def scanner(root: Path, store: Store) -> Iterator[Scanner]:
    """A directory with two snapshots, scanned once."""
    for number in (1, 2):
        write_npy(root / f"watch/day={number}", night(number, items=20, users=10, width=4))
    config = configured(
        watch__path=str(root / "watch"),
        store__path=str(store.root),
        watch__settle_seconds=0,
        watch__backlog="every",
    )
    made = Scanner(config, store, lambda: None)
    made.scan(0.0)
    assert waiting(made) == ["day=1", "day=2"]
    yield made
    made.close()


def waiting(scanner: Scanner) -> list[str]:
    """Return the names in the queue, in order."""
    return [entry.child.name for entry in scanner.queue]


def test_a_snapshot_of_unknown_order_is_not_started(scanner: Scanner, store: Store) -> None:
    """While the journal cannot be read, nothing is queued, since any snapshot may have been handled."""
    journal = store.root / "journal.jsonl"
    journal.mkdir()
    with pytest.raises(EmbsyncError):
        scanner.scan(1.0)
    assert (scanner.queue, scanner.entries) == ([], [])
    journal.rmdir()
    scanner.scan(2.0)
    assert waiting(scanner) == ["day=1", "day=2"]


def test_an_incomplete_snapshot_waits_until_it_changes(scanner: Scanner) -> None:
    """Other snapshots are queued meanwhile; the deferral ends when its contents change."""
    child = scanner.queue[0].child
    scanner.defer(replace(child, stamp="of what was there before"), "half of it", 1.0)
    scanner.refresh()
    assert waiting(scanner) == ["day=1", "day=2"]
    scanner.defer(child, "half of it", 1.0)
    scanner.refresh()
    assert waiting(scanner) == ["day=2"]
    assert {entry.child.name: entry.reason for entry in scanner.entries if entry.state == "waiting"} == {
        "day=1": "half of it"
    }


def test_a_repaired_store_has_a_different_state(root: Path) -> None:
    """A repair ends the wait at once, even if a file gets the same name, size and contents, or the link is restored."""
    for number in (1, 2):
        sync(root / "S", night(number, items=20, users=10, width=4), f"n{number}")
    store = Store(root / "S")
    before = store_state(store)
    assert store_state(store) == before
    file = store.path(2) / "items/vectors.npy"
    shutil.copy2(file, root / "copy")
    (root / "copy").replace(file)
    mended = store_state(store)
    assert mended != before
    (store.root / "current").unlink()
    (store.root / "current").symlink_to("versions/000001")
    assert store_state(store) not in (before, mended)
