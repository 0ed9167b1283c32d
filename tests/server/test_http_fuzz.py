"""Ten thousand heads and as many bodies, valid ones with small errors: never a 500, a traceback or a hang."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http import Server, serving
from support.nights import night
from support.quick import quick_directory
from support.stores import sync

PATHS = ["search", "lookup", "transform", "fold_in", "movement", "diff"]
PIECES = [
    b"\r\n",
    b"\n",
    b"\0",
    b":",
    b" ",
    b"\t",
    b"chunked",
    b"Content-Length: 1\r\n",
    b"%00",
    b"..",
    b"\xff",
    b"HTTP/1.0",
    b"Host: localhost\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"99999999999999999999",
]
VALUES = [
    0,
    -1,
    1,
    1e308,
    2**63,
    2**64,
    -(2**63),
    "",
    "a",
    "\0",
    "\ud800",
    None,
    True,
    [],
    {},
    [[]],
    [1, "a"],
    [[1.5] * 6],
    10**30,
    [2000],
    [[2000]],
    "items",
    "users",
    "stable",
    "snapshot",
    {"efSearch": 10**12},
    [[1e39] * 6],
]
KEYS = [
    "vectors",
    "users",
    "items",
    "k",
    "space",
    "snapshot_version",
    "allowed",
    "blocked",
    "parameters",
    "space_id",
    "side",
    "ids",
    "missing",
    "max_age",
    "inverse",
    "version",
    "weights",
    "method",
    "regularization",
    "id",
    "other",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A real server, whose log is checked at the end."""
    with quick_directory() as directory:
        root = directory / "S"
        sync(root, night(0, items=150, users=80, width=6), "n0")
        with serving(root, "--max-seconds", "2") as running:
            yield running
            assert running.ask("/v1/search", {"users": [2000], "k": 1}).status in (200, 404)
        log = Path(root.parent / "serve.log").read_text()
        assert "Traceback" not in log
        assert "unexpected_error" not in log


def answers(plug: socket.socket) -> list[int]:
    """Return the statuses of all responses until the server closes the connection."""
    said = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        plug.shutdown(socket.SHUT_WR)
        while part := plug.recv(1 << 16):
            said += part
    answered = [part for part in said.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit() and part[:1] != b"1"]
    for part in answered:  # none comes from the HTTP library
        assert b"x-embsync-version: " in part.lower(), part
    return [int(part[:3]) for part in answered]


def spoilt(text: bytes, chance: random.Random) -> bytes:
    """Return bytes with a few of them changed, repeated, removed or inserted."""
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(text) + 1)
        text = chance.choice(
            [
                text[:place] + chance.choice(PIECES) + text[place:],
                text[:place] + text[place + chance.randrange(8) :],
                text[:place] + chance.randbytes(1) + text[place + 1 :],
                text[:place],
                text[:place] + text[place // 2 :],
            ]
        )
    return text


def body(chance: random.Random) -> bytes:
    """Return a body of known and unknown fields with valid and invalid values, sometimes damaged."""
    tree = {chance.choice(KEYS): chance.choice(VALUES) for _ in range(chance.randrange(1, 5))}
    text = json.dumps(tree).encode()
    return spoilt(text, chance) if chance.random() < 0.3 else text


def sent(server: Server, request: bytes) -> list[int]:
    """Send a request on its own connection."""
    with server.plug() as plug:
        server.plugs.remove(plug)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            plug.sendall(request)
        return answers(plug)


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.fuzz)])
def test_any_head_gets_a_valid_answer(server: Server, count: int) -> None:
    """With damaged lines, names, lengths and encodings, there is a response, or the connection is closed."""
    chance = random.Random(12)
    for number in range(count):
        path = chance.choice([b"/healthz", b"/v1/version", b"/", b"/metrics", b"/openapi.json", b"/v1/search?k=3"])
        head = (
            chance.choice([b"GET ", b"POST ", b"HEAD ", b"PUT "])
            + path
            + b" HTTP/1.1\r\nHost: localhost\r\n"
            + b"Accept: application/x-npy\r\nContent-Length: 2\r\nAuthorization: Bearer x\r\n\r\n{}"
        )
        request = spoilt(head, chance)
        assert not [status for status in sent(server, request) if status >= 500 and status != 501], (number, request)


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.fuzz)])
def test_any_body_gets_a_valid_answer(server: Server, count: int) -> None:
    """With damaged fields, values, JSON and .npy, the response is a 4xx with an explanation, or a result."""
    chance = random.Random(13)
    npy = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 6), }"
    npy += b" " * 58 + b"\n" + bytes(24)
    for number in range(count):
        as_npy = chance.random() < 0.3
        text = spoilt(npy, chance) if as_npy else body(chance)
        kind = "application/x-npy" if as_npy else "application/json"
        query = chance.choice(["", "?k=2", "?side=users", "?k=2&space=snapshot"]) if as_npy else ""
        path = chance.choice(PATHS)
        answer = server.ask(f"/v1/{path}{query}", text, Content_Type=kind)
        assert answer.status < 500, (number, path, text, answer.body)
        if answer.status >= 400:
            assert answer.plain["what"]
