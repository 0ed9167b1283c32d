"""Labels from a snapshot to a reader: read from tables, laid out on the rows, carried, filtered by."""

from __future__ import annotations

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
from embsync.errors import SnapshotError, UsageError
from embsync.manifest import Manifest
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

LABELED = configured(snapshot__labels=["title", "stock", "price", "year"])


@pytest.fixture
def root() -> Iterator[Path]:
    """Where a store may be made."""
    with quick_directory() as directory:
        yield directory / "S"


def row(name: object, night: int) -> str:
    """One line of a table of labels; the price of every seventh is null."""
    number = int(re.sub(r"\D", "", str(name)))
    price = "" if number % 7 == 0 else number / 10
    return f'{name},"Title, é {name} of {night}",{str(number % 2 == 0).lower()},{price},{1900 + number}'


def publish(root: Path, made: Night, number: int, table: list[str] | None, config: Any = LABELED) -> Manifest:
    """Leave a night with a table of labels beside it, and publish it."""
    path = write_npy(root.parent / f"n{number}", made)
    if table is not None:
        (path / "item_labels.csv").write_text("\n".join(["item_id,title,stock,price,year", *table]) + "\n")
    return publish_snapshot(Store(root), Request(path), config)


@pytest.mark.parametrize("named", [False, True])
def test_labels_come_with_the_items_and_stay_with_carried_ones(root: Path, named: bool) -> None:
    """Absent items keep their last, new ones have theirs, one that the table lacks has none; others are counted."""
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
    """At any selectivity, beside other filters, for users, items and vectors; fewer than k where there are fewer."""
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
        with pytest.raises(UsageError, match="label year: a value of another type"):
            version.search_by_user(users, where={"year": "1901"})


def test_without_configured_labels_items_keep_theirs(root: Path) -> None:
    """And with others configured those are the only ones."""
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


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (None, "no labels; found neither item_labels.parquet nor item_labels.csv"),
        (["item_id,title,stock,price", "1,a,true,2"], "no label year; found columns item_id, title, stock, price"),
        (
            ["item_id,title,stock,price,year", "1,a,true,2"],
            "a row of another length; found 4 fields in row 2; expected 5",
        ),
        (
            ["item_id,title,stock,price,year", "987654321,a,true,2,3"],
            "labels of other ids; found 987654321, none of which",
        ),
        (
            ["item_id,title,stock,price,year", "x,a,true,2,3"],
            "labels of ids of another type than the items'; found 'x'",
        ),
        (["item_id,title,stock,price,year", "1,a,true,2,3", "1,a,true,2,3"], "ids repeat"),
        (["title,stock,price,year", "a,true,2,3"], "labels without ids|id column"),
        (["item_id,title,stock,price,year", '1,"a,true,2,3'], "not CSV"),
        (
            ["item_id,title,stock,price,year", "1,a,maybe,2,3"],
            "label stock is of another type than before; found string; expected boolean",
        ),
        (
            ["item_id,title,stock,price,year", "1,a,true,2,3.5"],
            "label year is of another type than before; found float; expected integer",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_in_one_line(root: Path, table: list[str] | None, said: str) -> None:
    """The store stays as it was."""
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


def test_labels_come_from_parquet(root: Path) -> None:
    """Columns beside the vectors, in several files, with dictionaries, lists and columns of nothing but nulls."""
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
        assert all("b" in one for one in reader.current.labels_of(found[0])["tags"])
    with pytest.raises(SnapshotError, match="a label of a type that is not read; found list<element: float>"):
        publish_snapshot(Store(root), Request(path), configured(snapshot__labels=["vector"]))
    beside = write_npy(root.parent / "beside", made)
    parquet.write_table(
        arrow.table({"item_id": made.item_ids, "n": np.arange(len(items))}), beside / "item_labels.parquet"
    )
    publish_snapshot(Store(root.parent / "T"), Request(beside), configured(snapshot__labels=["n"]))
    with embsync.open(root.parent / "T") as reader:
        assert reader.current.labels_of(made.item_ids)["n"] == list(range(len(items)))


def test_a_table_of_labels_that_nobody_asked_for_is_named_with_what_to_do(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_npy(root.parent / "n0", night(0))
    (folder / "item_labels.csv").write_text("id,title\n1000,one\n")
    assert run(["sync", str(folder), "--store", str(root)]) == 0
    assert "not read: item_labels.csv; its columns named in snapshot.labels are published" in capsys.readouterr().out
