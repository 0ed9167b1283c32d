"""The requests of all clients together stay within the memory limit, and small ones are answered beside large ones."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.http import NPY, Server, anonymous_memory, serving
from support.nights import night
from support.quick import quick_directory
from support.stores import sync
from support.units import exit_code_in_time
from support.waiting import PATIENCE, eventually

import embsync

MIB = 1 << 20
#: Repeated ids of existing users: a short request with a long response.
MANY = [2000 + place % 50 for place in range(10_000)]


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A store with enough items for k = 1,000."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, items=2000, users=120, width=8), "n0")
        yield directory / "S"


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    """A server with a low memory limit."""
    with serving(root, "--max-memory", "96 MiB", "--max-seconds", "60") as running:
        yield running


@pytest.fixture(scope="module")
def users(root: Path) -> list[int]:
    """Return ten thousand ids of existing users."""
    with embsync.open(root) as reader:
        assert reader.current.users is not None
        known = reader.current.users.ids.tolist()
    return [known[place % len(known)] for place in range(10_000)]


def taken(server: Server) -> float:
    """Return the metric of reserved memory."""
    for line in server.ask("/metrics").body.decode().splitlines():
        if line.startswith("embsync_http_memory_bytes "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError("no figure")


def request(body: dict[str, Any], path: str = "/v1/search") -> bytes:
    """Return the bytes of a request."""
    plain = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(plain)}\r\n\r\n"
    ).encode() + plain


def test_the_number_of_hits_is_limited(server: Server, users: list[int]) -> None:
    """10,000 x 100 is allowed, 10,000 x 101 and 1,001 x 1,000 are not, whatever the size of the store."""
    answer = server.ask("/v1/search", {"users": users, "k": 100}, Accept=NPY)
    assert answer.status == 200
    assert answer.array.shape == (10_000, 100)
    few = server.ask("/v1/search", {"users": users[:120], "k": 100}, Accept=NPY).array
    np.testing.assert_array_equal(answer.array[:120]["id"], few["id"])
    np.testing.assert_array_equal(answer.array[-16:]["id"], answer.array[[*range(9984 % 120, 9984 % 120 + 16)]]["id"])
    for queries, k in ((10_000, 101), (1_001, 1_000), (10_000, 1_000)):
        for asked in ({"users": users[:queries], "k": k}, {"vectors": [[1] * 8] * queries, "k": k}):
            refused = server.ask("/v1/search", asked)
            assert (refused.status, refused.plain["where"]) == (422, "$.k")
            assert refused.plain["expected"] == "at most 1000000 hits"


def test_blocks_are_joined_in_order(server: Server, users: list[int]) -> None:
    """For more queries than one block, JSON, npy and the reader agree, by users, items and vectors."""
    plain = server.ask("/v1/search", {"users": users[:2100], "k": 3}).plain
    array = server.ask("/v1/search", {"users": users[:2100], "k": 3}, Accept=NPY).array
    assert plain["ids"] == array["id"].tolist()
    assert plain["scores"] == pytest.approx(array["score"], rel=1e-6)
    found = server.ask("/v1/search", {"users": users[:120], "k": 3}, Accept=NPY).array["id"]
    np.testing.assert_array_equal(array["id"], found[np.arange(2100) % 120])
    vectors = server.ask("/v1/lookup", {"side": "users", "ids": users[:1100]}, Accept=NPY).array
    by_vector = server.ask("/v1/search?k=3", vectors, Accept=NPY).array
    np.testing.assert_array_equal(by_vector["id"], array["id"][:1100])
    effort = server.ask("/v1/search", {"users": users[:130], "k": 3, "parameters": {}}, Accept=NPY).array
    np.testing.assert_array_equal(effort["id"], array["id"][:130])


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * 1_000_000 + b"[]]",
        b'{"vectors":[' + b"[]," * 1_000_000 + b"[]]}",
        b'{"parameters":[' + b'{"a":0},' * 400_000 + b"{}]}",
        b'{"users":[' + b"1," * 4_000_000 + b"1]}",
        b'{"users":[' + b'"",' * 3_000_000 + b'""]}',
    ],
)
def test_a_body_that_would_exceed_the_memory_limit_is_not_decoded(server: Server, body: bytes) -> None:
    """Decoded objects would take many times the body: the request is a 422, and the memory is not allocated."""
    before = anonymous_memory(server.process.pid)
    answer = server.ask("/v1/search", body, Content_Type="application/json")
    assert answer.status == 422, answer.body
    assert anonymous_memory(server.process.pid) - before < 96 * MIB


def test_concurrent_requests_stay_within_the_memory_limit(server: Server, users: list[int]) -> None:
    """24 clients send the largest requests of every kind; small ones are answered, and all memory is released."""
    before = most = anonymous_memory(server.process.pid)
    large = [
        ("search", {"users": users, "k": 100}),
        ("search", {"users": users[:1000], "k": 1000}),
        ("lookup", {"side": "users", "ids": users}),
        ("transform", {"side": "users", "vectors": [[0.123456789] * 8] * 10_000}),
        ("fold_in", {"side": "users", "ids": [[one] for one in range(10_000)], "missing": "mean"}),
    ]
    statuses: list[int] = []
    stop = threading.Event()

    def ask(place: int) -> None:
        while not stop.is_set():
            path, body = large[place % len(large)]
            statuses.append(server.ask(f"/v1/{path}", body).status)

    clients = [threading.Thread(target=ask, args=(place,)) for place in range(24)]
    for client in clients:
        client.start()
    probes, passed = 0, 0
    while probes < 8 or statuses.count(200) <= 5:
        probes += 1
        before_it = statuses.count(200)
        assert server.ask("/healthz").status == 200
        assert server.ask("/v1/search", {"users": users[:1]}).status == 200
        passed = max(passed, statuses.count(200) - before_it)
        most = max(most, anonymous_memory(server.process.pid))
    stop.set()
    for client in clients:
        client.join(PATIENCE)
    assert set(statuses) <= {200, 503}
    assert passed < len(clients)  # none waits for all the large ones
    assert (most - before) / MIB < 96 + 64
    eventually(lambda: taken(server) == 0)


def test_unread_responses_block_neither_memory_nor_other_clients(server: Server, users: list[int]) -> None:
    """Their memory stays reserved until they are dropped, and large requests get a 503 meanwhile."""
    slow = []
    for _ in range(6):
        plug = server.plug()
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plug.sendall(request({"users": users, "k": 100}))
        slow.append(plug)
    eventually(lambda: taken(server) > 32 * MIB)
    assert server.ask("/v1/search", {"users": users[:1]}).status == 200
    for plug in slow:
        plug.close()
    eventually(lambda: taken(server) == 0)


def test_too_many_requests_get_a_retry_after(server: Server, users: list[int]) -> None:
    """While others hold the memory, the response is a 503 with a time to wait."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            plug = stack.enter_context(server.plug())
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plug.sendall(request({"users": users, "k": 100}))
        eventually(lambda: taken(server) > 64 * MIB)
        refused = server.ask("/v1/search", {"users": users, "k": 100})
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert refused.plain["what"] == "not enough memory for this request now"
    eventually(lambda: taken(server) == 0)


def test_an_interrupted_body_releases_its_memory(server: Server) -> None:
    """A request that is refused while it is handled releases its memory too."""
    for whole in (8 * MIB, 32 * MIB):
        with server.plug() as plug:
            head = f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {whole}\r\n\r\n"
            plug.sendall(head.encode() + b" " * (4 * MIB))
            eventually(lambda: taken(server) > 4 * MIB)
        eventually(lambda: taken(server) == 0)


def test_a_request_that_can_never_fit_is_refused(root: Path, users: list[int]) -> None:
    """The response is a 422 without Retry-After."""
    with serving(root, "--max-memory", "8 MiB") as server:
        refused = server.ask("/v1/search", {"users": users, "k": 100})
        assert (refused.status, refused.plain["what"]) == (422, "the request needs too much memory")
        assert server.ask("/v1/search", {"users": users[:100], "k": 100}).status == 200


@pytest.mark.long
@pytest.mark.parametrize(("workers", "seconds"), [("1", "3600"), ("2", "2")])
def test_a_stop_under_full_load_is_within_its_timeout(root: Path, users: list[int], workers: str, seconds: str) -> None:
    """Large requests, slow readers, incomplete heads and bodies do not delay a stop beyond the unit's timeout."""
    with serving(root, "--workers", workers, "--max-seconds", seconds) as server:
        half = request({"users": users, "k": 100})
        for sent in [half] * 8 + [half[:300]] * 8 + [half[:20]] * 8:
            plug = server.plug()
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plug.sendall(sent)
        eventually(lambda: taken(server) > MIB)
        server.process.send_signal(signal.SIGTERM)
        assert exit_code_in_time(server.process, "embsync-serve@.service") == 0
    assert "Traceback" not in (root.parent / "serve.log").read_text()
