"""Labels from a snapshot to a reader: read from tables, assigned to rows, carried, and used as filters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nights import Night, configured, night, write_npy
from support.quick import quick_directory
from support.stores import assert_at_rest, snapshot_of

import embsync
from embsync.cli.main import run
from embsync.errors import SnapshotError, StoreDamaged, UsageError
from embsync.manifest import Manifest
from embsync.pipeline import CheckRefusedError, Request, publish_snapshot
from embsync.store import Store

LABELED = configured(snapshot__labels=["title", "stock", "price", "year"])


@pytest.fixture
def root() -> Iterator[Path]:
    """A path for a store."""
    with quick_directory() as directory:
        yield directory / "S"


def row(name: object, night: int) -> str:
    """Return a line of a label table; the price of every seventh item is null."""
    number = int(re.sub(r"\D", "", str(name)))
    price = "" if number % 7 == 0 else number / 10
    return f'{name},"Title, é {name} of {night}",{str(number % 2 == 0).lower()},{price},{1900 + number}'


def publish(root: Path, made: Night, number: int, table: list[str] | None, config: Any = LABELED) -> Manifest:
    """Write a night with a table of labels beside it, and publish it."""
    path = write_npy(root.parent / f"n{number}", made)
    if table is not None:
        (path / "item_labels.csv").write_text("\n".join(["item_id,title,stock,price,year", *table]) + "\n")
    return publish_snapshot(Store(root), Request(path), config)


@pytest.mark.parametrize("named", [False, True])
def test_labels_are_published_with_items_and_carried_with_them(root: Path, named: bool) -> None:
    """Absent items keep their labels, items missing in the table have none, and ids that are not items are counted."""
    first, second = night(0), night(1)
    if named:
        first, second = first.named(), second.named()
    stranger = "nobody-1" if named else 987654321
    publish(root, first, 0, [row(name, 0) for name in first.item_ids.tolist()] + [row(stranger, 0)])
    without = second.item_ids.tolist()[0]
    manifest = publish(root, second, 1, [row(name, 1) for name in second.item_ids.tolist()[1:]])
    assert {label.name: label.kind for label in manifest.labels} == {
        "title": "string",
        "stock": "boolean",
        "price": "float",
        "year": "integer",
    }
    assert [label.unknown for label in Store(root).manifest(1).labels] == [1] * 4
    with embsync.open(root) as reader:
        version = reader.current
        items = version.items
        names = items.names(np.arange(len(items))).tolist()
        assert not items.live.all()
        shown = version.labels_of(names)
        for name, live, title, year in zip(names, items.live, shown["title"], shown["year"], strict=True):
            number = int(re.sub(r"\D", "", str(name)))
            assert title == (None if name == without else f"Title, é {name} of {int(live)}")
            assert year == (None if name == without else 1900 + number)
        assert version.labels["price"].nulls == manifest.labels[2].nulls
    assert_at_rest(root)


def test_only_items_that_meet_the_conditions_are_found(root: Path) -> None:
    """It holds at any selectivity, with other filters, for users, items and vectors; there may be fewer than k."""
    made = night(0)
    publish(root, made, 0, [row(name, 0) for name in made.item_ids.tolist()])
    with embsync.open(root) as reader:
        version = reader.current
        names = version.items.names(np.arange(len(version.items)))
        prices = np.array([np.nan if price is None else price for price in version.labels_of(names)["price"]])
        users = version.side("users").names(np.arange(5))
        for low, high in ((0, 1e9), (3, 20), (5, 5.9)):
            wanted = names[(prices >= low) & (prices <= high) & (names % 2 == 0)]
            where = {"price": {"min": low, "max": high}, "stock": True}
            expected = version.search_by_user(users, 30, allowed=wanted)[0]
            np.testing.assert_array_equal(version.search_by_user(users, 30, where=where)[0], expected)
            blocked = expected[:, :1]
            found = version.search_by_user(users, 5, where=where, blocked=blocked)[0]
            np.testing.assert_array_equal(found, version.search_by_user(users, 5, allowed=wanted, blocked=blocked)[0])
            found = version.search_by_item(names[:2], 5, where=where, allowed=[names[:50], None])[0]
            assert set(found.ravel().tolist()) <= {*wanted.tolist(), -1}
        ids, _ = version.search(version.items.mean, 5, where={"title": ["nothing is called so"]})
        assert ids.shape == (1, 0)
        with pytest.raises(
            UsageError,
            match="unknown label; found 'stok'; expected title, stock, price, year; hint: did you mean stock",
        ):
            version.search(version.items.mean, where={"stok": True})
        with pytest.raises(UsageError, match="label year: a value of a different type"):
            version.search_by_user(users, where={"year": "1901"})


def test_without_configured_labels_items_keep_theirs(root: Path) -> None:
    """With other labels configured, only those are published."""
    made = night(0)
    publish(root, made, 0, [row(name, 0) for name in made.item_ids.tolist()])
    later = night(1)
    manifest = publish(root, later, 1, None, configured())
    assert [label.name for label in manifest.labels] == ["title", "stock", "price", "year"]
    with embsync.open(root) as reader:
        known = sorted(set(made.item_ids.tolist()) & set(later.item_ids.tolist()))
        assert reader.current.labels_of(known)["year"] == [1900 + name for name in known]
        new = sorted(set(later.item_ids.tolist()) - set(made.item_ids.tolist()))
        assert reader.current.labels_of(new)["title"] == [None] * len(new)
    table = [row(name, 2) for name in made.item_ids.tolist()]
    manifest = publish(root, night(2), 2, table, configured(snapshot__labels=["year"]))
    assert [label.name for label in manifest.labels] == ["year"]


def test_a_diff_shows_labels_and_which_of_them_changed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels are shown for new, gone and most moved items, and changes for items in both; missing labels are null."""
    first, second = night(0), night(1)
    publish(root, first, 0, [row(name, 0) for name in first.item_ids.tolist()])
    both = np.intersect1d(first.item_ids, second.item_ids)
    table = [row(name, int(name == both[0])) for name in second.item_ids.tolist()]
    publish(root, second, 1, table, configured(snapshot__labels=["title", "year"]))
    with embsync.open(root) as reader, reader.version(1) as before:
        after = reader.current
        found = after.diff(before, limit=3)
        items = found.items
        assert [one.labels for one in items.moved_most] == [
            {"title": f"Title, é {one.id} of {int(one.id == both[0])}", "year": 1900 + int(one.id)}
            for one in items.moved_most
        ]
        assert [one["year"] for one in items.new_labels] == [1900 + int(name) for name in items.new_ids]
        assert [one["stock"] for one in items.gone_labels] == [int(name) % 2 == 0 for name in items.gone_ids]
        assert found.users is not None
        assert found.users.new_labels == found.users.moved_most[0].labels or not found.users.moved_most[0].labels
        title, year, stock, price = found.labels
        assert (title.name, title.kind_before, title.kind_after, title.changed) == ("title", "string", "string", 1)
        assert [(one.id, one.before, one.after) for one in title.examples] == [
            (both[0], f"Title, é {both[0]} of 0", f"Title, é {both[0]} of 1")
        ]
        assert (year.changed, year.examples) == (0, [])
        assert (stock.kind_before, stock.kind_after, stock.changed) == ("boolean", None, len(both))
        assert [(one.id, one.after) for one in stock.examples] == [(name, None) for name in both[:3].tolist()]
        assert price.changed == np.count_nonzero(both % 7)
        only = after.diff(before, labels=["year"])
        assert [label.name for label in only.labels] == list(only.items.moved_most[0].labels) == ["year"]
        back = before.diff(after).labels[1]
        assert (back.name, back.kind_before, back.kind_after, back.changed) == ("stock", None, "boolean", len(both))
        with pytest.raises(UsageError, match=r"unknown label; found .titel.*did you mean title"):
            after.diff(before, labels=["titel"])
    assert run(["diff", "--store", str(root), "-n", "2"]) == 0
    said = capsys.readouterr().out
    assert "label stock: boolean before, absent after" in said
    assert f"stock of {len(both):,} items" in said
    assert f"(Title, é {items.new_ids[0]} of 0, {1900 + int(items.new_ids[0])})" in said


def test_lookup_shows_labels_from_the_shell(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels are null for unknown items; users and array output have no labels."""
    made = night(0)
    publish(root, made, 0, [row(name, 0) for name in made.item_ids.tolist()])
    name = str(made.item_ids[0])
    base = ["lookup", "--store", str(root), "--label", "title", "--label", "year"]
    assert run([*base, "--json", "--missing", "nan", "items", name, "5"]) == 0
    labels = [one["labels"] for one in json.loads(capsys.readouterr().out)["results"]]
    assert labels == [{"title": f"Title, é {name} of 0", "year": 1900 + int(name)}, {"title": None, "year": None}]
    assert run([*base, "items", name]) == 0
    assert f"Title, é {name} of 0" in capsys.readouterr().out
    for wrong in (["users", str(made.user_ids[0])], ["items", name, "--output", str(root.parent / "out.npy")]):
        assert run([*base, *wrong]) == 2
        assert "--label shows labels of items" in capsys.readouterr().err
    assert run(["lookup", "--store", str(root), "items", name, "--label", "titel"]) == 2
    assert "did you mean title" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (None, "no labels; found neither item_labels.parquet nor item_labels.csv"),
        (["item_id,title,stock,price", "1,a,true,2"], "no label year; found columns item_id, title, stock, price"),
        (
            ["item_id,title,stock,price,year", "1,a,true,2"],
            "a row with a different number of fields; found 4 fields in row 2; expected 5",
        ),
        (
            ["item_id,title,stock,price,year", "987654321,a,true,2,3"],
            "labels for other ids; found 987654321, none of which",
        ),
        (
            ["item_id,title,stock,price,year", "x,a,true,2,3"],
            "labels with ids of a different type from the items'; found 'x'",
        ),
        (["item_id,title,stock,price,year", "1,a,true,2,3", "1,a,true,2,3"], "repeated ids"),
        (["title,stock,price,year", "a,true,2,3"], "labels without ids|id column"),
        (["item_id,title,stock,price,year", '1,"a,true,2,3'], "not CSV"),
        (
            ["item_id,title,stock,price,year", "1,a,maybe,2,3"],
            "label stock is of a different type from before; found string; expected boolean",
        ),
        (
            ["item_id,title,stock,price,year", "1,a,true,2,3.5"],
            "label year is of a different type from before; found float; expected integer",
        ),
        (
            ["item_id,title,stock,price,year", "1,a,true,2,-9223372036854775808"],
            "label year has an integer out of range; found -9223372036854775808; expected above -2",
        ),
        (
            ["item_id,title,stock,price,year", "1,a,true,18446744073709551616,3"],
            "label price has an integer out of range; found 18446744073709551616",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_in_one_line(root: Path, table: list[str] | None, said: str) -> None:
    """The store is unchanged."""
    made = night(0)
    publish(root, made, 0, [row(name, 0) for name in made.item_ids.tolist()])
    path = write_npy(root.parent / "wrong", night(1))
    first = night(1).item_ids.tolist()[0]
    if table is not None:
        lines = [re.sub("^1,", f"{first},", line) for line in table]
        (path / "item_labels.csv").write_text("\n".join(lines) + "\n")
    before = snapshot_of(root)
    with pytest.raises(SnapshotError, match=said):
        publish_snapshot(Store(root), Request(path), LABELED)
    assert snapshot_of(root) == before


def test_the_estimate_covers_labels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate includes labels, which may be most of a version."""
    asked: list[int] = []
    monkeypatch.setattr(Store, "require_room", lambda _, wanted: asked.append(wanted))
    made = night(0, items=2000, users=60, width=2)
    rows = [f"{name},{f'{name} ' * 600},true,1,1" for name in made.item_ids.tolist()]
    manifest = publish(root, made, 0, rows)
    assert sum(entry.bytes for entry in manifest.files) <= asked[0]


def test_readers_report_forged_labels_as_damage(root: Path) -> None:
    """Codes that refer to no string are reported, although the file is not hashed when it is opened."""
    made = night(0)
    publish(root, made, 0, [row(name, 0) for name in made.item_ids.tolist()])
    path = root / "versions/000001/labels/title.npy"
    codes = np.load(path)
    codes[3] = len(codes) + 7
    path.unlink()
    np.save(path, codes)
    with (
        embsync.open(root) as reader,
        pytest.raises(StoreDamaged, match=r"labels/title\.npy: damaged label; found codes"),
    ):
        reader.current.labels_of(made.item_ids[:5])


def test_labels_come_from_parquet(root: Path) -> None:
    """Columns beside the vectors may be in several files, with dictionaries, lists and only nulls."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    made = night(0)
    items, users = made.both
    path = root.parent / "parquet"
    (path / "items").mkdir(parents=True)
    tags = [None if place % 5 == 0 else ["a", "b"][: place % 3] for place in range(len(items))]
    for part in range(2):
        table = arrow.table(
            {
                "item_id": made.item_ids[part::2],
                "vector": list(items[part::2]),
                "tags": arrow.array(tags[part::2], arrow.list_(arrow.string())),
                "genre": arrow.array(["x", None] * len(items), arrow.string())[
                    : len(items[part::2])
                ].dictionary_encode(),
                "stock": arrow.array([True] * len(items[part::2])),
                "price": arrow.array([None] * len(items[part::2]), arrow.decimal128(10, 2)),
            }
        )
        parquet.write_table(table, path / "items" / f"part-{part}.parquet")
    parquet.write_table(arrow.table({"user_id": made.user_ids, "vector": list(users)}), path / "users.parquet")
    config = configured(snapshot__labels=["tags", "genre", "stock", "price"])
    manifest = publish_snapshot(Store(root), Request(path), config)
    assert [label.kind for label in manifest.labels] == ["strings", "string", "boolean", "float"]
    with embsync.open(root) as reader:
        assert reader.current.labels_of(made.item_ids)["tags"] == tags
        found, _ = reader.current.search(reader.current.items.mean, 5, where={"tags": "b"})
        assert ["b" in one for one in reader.current.labels_of(found[0])["tags"]] == [True] * 5
    with pytest.raises(SnapshotError, match="a label of a type that is not read; found list<element: float>"):
        publish_snapshot(Store(root), Request(path), configured(snapshot__labels=["vector"]))
    beside = write_npy(root.parent / "beside", made)
    parquet.write_table(
        arrow.table({"item_id": made.item_ids, "n": np.arange(len(items))}), beside / "item_labels.parquet"
    )
    publish_snapshot(Store(root.parent / "T"), Request(beside), configured(snapshot__labels=["n"]))
    with embsync.open(root.parent / "T") as reader:
        assert reader.current.labels_of(made.item_ids)["n"] == list(range(len(items)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{id},a,true,2,3.5", "label year is of a different type from before; found float; expected integer"),
        ("987654321,a,true,2,3", "labels for other ids; found 987654321, none of which is an item"),
    ],
)
def test_invalid_labels_are_refused_in_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    """``sync`` and ``relabel`` exit with 3, and the store is unchanged."""
    made = night(0)
    publish(root, made, 0, [row(name, 0) for name in made.item_ids.tolist()])
    path = write_npy(root.parent / "wrong", night(1))
    table = "item_id,title,stock,price,year\n" + line.format(id=night(1).item_ids[0]) + "\n"
    (path / "item_labels.csv").write_text(table)
    monkeypatch.setenv("EMBSYNC_SNAPSHOT__LABELS", "[title, stock, price, year]")
    monkeypatch.setenv("EMBSYNC_INDEX__FACTORY", "Flat")
    before = snapshot_of(root)
    for command in (["sync", str(path)], ["relabel", str(path / "item_labels.csv")]):
        assert run([*command, "--store", str(root)]) == 3
        complaint = capsys.readouterr().err.strip()
        assert said in complaint
        assert len(complaint.splitlines()) == 1
    assert snapshot_of(root) == before


@pytest.mark.parametrize(("value", "said"), [(-(2**63), "-2\\^63 in row 1"), (2**63, "2\\^63 or more")])
def test_an_integer_that_is_reserved_for_null_or_too_large_is_refused(root: Path, value: int, said: str) -> None:
    """The value is neither published as null nor rounded."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    made = night(0)
    path = write_npy(root.parent / "n0", made)
    numbers = arrow.array([1, value], arrow.int64() if value < 0 else arrow.uint64())
    parquet.write_table(arrow.table({"item_id": made.item_ids[:2], "n": numbers}), path / "item_labels.parquet")
    with pytest.raises(SnapshotError, match=f"an integer label out of range; found {said}"):
        publish_snapshot(Store(root), Request(path), configured(snapshot__labels=["n"]))
    assert not root.exists()


def test_errors_of_vectors_are_reported_before_errors_of_labels(root: Path) -> None:
    """A refusal by the checks is journaled even if the labels are invalid too."""
    made, later = night(0), night(1)
    publish(root, made, 0, [row(name, 0) for name in made.item_ids.tolist()])
    with pytest.raises(CheckRefusedError, match="cosine_items"):
        publish(root, later.shuffled_item_ids(), 1, ["1,too,few"])
    assert list(Store(root).journal.events())[-1].event == "refused"
    later.items[3, 2] = np.nan
    with pytest.raises(SnapshotError, match=r"not finite|NaN|infinit"):
        publish(root, later, 2, ["1,too,few"])
    with pytest.raises(SnapshotError, match="a row with a different number of fields"):
        publish(root, night(1), 3, ["1,too,few"])


def test_the_report_of_an_unconfigured_label_table_names_the_key(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_npy(root.parent / "n0", night(0))
    (folder / "item_labels.csv").write_text("id,title\n1000,one\n")
    assert run(["sync", str(folder), "--store", str(root)]) == 0
    assert "not read: item_labels.csv; name its columns in snapshot.labels to publish them" in capsys.readouterr().out
