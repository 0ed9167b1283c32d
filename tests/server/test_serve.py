"""``embsync serve``: every endpoint gives the reader's results, and every invalid request a clear 4xx."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import numpy as np
import pytest
from support.http import NPY, Server, command, environment, heard, serving
from support.nights import night
from support.quick import quick_directory
from support.stores import published_nights, sync
from support.waiting import eventually

import embsync
from embsync.reader import Version
from embsync.server.app import Application
from embsync.server.settings import Settings

SIZES = {"items": 150, "users": 80, "width": 6}
HOST = ("--host", "search.example.org")


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Three nights with churn."""
    with published_nights(3, **SIZES) as store:
        yield store


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with serving(root, "--max-body", "200000", "--max-k", "100", "--max-batch", "500", *HOST) as running:
        yield running


@pytest.fixture(scope="module")
def version(root: Path) -> Iterator[Version]:
    with embsync.open(root) as reader:
        yield reader.current


def users_of(version: Version) -> Any:
    assert version.users is not None
    return version.users


def test_small_queries_are_answered_without_a_thread(root: Path, version: Version) -> None:
    """Waking a thread takes several times as long as a small search; only a large one gets a thread."""

    def threads(server: Server) -> int:
        return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))

    users, items = users_of(version).ids.tolist(), version.items.ids.tolist()
    with serving(root) as server:
        assert server.ask("/v1/search", {"users": [999_999]}).status == 404
        before = threads(server)
        for path, body in (
            ("/v1/search", {"users": users[:2]}),
            ("/v1/search", {"vectors": [[0.0] * 6], "k": 100}),
            ("/v1/search", {"users": [999_999]}),
            ("/v1/search", {"users": users[:1], "k": "ten"}),
            ("/v1/lookup", {"side": "items", "ids": items[:10]}),
        ):
            server.ask(path, body)
            assert threads(server) <= before, body  # another one that started with it may have ended
        before = threads(server)
        assert server.ask("/v1/search", {"users": users[:60]}).status == 200
        assert threads(server) > before


def test_search_equals_the_reader(server: Server, version: Version) -> None:
    """Searches by vectors, users and items, with filters, give the reader's results and the version in JSON and npy."""
    users = users_of(version).ids[:4].tolist()
    items = version.items.ids[version.items.live][:3].tolist()
    ids, scores = version.search_by_user(users, 5)
    answer = server.ask("/v1/search", {"users": users, "k": 5})
    assert answer.status == 200
    assert answer.version == answer.plain["version"] == 3
    assert answer.plain["space_id"] == version.space_id
    assert answer.plain["ids"] == ids.tolist()
    np.testing.assert_allclose(answer.plain["scores"], scores, rtol=1e-6)
    vectors = np.asarray(users_of(version).vectors[:4])
    assert server.ask("/v1/search", {"vectors": vectors.tolist(), "k": 5}).plain["ids"] == ids.tolist()
    hits = server.ask("/v1/search?k=5", vectors, Accept=NPY)
    assert hits.array["id"].tolist() == ids.tolist()
    np.testing.assert_array_equal(hits.array["score"], scores)
    assert (
        server.ask("/v1/search", {"items": items, "k": 4}).plain["ids"] == version.search_by_item(items, 4)[0].tolist()
    )
    filtered = server.ask("/v1/search", {"users": users, "k": 5, "blocked": ids[0].tolist()})
    assert filtered.plain["ids"] == version.search_by_user(users, 5, blocked=ids[0])[0].tolist()
    raw = night(0, **SIZES).both[1][:3]
    old = server.ask("/v1/search", {"vectors": raw.tolist(), "space": "snapshot", "snapshot_version": 1})
    assert old.status == 200, old.body


def test_lookup_transform_and_fold_in_equal_the_reader(server: Server, version: Version, root: Path) -> None:
    """Vectors are equal bit for bit in npy; JSON has ages and origins, and null for unknown values."""
    ids = [*version.items.ids[:3].tolist(), -5]
    plain = server.ask("/v1/lookup", {"side": "items", "ids": ids, "missing": "nan"}).plain
    assert plain["ages"] == [*version.items.age(ids[:3]).tolist(), None]
    assert plain["versions"] == [*version.items.origin(ids[:3]).tolist(), None]
    assert plain["last_seen_at"] == [*(f"{time}Z" for time in version.items.last_seen_at(ids[:3])), None]
    assert plain["age_seconds"] == [*version.items.age(ids[:3], unit="seconds").tolist(), None]
    assert plain["vectors"][3] == [None] * 6
    array = server.ask("/v1/lookup", {"side": "items", "ids": ids[:3]}, Accept=NPY).array
    assert array.tobytes() == version.items.lookup(ids[:3]).tobytes()
    raw = night(2, **SIZES).both[1]
    moved = server.ask("/v1/transform?side=users", raw, Accept=NPY).array
    np.testing.assert_array_equal(moved, version.transform.users(raw))
    again = server.ask("/v1/transform?side=users&inverse=true", moved, Accept=NPY).array
    np.testing.assert_allclose(again, raw, atol=1e-5)
    for side in ("items", "users"):
        back = server.ask(f"/v1/transform?side={side}&inverse=true", moved, Accept=NPY).array
        np.testing.assert_array_equal(back, getattr(version.transform, f"{side}_inverse")(moved))
    liked = version.items.ids[:4].tolist()
    folded = server.ask("/v1/fold_in", {"ids": [liked, liked[:1]], "weights": [[1, 2, 3, 4], [1]]}, Accept=NPY).array
    np.testing.assert_array_equal(folded, users_of(version).fold_in([liked, liked[:1]], [[1, 2, 3, 4], [1]]))
    steps = server.ask("/v1/movement", {"side": "items", "id": str(liked[0])}).plain["steps"]
    assert [step["version"] for step in steps] == [1, 2, 3]
    assert steps[-1]["cosine"] == pytest.approx(1, abs=1e-6)
    assert server.ask("/v1/version").body == (root / "versions/000003/manifest.json").read_bytes()


def test_diff_equals_the_reader(server: Server, version: Version, root: Path) -> None:
    """The default is the served version against its parent; other kept ones can be given; errors name the field."""
    with embsync.open(root) as reader, reader.version(2) as parent, reader.version(1) as first:
        last, all_ = (msgspec.to_builtins(version.diff(one, limit=5)) for one in (parent, first))
    answer = server.ask("/v1/diff", {"limit": 5})
    assert answer.plain == {"version": 3, "space_id": version.space_id, **last}
    assert server.ask("/v1/diff?before=1&after=3&limit=5").plain["items"] == all_["items"]
    refused = server.ask("/v1/diff", {"after": 1})
    assert (refused.status, refused.plain["where"]) == (422, "$.before")
    assert server.ask("/v1/diff", {"before": 77}).status == 404
    assert server.ask("/v1/diff", {"limit": -1}).status == 422


def test_a_url_query_equals_a_json_query(server: Server, version: Version) -> None:
    """Fields have the same names; a list is a repeated field; an empty value is an empty text."""
    users = users_of(version).ids[:3].tolist()
    items = version.items.ids[version.items.live][:3].tolist()
    for path, fields in (
        ("search", {"users": users, "k": 4, "blocked": items, "null_ids": True}),
        ("search", {"items": items[:1], "string_ids": True, "space_id": version.space_id}),
        ("lookup", {"side": "users", "ids": [*users, -5], "missing": "nan", "max_age": 1}),
        ("movement", {"side": "items", "id": items[0]}),
        ("diff", {"before": 1, "after": 2, "limit": 3}),
    ):
        text = urlencode(
            {name: json.dumps(value) if isinstance(value, bool) else value for name, value in fields.items()},
            doseq=True,
        )
        by_url = server.ask(f"/v1/{path}?{text}")
        assert by_url.status == 200, by_url.body
        assert {**by_url.plain, "id": 0} == {**server.ask(f"/v1/{path}", fields).plain, "id": 0}
    blocked = server.ask(
        f"/v1/search?k=4&blocked={items[0]}&blocked={items[1]}", np.asarray(users_of(version).vectors[:1])
    )
    assert blocked.plain["ids"] == version.search(users_of(version).vectors[:1], 4, blocked=items[:2])[0].tolist()


@pytest.mark.parametrize(
    ("query", "where", "what"),
    [
        ("search", "$", "one query is needed"),
        ("search?users=2000&k=0", "$.k", "wrong value"),
        ("search?users=2000&k=1&k=2", "$.k", "repeated field"),
        ("search?users=2000&k=1.0", "$.k", "wrong value"),
        ("search?users=2000&null_ids=1", "$.null_ids", "wrong value"),
        ("search?vectors=1", "$.vectors", "wrong value"),
        ("search?users=2000&parameters[efSearch]=5", None, "unknown search parameter"),
        ("search?users=2000&parameters=5", "$.parameters", "wrong value"),
        ("search?users=2000&space_id=null", "$.space_id", "another space is served"),
        ("lookup?ids=2000", "$.side", "missing field"),
        ("lookup?side=users&ids=", None, None),
        ("lookup?side=users&ids=2000&ID=2001", "$", "unknown field"),
    ],
)
def test_an_invalid_url_gets_a_clear_error(server: Server, query: str, where: str | None, what: str | None) -> None:
    """As in JSON, the error has the field, its value, and what was expected."""
    answer = server.ask(f"/v1/{query}")
    assert 400 <= answer.status < 500
    assert what is None or answer.plain["what"] == what
    assert where is None or answer.plain["where"] == where


def test_a_largest_age_is_a_number_of_versions_or_a_time(server: Server, version: Version) -> None:
    """In JSON and in a URL; other values are refused with the path of the field."""
    gone = int(version.items.ids[~version.items.live][0])
    age = int(version.items.age([gone])[0])
    for limit, status in ((age, 200), (age - 1, 404), (str(age), 200), ("52w", 200), (2**80, 200)):
        assert server.ask("/v1/lookup", {"side": "items", "ids": [gone], "max_age": limit}).status == status
        assert server.ask("/v1/search", {"items": [gone], "max_age": limit}).status == status
        if limit != 2**80:
            assert server.ask(f"/v1/lookup?side=items&ids={gone}&max_age={limit}").status == status
    for limit in ("7 parsecs", "-7d", "", -1, True, 1.5, "9" * 40 + "d"):
        assert server.ask("/v1/search", {"items": [gone], "max_age": limit}).plain["where"] == "$.max_age"
        answer = server.ask("/v1/lookup", {"side": "items", "ids": [gone], "max_age": limit})
        assert (answer.status, answer.plain["where"]) == (422, "$.max_age")
        assert answer.plain["found"]
        assert answer.plain["expected"]
    assert server.ask("/v1/lookup?side=items&ids=1&max_age=7+days").plain["hint"] == "did you mean 7d?"
    assert server.ask(f"/v1/search?items={gone}&max_age={age - 1}&missing=nan").plain["ids"] == [[-1] * 10]
    assert server.ask("/v1/search", {"vectors": [[0.0] * 6], "max_age": 1}).plain["what"] == "vectors have no age"


@pytest.mark.parametrize(
    ("path", "body", "hint"),
    [
        ("search", {"user": [1]}, "did you mean users?"),
        ("search", {"users": [1], "kk": 5}, "did you mean k?"),
        ("lookup", {"side": "users", "ids": [1], "max_aeg": 5}, "did you mean max_age?"),
        ("movement", {"side": "users", "id": 1, "zzzzz": 5}, "known fields: side, id, missing, string_ids, space_id"),
    ],
)
def test_an_unknown_field_gets_a_suggestion(server: Server, path: str, body: Any, hint: str) -> None:
    """If no known field is similar, all are listed."""
    plain = server.ask(f"/v1/{path}", body).plain
    assert (plain["what"], plain["hint"]) == ("unknown field", hint)


def test_string_ids_and_null_ids_can_be_requested(server: Server, version: Version) -> None:
    """On request, ids are strings, as JavaScript cannot hold integers above 2**53, and missing ids are null."""
    items = version.items.ids[version.items.live][:2].tolist()
    asked = {"items": items[:1], "allowed": items, "k": 2}
    for more, ids in (
        ({}, [items[1], -1]),
        ({"string_ids": True}, [str(items[1]), ""]),
        ({"null_ids": True}, [items[1], None]),
        ({"string_ids": True, "null_ids": True}, [str(items[1]), None]),
    ):
        answer = server.ask("/v1/search", {**asked, **more}).plain
        assert (answer["ids"], answer["scores"][0][1]) == ([ids], None)
    array = server.ask("/v1/search", {**asked, "string_ids": True}, Accept=NPY).array
    assert array["id"].tolist() == [[str(items[1]), ""]]
    refused = server.ask("/v1/search", {**asked, "null_ids": True}, Accept=NPY)
    assert (refused.status, refused.plain["where"]) == (422, "$.null_ids")
    moved = server.ask("/v1/movement", {"side": "items", "id": items[0], "string_ids": True}).plain
    assert moved["id"] == str(items[0])


@pytest.mark.parametrize("kind", ["users", "items"])
def test_one_unknown_id_does_not_fail_a_batch(server: Server, version: Version, kind: str) -> None:
    """It gets no results, or those of its side's mean; the other queries get the results they get alone."""
    side = version.side(kind)
    first, second = side.ids[side.live][:2].tolist()
    alone = server.ask("/v1/search", {kind: [first, second], "k": 3}).plain
    batch = {kind: [-5, first, -6, second], "k": 3}
    assert server.ask("/v1/search", batch).status == 404
    nothing = server.ask("/v1/search", {**batch, "missing": "nan"}).plain
    assert nothing["ids"] == [[-1] * 3, alone["ids"][0], [-1] * 3, alone["ids"][1]]
    assert nothing["scores"] == [[None] * 3, alone["scores"][0], [None] * 3, alone["scores"][1]]
    popular = version.search(side.mean, 3)[0][0].tolist()
    mean = server.ask("/v1/search", {**batch, "missing": "mean"}).plain
    assert mean["ids"] == [popular, alone["ids"][0], popular, alone["ids"][1]]
    assert server.ask("/v1/search", {kind: [-5], "missing": "mean", "k": 3}).plain["ids"] == [popular]
    refused = server.ask("/v1/search", {"vectors": [[1] * 6], "missing": "mean"})
    assert (refused.status, refused.plain["where"]) == (422, "$.missing")
    assert server.ask("/v1/movement", {"side": kind, "id": -5, "missing": "nan"}).plain["steps"] == []


def test_a_response_to_non_http_has_the_form_of_any_error(server: Server) -> None:
    """It is not a page of the HTTP library."""
    for sent in (b"garbage\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/x\r\n\r\n", b"GET /\r\n\r\n"):
        head, _, body = heard(server.plug(sent)).partition(b"\r\n\r\n")
        assert b" 400 " in head
        assert b"x-embsync-version: 3" in head.lower()
        assert json.loads(body)["what"] == "not a request in HTTP/1.1"


def test_an_error_outside_any_handler_has_the_same_form(tmp_path: Path) -> None:
    """It is not Starlette's text page."""

    def fail(*_: object) -> None:
        raise RuntimeError

    made = Application(Settings(store=str(tmp_path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "_finished", fail)
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": [], "query_string": b""}
        with pytest.raises(RuntimeError):
            asyncio.run(made.asgi()(scope, None, send))
    assert sent[0]["status"] == 500
    assert dict(sent[0]["headers"])[b"x-embsync-version"] == b"none"
    assert json.loads(sent[1]["body"])["what"] == "unexpected error"


@pytest.mark.parametrize(
    ("path", "body", "status", "where"),
    [
        ("search", b"{", 400, "$"),
        ("search", b"\xff", 400, "$"),
        ("search", b"[" * 5000, 400, "$"),
        ("search", [], 422, "$"),
        ("search", {}, 422, "$"),
        ("search", {"users": [2000], "items": [1007]}, 422, "$"),
        ("search", {"users": [2000], "k": 0}, 422, "$.k"),
        ("search", {"users": [2000], "k": 10**9}, 422, "$.k"),
        ("search", {"users": [2000], "k": "5"}, 422, "$.k"),
        ("search", {"users": [2000], "kk": 5}, 422, "$"),
        ("search", {"users": [1, "a"]}, 422, "$.users[1]"),
        ("search", {"users": ["2000\0"]}, 422, "$.users[0]"),
        ("search", {"users": [1.5]}, 422, "$.users[0]"),
        ("search", {"users": [2**70]}, 422, None),
        ("search", {"users": list(range(501))}, 422, "$.users"),
        ("search", {"users": [2000], "allowed": list(range(501))}, 422, "$.allowed"),
        ("search", {"users": [2000], "blocked": list(range(501))}, 422, "$.blocked"),
        ("search", {"items": list(range(501))}, 422, "$.items"),
        ("search", {"vectors": [[1] * 6] * 501}, 422, "$.vectors"),
        ("lookup", {"side": "items", "ids": list(range(501))}, 422, "$.ids"),
        ("transform", {"side": "items", "vectors": [[1] * 6] * 501}, 422, "$.vectors"),
        ("fold_in", {"ids": [[1007]] * 501}, 422, "$.ids"),
        ("fold_in", {"ids": [list(range(501))]}, 422, "$.ids"),
        ("search", {"users": [-1]}, 404, None),
        ("search", {"vectors": []}, 422, "$.vectors"),
        ("search", {"vectors": [[1, 2], [1]]}, 422, "$.vectors[1]"),
        ("search", {"vectors": [[1, 2]]}, 422, None),
        ("search", {"vectors": [[1e200] * 6]}, 422, None),
        ("search", b'{"vectors": [[NaN, 1, 1, 1, 1, 1]]}', 400, "$"),
        ("search", b'{"vectors": [[1e999, 1, 1, 1, 1, 1]]}', None, None),
        ("search", {"users": [2000], "parameters": {"efSearch": 5}}, 422, None),
        ("search", {"vectors": [[1] * 6], "space": "snapshot", "snapshot_version": 99}, 404, None),
        ("search", {"vectors": [[1] * 6], "snapshot_version": 1}, 422, "$.snapshot_version"),
        ("search", {"users": [2000], "space": "snapshot"}, 422, "$.space"),
        ("search", {"users": [2000], "space_id": "other"}, 409, "$.space_id"),
        ("lookup", {"side": "things", "ids": [1]}, 422, "$.side"),
        ("lookup", {"side": "items", "ids": [-5]}, 404, None),
        ("lookup", b'{"side": "items", "ids": ["\\ud800"]}', None, None),
        ("lookup", {"side": "items", "ids": ["1_007"]}, 422, None),
        ("transform", {"side": "items", "vectors": [[1, 2]]}, 422, None),
        ("transform", {"side": "items"}, 422, "$.vectors"),
        ("transform", {"side": "items", "vectors": [[1e300] * 6]}, 422, None),
        ("fold_in", {"ids": []}, 422, "$.ids"),
        ("fold_in", {"ids": [], "missing": "nan"}, 422, "$.ids"),
        ("fold_in", {"ids": [["1007\0"]]}, 422, "$.ids[0][0]"),
        ("fold_in", {"ids": [[]]}, 422, None),
        ("fold_in", {"ids": [[]] * 501, "missing": "nan"}, 422, "$.ids"),
        ("diff", {"limit": 501}, 422, "$.limit"),
        ("fold_in", {"ids": [[1007]], "weights": [[1, 2]]}, 422, None),
        ("fold_in", {"ids": [[1007]], "regularization": -1}, 422, "$.regularization"),
        ("fold_in", {"ids": [[1007]], "regularization": 1.7e308}, 422, None),
        ("movement", {"side": "items", "id": -5}, 404, None),
        ("movement", {"side": "items", "id": "1007\0"}, 422, "$.id[0]"),
        ("lookup?missing=nan", {"side": "items", "ids": [-5]}, 422, "query string"),
        ("nothing", {}, 404, None),
    ],
)
def test_an_invalid_request_gets_a_clear_error(
    server: Server, path: str, body: Any, status: int | None, where: str | None
) -> None:
    """The response is a 4xx with the field and the value found; the server keeps running."""
    answer = server.ask(f"/v1/{path}", body, Content_Type="application/json")
    assert answer.status == status if status else 400 <= answer.status < 500
    assert answer.plain["what"]
    if where is not None:
        assert answer.plain["where"] == where
    assert "X-Embsync-Version" in answer.headers


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"users": [1], "k": 0}, ("$.k", "0", "int >= 1")),
        ({"users": [1], "k": "5"}, ("$.k", '"5"', "int | null")),
        ({"vectors": [[1], [2, True]]}, ("$.vectors[1][1]", "true", "float")),
        ({"users": [1], "space_id": 10**30}, ("$.space_id", str(10**30), "str | null")),
        ({"users": [1], "parameters": {"efSearch": 0}}, ("$.parameters[...]", None, "int >= 1")),
        ({"users": [1], "space": "x" * 500}, ("$.space", '"' + "x" * 79, None)),
    ],
)
def test_an_invalid_field_is_shown_with_what_was_expected(server: Server, body: Any, said: tuple[Any, ...]) -> None:
    """A long value is shortened."""
    plain = server.ask("/v1/search", body).plain
    assert (plain["where"], plain["found"], plain["expected"]) == said


@pytest.mark.parametrize(
    ("accept", "as_array"),
    [
        (NPY, True),
        (f"{NPY};q=0.9", True),
        (f"{NPY}; charset=binary", True),
        (f"text/html, {NPY}", True),
        (f"{NPY}, */*;q=0.1", True),
        (NPY.upper(), True),
        ("application/json", False),
        ("*/*", False),
        ("text/html", False),
    ],
)
def test_npy_is_returned_if_accepted(server: Server, version: Version, accept: str, as_array: bool) -> None:
    """The media type may have parameters, be in a list, and in any case; all other clients get JSON."""
    users = users_of(version).ids[:2].tolist()
    answer = server.ask("/v1/lookup", {"side": "users", "ids": users}, Accept=accept)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(NPY if as_array else "application/json")
    found = answer.array if as_array else np.array(answer.plain["vectors"])
    np.testing.assert_allclose(found, users_of(version).lookup(users), rtol=1e-6)


def test_movement_is_within_one_space(tmp_path: Path) -> None:
    """Versions of another space are excluded from the movement, however many of them are kept."""
    root = tmp_path / "S"
    for number in range(2):
        sync(root, night(number, **SIZES, churn=0.0), f"n{number}")
    for number in range(2, 4):
        sync(root, night(number, **SIZES, churn=0.0, seed=99), f"n{number}", new_space=number == 2)
    one = int(night(3, **SIZES, churn=0.0, seed=99).item_ids[0])
    with serving(root) as running:
        found = running.ask("/v1/movement", {"side": "items", "id": one}).plain
    assert [step["version"] for step in found["steps"]] == [3, 4]
    assert found["steps"][1]["cosine"] == pytest.approx(1.0, abs=1e-5)


def test_untrusted_arrays_are_validated(server: Server) -> None:
    """Forged headers, objects, archives, other widths and NaN are refused before memory is allocated for them."""
    good = np.ones((1, 6), np.float32)

    def forged(shape: str) -> bytes:
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        return b"\x93NUMPY\x01\x00v\x00" + header.ljust(117).encode() + b"\n"

    for body in (
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04",
        forged("(1000000000, 1000000)"),
        forged("(True, 6)") + bytes(24),
        forged("(4611686018427387904, 0)"),
        forged("()") + bytes(4),
    ):
        assert server.ask("/v1/search", body, Content_Type=NPY).status == 400
    assert (
        server.ask("/v1/search", np.asfortranarray(np.arange(12).reshape(2, 6)), Accept=NPY).body
        == server.ask("/v1/search", np.arange(12).reshape(2, 6), Accept=NPY).body
    )
    assert server.ask("/v1/search", good.astype("U3")).status == 400
    assert server.ask("/v1/search", good[:, :5]).status == 422
    assert server.ask("/v1/search", good * np.nan).status == 422
    assert server.ask("/v1/search", np.ones((2, 2, 6), np.float32)).status == 400
    assert server.ask("/v1/search?k=x", good).plain["where"] == "$.k"
    assert server.ask("/v1/search?k=3", good.astype(np.int64)).status == 200
    assert server.ask("/v1/search", b"hello", Content_Type="text/plain").status == 415


def test_a_body_above_the_limit_is_413(server: Server) -> None:
    """It holds for any Content-Length."""
    for size, status in ((300_000, 413), (200_001, 413), (200_000, 400)):
        assert server.ask("/v1/search", b" " * size, Content_Type="application/json").status == status


def test_health_metrics_and_openapi_are_served(server: Server) -> None:
    """Health, metrics and the document are served; unknown methods are 405, other host names 421."""
    assert server.ask("/healthz").plain["following"] is True
    assert server.ask("/nowhere").status == 404
    figures = server.ask("/metrics").body.decode()
    assert "embsync_serving_version 3.0" in figures
    assert 'embsync_http_requests_total{endpoint="other",status="404"}' in figures
    assert 'embsync_http_requests_total{endpoint="/readyz",status="200"}' in figures
    document = server.ask("/openapi.json").plain
    assert set(document["paths"]["/v1/search"]["post"]["responses"]) >= {"200", "413", "422", "429", "503"}
    requests = {name: one for name, one in document["components"]["schemas"].items() if name.endswith("Request")}
    assert '"default"' not in json.dumps([requests, document["paths"]])  # a generated client would send it
    for reference in set(json.dumps(document).split('"#/components/schemas/')[1:]):
        assert reference.split('"')[0] in document["components"]["schemas"]
    refused = server.ask("/v1/transform")
    assert (refused.status, refused.headers["Allow"], refused.plain["hint"]) == (405, "POST", "use POST")
    refused = server.ask("/healthz", {})
    assert (refused.status, refused.plain["hint"]) == (405, "use GET")
    connection = server.connect()
    connection.request("PUT", "/v1/search")
    assert json.loads(connection.getresponse().read())["hint"] == "use GET or POST"
    connection.close()
    for host in ("evil.example", "evil.example:80:80", "localhost/healthz?", "ü"):
        assert server.ask("/v1/version", Host=host).status == 421
    refused = server.ask("/v1/version", Host="proxy.example")
    for way in ("serve.token_file", "serve.hosts"):
        assert way in refused.plain["hint"]
    assert refused.plain["expected"] == "localhost, 127.0.0.1, search.example.org"
    for host in ("search.example.org", "Search.Example.org:443"):
        assert server.ask("/v1/version", Host=host).status == 200


def test_every_response_is_sent_the_same_way(server: Server) -> None:
    """A trailing slash is an unknown path, and not a redirect without host check and version."""
    for path, body in (("/healthz/", None), ("/v1/search/", {"users": [2000]})):
        assert (server.ask(path, body).status, server.ask(path, body).version) == (404, 3)
        assert server.ask(path, body, Host="evil.example").status == 421


def test_the_page_is_self_contained(server: Server) -> None:
    """The HTML refers to no other host, and only its own script may run."""
    answer = server.ask("/")
    text = answer.body.decode()
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "http://" not in text
    assert "https://" not in text
    assert "innerHTML" not in text
    assert "script-src 'sha256-" in answer.headers["Content-Security-Policy"]


def test_the_token_is_required_and_reloaded(root: Path, tmp_path: Path) -> None:
    """A wrong or missing token is a 401, as is any without the file; a change applies at once; health needs none."""
    file = tmp_path / "token"
    file.write_text("first\n")
    with serving(root, "--token-file", str(file)) as server:

        def status(token: str) -> int:
            return server.ask("/v1/version", Authorization=f"Bearer {token}").status

        assert server.ask("/v1/version").status == 401
        assert server.ask("/metrics").status == 401
        assert server.ask("/healthz").status == server.ask("/").status == 200
        assert [status("first"), status("second"), status("")] == [200, 401, 401]
        assert server.ask("/v1/version", Host="localhost/healthz?").status == 401
        file.write_text("second!\n")
        assert [status("first"), status("second!")] == [401, 200]
        file.unlink()
        assert [status("second!"), status("")] == [401, 401]
        os.mkfifo(file)  # a FIFO without a writer is not a token, and does not block
        assert status("second!") == 401
        file.unlink()
        file.write_text("third")
        assert status("third") == 200


def test_a_unix_socket_is_served_and_removed_afterwards(root: Path, tmp_path: Path) -> None:
    """A socket left by a dead server is replaced."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(root, listen=f"unix:{path}", ready=False) as server:
        assert server.where == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(100)
            client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert b"200 OK" in client.recv(4096)
        assert path.stat().st_mode & 0o007 == 0
    assert not path.exists()


def test_a_unix_socket_of_a_later_server_is_left_alone(root: Path, tmp_path: Path) -> None:
    """If the first server's socket was removed and replaced, its end does not remove the second one's."""
    path = tmp_path / "s"
    with contextlib.ExitStack() as first:
        first.enter_context(serving(root, listen=f"unix:{path}", ready=False))
        refused = subprocess.run(
            command(root, "--listen", f"unix:{path}"), capture_output=True, check=False, text=True, env=environment()
        )
        assert (refused.returncode, "another server listens here" in refused.stderr) == (2, True)
        path.unlink()
        with serving(root, listen=f"unix:{path}", ready=False), socket.socket(socket.AF_UNIX) as client:
            first.close()
            client.connect(str(path))
    assert not path.exists()


def test_too_many_and_too_slow_requests_are_refused(root: Path) -> None:
    """The status is 429 above the concurrency limit and 503 above the time limit; later requests succeed."""
    with serving(root, "--max-concurrency", "1", "--max-seconds", "0.5") as server:
        head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        slow = server.plug(head)
        while server.ask("/v1/search", {"users": [2000]}).status != 429:
            server.plug(head)  # the earlier ones had timed out or not arrived yet
        assert b" 408 " in slow.recv(4096)
        eventually(lambda: server.ask("/v1/search", {"users": [2000]}).status == 200)
        eventually(lambda: server.ask("/v1/lookup", {"side": "items", "ids": [-1]}).status == 404)


def _processor_seconds(server: Server) -> float:
    """Return the processor seconds of a server and its workers so far."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    fields = [
        Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in (server.process.pid, *children)
    ]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def test_many_429s_cost_and_log_little(root: Path) -> None:
    """A 429 takes less processor time than a result, and writes no line to the log."""
    asked = {"users": [2000] * 50, "k": 20}
    with serving(root, "--max-concurrency", "1") as server, contextlib.closing(server.connect()) as connection:
        begun = _processor_seconds(server)
        for _ in range(1000):
            assert server.ask("/v1/search", asked, connection=connection).status == 200
        answered = _processor_seconds(server)
        refused, others = 0, -1
        while refused < 1000:
            if server.ask("/v1/search", asked, connection=connection).status == 429:
                refused += 1
                continue
            others += 1  # a slow body is dropped, and another request takes its place
            server.plug(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        after = _processor_seconds(server)
        eventually(lambda: server.ask("/v1/search", asked, connection=connection).status == 200)
    assert after - answered < (answered - begun) * (1 + others / 1000)
    assert len((root.parent / "serve.log").read_text().splitlines()) < 20


@pytest.mark.parametrize("accept", [f"{NPY};q=0.9", f"text/html, {NPY}", f"{NPY}, application/json;q=0.5"])
def test_the_accept_header_may_have_parameters_or_be_a_list(server: Server, accept: str) -> None:
    """The array is sent to every client that accepts it."""
    answer = server.ask("/v1/search", np.ones((1, 6), np.float32), Accept=accept)
    assert answer.headers["Content-Type"] == NPY
    assert answer.array.shape == (1, 10)


def test_movement_excludes_versions_of_other_spaces() -> None:
    """An id of the same name in another space cannot be compared."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, **SIZES), "n0")
        sync(directory / "S", night(5, **SIZES, seed=9), "other", new_space=True)
        with embsync.open(directory / "S") as reader, reader.version(1) as old:
            shared = next(one for one in reader.current.items.ids.tolist() if old.items.rows([one])[0] >= 0)
        with serving(directory / "S") as running:
            steps = running.ask("/v1/movement", {"side": "items", "id": shared}).plain["steps"]
            assert [step["version"] for step in steps] == [2]


def test_a_slow_query_by_url_is_answered(root: Path) -> None:
    """The empty body that arrives while the request is handled does not count as a disconnect."""
    patched = (
        "import sys; from embsync.server import app; app._SOON = 0.0; sys.argv[1:] = sys.argv[6:]; "
        "from embsync.cli.main import main; main()"
    )
    with serving(root, under=(sys.executable, "-c", patched)) as server:
        answers = [server.ask("/v1/diff?before=1") for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
