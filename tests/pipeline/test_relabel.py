"""``relabel``: other labels for the same rows and index, without a step of the lineage."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.nights import configured, night, write_npy
from support.parts import in_parts
from support.quick import quick_directory
from support.stores import assert_at_rest, assert_intact, snapshot_of

import embsync
from embsync.cli.main import run
from embsync.errors import NotFoundError, SnapshotError, StoreDamaged
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.relabel import relabel
from embsync.store import Store, staging

LABELED = configured(snapshot__labels=["stock", "price"])


@pytest.fixture
def root() -> Iterator[Path]:
    """A store with two nights and labels."""
    with quick_directory() as directory:
        for number in range(2):
            publish(directory / "S", number)
        yield directory / "S"


def publish(root: Path, number: int) -> None:
    made = night(number)
    path = write_npy(root.parent / f"n{number}", made)
    rows = [f"{name},true,{name}" for name in made.item_ids.tolist()]
    (path / "item_labels.csv").write_text("\n".join(["item_id,stock,price", *rows]))
    publish_snapshot(Store(root), Request(path), LABELED)


def table(root: Path, *lines: str) -> Path:
    file = root.parent / "new.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_relabelling_shares_all_other_files(root: Path) -> None:
    """Files are linked, items and labels missing in the table keep theirs, and no row ages."""
    ids = night(1).item_ids.tolist()
    manifest = relabel(
        Store(root), table(root, "item_id,stock", f"{ids[0]},false", f"{ids[1]},", "987654321,true"), LABELED
    )
    assert (manifest.version, manifest.parent, manifest.relabels) == (3, 2, 2)
    assert {label.name: (label.kind, label.nulls, label.unknown) for label in manifest.labels} == {
        "stock": ("boolean", 1, 1),
        "price": ("integer", 0, 0),
    }
    for entry in manifest.files:
        one, other = (root / "versions" / number / entry.path for number in ("000002", "000003"))
        assert one.samefile(other) != entry.path.startswith("labels/")
    assert assert_intact(root) == 3
    assert_at_rest(root)
    with embsync.open(root) as reader, reader.version(2) as before:
        version = reader.current
        assert version.labels_of(ids[:3]) == {"stock": [False, None, True], "price": ids[:3]}
        np.testing.assert_array_equal(version.lineage, before.lineage)
        names = version.items.names(np.arange(len(version.items)))
        np.testing.assert_array_equal(version.items.age(names), before.items.age(names))
        users = version.side("users").names(np.arange(5))
        np.testing.assert_array_equal(version.search_by_user(users)[0], before.search_by_user(users)[0])
    publish(root, 2)
    with embsync.open(root) as reader:
        assert reader.current.lineage.tolist() == [1, 2, 4]
        assert reader.current.items.age(names, "nan").max() == before.items.age(names).max() + 1
    events = [event.event for event in Store(root).journal.events()]
    assert events == ["published", "published", "relabelled", "published"]


def test_users_in_part_files_stay_as_they_are(root: Path) -> None:
    """The manifest describes the same files with their bounds, lookups return the same vectors, and no row ages."""
    folder = in_parts(root)
    before = Store(root).manifest(2)
    manifest = relabel(Store(root), table(root, "item_id,stock", f"{night(1).item_ids[0]},false"), LABELED)
    assert (manifest.version, manifest.format, manifest.parts) == (3, 2, before.parts)
    assert (folder.parent / "000003/users/part-00001.parquet").stat().st_nlink == 2
    assert Store(root).damaged_files(3) == []
    with embsync.open(root) as reader, reader.version(2) as old:
        users, theirs = reader.current.users, old.users
        assert users is not None
        assert theirs is not None
        ids = users.names(np.arange(len(users)))
        assert users.age(ids).tolist() == theirs.age(ids).tolist()
        assert np.array_equal(users.lookup(ids), theirs.lookup(ids))


def test_hourly_relabelling_keeps_as_many_nights(root: Path) -> None:
    """The two newest versions of each night are kept, and a night counts once."""
    ids = night(1).item_ids.tolist()
    config = configured(snapshot__labels=["stock", "price"], store__keep_versions=2)
    for hour in range(4):
        relabel(Store(root), table(root, "item_id,price", f"{ids[0]},{hour}"), config)
    assert Store(root).numbers() == [1, 5, 6]
    assert Store(root).rollback(None) == (6, 5)
    assert_intact(root)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ("item_id,stock", "{id},maybe"),
            "label stock is of a different type from before; found string; expected boolean",
        ),
        (("item_id,stok", "{id},true"), "labels are not configured.*found stok; expected among stock, price"),
        (("item_id,stock", "987654321,true"), "labels for other ids; found 987654321"),
        (("item_id,stock", "x,true"), "labels with ids of a different type"),
    ],
)
def test_an_invalid_table_changes_nothing(root: Path, lines: tuple[str, ...], said: str) -> None:
    """The error is one line, and the store is unchanged."""
    file = table(root, *(line.format(id=night(1).item_ids[0]) for line in lines))
    before = snapshot_of(root)
    with pytest.raises(SnapshotError, match=said):
        relabel(Store(root), file, LABELED)
    assert snapshot_of(root) == before
    with pytest.raises(NotFoundError):
        relabel(Store(root), root.parent / "none.csv", LABELED)


def test_a_damaged_file_is_not_linked(root: Path) -> None:
    """It includes the index."""
    file = table(root, "item_id,stock", f"{night(1).item_ids[0]},false")
    for name in ("items/vectors.npy", "index.faiss"):
        path = root / "versions/000002" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(StoreDamaged):
            relabel(Store(root), file, LABELED)
        path.write_bytes(whole)
    assert Store(root).numbers() == [1, 2]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP])
def test_without_hard_links_files_are_copied(root: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """It holds if links are not supported, cross file systems, or are too many; copies are verified."""

    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(staging.os, "link", refused)
    relabel(Store(root), table(root, "item_id,stock", f"{night(1).item_ids[0]},false"), LABELED)
    assert assert_intact(root) == 3
    assert not (root / "versions/000003/index.faiss").samefile(root / "versions/000002/index.faiss")


def test_the_command_says_what_it_published(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The output includes the number of ids that are not items; the history shows the labels."""
    file = table(root, "item_id,stock", f"{night(1).item_ids[0]},false", "987654321,true")
    assert run(["relabel", str(file), "--store", str(root)]) == 0
    said = capsys.readouterr().out
    assert "published version 3: stock, price of version 2" in said
    assert "1 ids in" in said
    assert said.splitlines()[-1] == "  kept, of each night the two newest: 1, 2, 3"
    assert run(["history", "--store", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[-1]["reason"] == "stock from new.csv"
    for _ in range(2):
        assert run(["relabel", str(file), "--store", str(root)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "  kept, of each night the two newest: 1, 4, 5"
