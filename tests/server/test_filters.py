"""Filters over HTTP and from the shell: a list for each query, and conditions on labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support.http import Server, serving
from support.nights import configured, night, write_npy
from support.quick import quick_directory

import embsync
from embsync.cli.main import run
from embsync.pipeline import Request, publish_snapshot
from embsync.reader import Version
from embsync.store import Store


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """One night with labels: a genre, and a price that every third item lacks."""
    with quick_directory() as directory:
        made = night(0, items=150, users=80, width=6)
        path = write_npy(directory / "n0", made)
        rows = [f"{name},{'abc'[name % 3]},{name if name % 3 else ''}" for name in made.item_ids.tolist()]
        (path / "item_labels.csv").write_text("\n".join(["item_id,genre,price", *rows]))
        publish_snapshot(Store(directory / "S"), Request(path), configured(snapshot__labels=["genre", "price"]))
        yield directory / "S"


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with serving(root) as running:
        yield running


@pytest.fixture(scope="module")
def version(root: Path) -> Iterator[Version]:
    with embsync.open(root) as reader:
        yield reader.current


@pytest.fixture(scope="module")
def users(version: Version) -> list[int]:
    found: list[int] = version.side("users").ids[:3].tolist()
    return found


@pytest.mark.parametrize("name", ["allowed", "blocked"])
def test_each_query_may_have_its_own_list(server: Server, version: Version, users: list[int], name: str) -> None:
    """Lists of any lengths, and null for no filter, give the reader's results."""
    best = version.search_by_user(users, 12)[0].tolist()
    lists = [best[0], None, best[2][:4]]
    answer = server.ask("/v1/search", {"users": users, "k": 5, name: lists})
    assert answer.status == 200, answer.plain
    assert answer.plain["ids"] == version.search_by_user(users, 5, **{name: lists})[0].tolist()


def test_conditions_filter_and_labels_are_returned(server: Server, version: Version, users: list[int]) -> None:
    """A condition is a value, a list or a range; labels are returned beside the ids, null for missing ones."""
    where = {"genre": ["a", "b"], "price": {"min": 10}}
    answer = server.ask("/v1/search", {"users": users, "k": 5, "where": where, "labels": ["genre", "price"]})
    ids = version.search_by_user(users, 5, where=where)[0]
    assert answer.plain["ids"] == ids.tolist()
    expected = version.labels_of(ids[0])
    assert [hit["genre"] for hit in answer.plain["labels"][0]] == expected["genre"]
    assert [hit["price"] for hit in answer.plain["labels"][0]] == expected["price"]
    nulls = server.ask("/v1/search", {"users": users[:1], "k": 3, "where": {"price": None}, "labels": ["price"]}).plain
    assert nulls["labels"] == [[{"price": None}] * 3]
    nothing = server.ask("/v1/search", {"users": users[:2], "where": {"genre": "z"}, "labels": ["genre"]}).plain
    assert nothing["ids"] == nothing["labels"] == [[], []]
    by_url = server.ask(f"/v1/search?users={users[0]}&k=2&labels=genre&string_ids=true").plain
    assert [len(hit) for hit in by_url["labels"][0]] == [1, 1]


def test_conditions_in_a_url_are_json(server: Server, version: Version, users: list[int]) -> None:
    """They give the same results as in a body, also with vectors as an array."""
    where = {"genre": ["a", "b"], "price": {"min": 10}}
    text = quote(json.dumps(where))
    expected = version.search_by_user(users[:1], 4, where=where)[0].tolist()
    assert server.ask(f"/v1/search?users={users[0]}&k=4&where={text}").plain["ids"] == expected
    vectors = version.side("users").lookup(users[:1])
    assert server.ask(f"/v1/search?k=4&where={text}", vectors).plain["ids"] == expected


@pytest.mark.parametrize(
    ("query", "place", "found"),
    [
        ("where=genre", "$.where", "genre"),
        ("where=[1]", "$.where", "[1]"),
        ("where={%22genre%22:%22a%22}&where={}", "$.where", "{}"),
        ("where[genre]=a", "$", "where[genre]"),
        ("where={%22genr%22:%22a%22}", None, "'genr'"),
        ("where={%22genre%22:1}", "label genre", "1"),
        ("where=" + "[" * 2000, "$.where", "[" * 80),
    ],
)
def test_an_invalid_condition_in_a_url_is_explained(
    server: Server, users: list[int], query: str, place: str, found: str
) -> None:
    answer = server.ask(f"/v1/search?users={users[0]}&{query}")
    assert answer.status == 422, answer.plain
    assert (answer.plain["where"], answer.plain["found"]) == (place, found)
    assert answer.plain["expected"] or answer.plain["hint"]


def test_lookup_and_diff_return_labels(server: Server, version: Version) -> None:
    """Labels are returned on request; an unknown item has none, and neither have users and arrays."""
    ids = [int(version.items.ids[0]), -5]
    body = {"side": "items", "ids": ids, "missing": "nan", "labels": ["genre", "price"]}
    found = server.ask("/v1/lookup", body).plain
    expected = version.labels_of(ids)
    assert found["labels"] == [
        {"genre": expected["genre"][place], "price": expected["price"][place]} for place in range(2)
    ]
    assert "labels" not in server.ask("/v1/lookup", {"side": "items", "ids": ids[:1]}).plain
    assert server.ask(f"/v1/lookup?side=items&ids={ids[0]}&labels=genre").plain["labels"] == [
        {"genre": expected["genre"][0]}
    ]
    assert server.ask("/v1/lookup", {**body, "side": "users"}).plain["found"] == "side users"
    assert server.ask("/v1/lookup", body, Accept="application/x-npy").status == 422
    assert server.ask("/v1/lookup", {**body, "labels": ["genr"]}).plain["hint"] == "did you mean genre?"
    changed = server.ask("/v1/diff", {"before": 1, "labels": ["price"]}).plain
    assert changed["labels"] == [
        {"name": "price", "kind_before": "integer", "kind_after": "integer", "changed": 0, "examples": []}
    ]
    assert set(changed["items"]["moved_most"][0]["labels"]) == {"price"}


@pytest.mark.parametrize(
    ("fields", "where", "found"),
    [
        ({"blocked": [[1]]}, "$.blocked", "1 lists"),
        ({"allowed": [[1], [2], 3]}, "$.allowed[2]", "3"),
        ({"blocked": [[1], [2], [3, "x"]]}, "$.blocked[2][1]", "str"),
        ({"where": {"genr": "a"}}, None, "'genr'"),
        ({"where": {"genre": 1}}, "label genre", "1"),
        ({"where": {"price": {"least": 1}}}, "$.where[...]", "least"),
        ({"where": ["genre"]}, "$.where", '["genre"]'),
        ({"labels": ["colour"]}, None, "'colour'"),
    ],
)
def test_an_invalid_filter_is_explained(
    server: Server, users: list[int], fields: dict[str, object], where: str | None, found: str
) -> None:
    """The response is a 422 with the path of the field, the value found and the expected one."""
    answer = server.ask("/v1/search", {"users": users, **fields})
    assert answer.status == 422, answer.plain
    assert answer.plain["where"] == where
    assert answer.plain["found"] == found
    assert answer.plain["expected"] or answer.plain["hint"]


def test_the_command_line_filters_and_shows_labels(
    root: Path, version: Version, users: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each value is parsed as its label's kind; a repeated label means any of the values."""
    base = ["search", "--store", str(root), "--user", str(users[0]), "-k", "4", "--json"]
    assert run([*base, "--where", "genre=a", "--where", "genre=b", "--where", "price=5..90", "--label", "genre"]) == 0
    hits = json.loads(capsys.readouterr().out)["results"][0]
    ids = version.search_by_user(users[:1], 4, where={"genre": ["a", "b"], "price": {"min": 5, "max": 90}})[0][0]
    assert [hit["id"] for hit in hits] == ids.tolist()
    assert [hit["labels"]["genre"] for hit in hits] == version.labels_of(ids)["genre"]
    assert run([*base[:-1], "--label", "genre"]) == 0
    assert "genre" in capsys.readouterr().out
    assert run([*base[:-1], "--where", "genre=none of them"]) == 0
    assert capsys.readouterr().out == f"version {version.number}\nno items found\n"
    assert run([*base, "--where", "price=cheap"]) == 2
    assert "label price" in capsys.readouterr().err
    assert run([*base, "--where", "genre"]) == 2
    assert "expected LABEL=VALUE" in capsys.readouterr().err
