"""No connection can block the server, whatever it sends or fails to send."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.forkserver import SWITCH
from support.http import Server, heard, serving
from support.nights import night
from support.quick import quick_directory
from support.stores import sync
from support.waiting import PATIENCE

from embsync.server.app import Application
from embsync.server.server import _protocol
from embsync.server.settings import Settings

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A store with one version."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, items=150, users=80, width=6), "n0")
        yield directory / "S"


@pytest.fixture(scope="module", params=["httptools", "h11"])
def server(root: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short timeouts, with each of the two parsers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBSYNC_SERVE__LIMITS__IDLE_SECONDS", "1")
        if request.param == "httptools":
            pytest.importorskip("httptools")
        else:
            missing = tmp_path_factory.mktemp("missing")
            (missing / "httptools.py").write_text("raise ImportError")
            patch.setenv(SWITCH, "0")  # executed, not forked from a process that has loaded the parser
            patch.syspath_prepend(missing)
        with serving(root, "--max-seconds", "1.5") as running:
            patch.undo()  # this process may load the parser
            yield running


def closed(plug: socket.socket) -> bytes:
    """Return the bytes received until the server closes the connection."""
    plug.settimeout(PATIENCE)
    return heard(plug)


def trickle(plug: socket.socket, text: bytes) -> None:
    """Send a byte every 20 ms until the server closes, long before the text is complete."""
    for byte in text:
        try:
            plug.sendall(bytes([byte]))
        except OSError:
            return
        time.sleep(0.02)
    raise AssertionError("all of it was waited for")


def figure(server: Server, name: str) -> float:
    """Return one of the server's metrics, 0 before it exists."""
    lines = server.ask("/metrics").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_connections_wait_while_none_are_accepted(root: Path) -> None:
    """The backlog takes 2,000 connections while the server is stopped, so none needs a retransmitted SYN."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    longest = int(Path("/proc/sys/net/core/somaxconn").read_text())
    if hard < 2500 or longest < 2500:
        pytest.skip(f"the machine allows {hard} descriptors and a queue of {longest}, fewer than 2,500")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2500), hard))
    try:
        with serving(root) as server, contextlib.ExitStack() as held:
            where = ("127.0.0.1", int(server.where.rsplit(":", 1)[1]))
            server.process.send_signal(signal.SIGSTOP)
            try:
                for _ in range(2000):
                    plug = held.enter_context(socket.socket())
                    plug.settimeout(0.9)  # the kernel retransmits after a second
                    plug.connect(where)
            finally:
                server.process.send_signal(signal.SIGCONT)
            assert server.ask("/healthz").status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("options", "unix", "descriptors"),
    [
        (("--max-connections", "40"), False, 0),
        (("--max-connections", "40", "--workers", "2"), False, 0),
        (("--max-connections", "40"), True, 0),
        ((), False, 256),
    ],
)
def test_a_thousand_incomplete_heads_do_not_stop_the_server(
    root: Path, tmp_path: Path, options: tuple[str, ...], unix: bool, descriptors: int
) -> None:
    """With more connections than allowed or than descriptors, others get immediate responses; the log stays short."""
    under = ("prlimit", f"--nofile={descriptors}:{descriptors}") if descriptors else ()
    listen = f"unix:{tmp_path}/s" if unix else "127.0.0.1:0"
    with serving(root, *options, listen=listen, under=under) as server:
        plugs = []
        for count in range(500):
            plugs.append(server.plug(HEAD))
            if count % 100 == 99:
                assert server.ask("/healthz").status == 200
                assert server.ask("/v1/search", {"users": [2000]}).status == 200
        assert figure(server, 'embsync_http_connections_closed_total{reason="evicted"}') > 100
        for plug in plugs:
            plug.close()
    lines = (root.parent / "serve.log").read_text().splitlines()
    assert len(lines) < 10
    assert not [line for line in lines if "Traceback" in line]
    reported = [json.loads(line)["event"] for line in lines]
    assert ("connections_limited" in reported) == bool(descriptors)


def test_one_connection_too_many_is_refused_if_none_is_idle(root: Path) -> None:
    """While all are busy, a 503 has Retry-After and the usual headers; afterwards connections are accepted again."""
    with serving(root, "--max-connections", "2", "--max-seconds", "1") as server:
        body = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        said = b""
        while not said:  # once, unless the two timed out on a slow machine
            busy = [server.plug(body) for _ in range(2)]
            assert [b" 100 " in plug.recv(4096) for plug in busy] == [True, True]
            said = closed(server.plug())
        assert b" 503 " in said.splitlines()[0]
        assert b"retry-after: 1" in said.lower()
        assert b"x-embsync-version: 1" in said.lower()
        assert [b" 408 " in plug.recv(4096) for plug in busy] == [True, True]
        assert server.ask("/healthz").status == 200


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, b"POST /v1/search HTTP/1.1\r\nContent-Length: 5\r\nX: "])
def test_an_idle_connection_without_a_head_is_closed(server: Server, sent: bytes) -> None:
    """For any incomplete head, the connection gets a 408 if something was sent, and is closed."""
    said = closed(server.plug(sent))
    assert said.startswith(b"HTTP/1.1 408 ") if sent else said == b""


def test_a_head_sent_byte_by_byte_is_cut_off(server: Server) -> None:
    """Single bytes do not restart the deadline."""
    plug = server.plug()
    trickle(plug, HEAD * 10)


def test_a_second_head_has_its_own_deadline(server: Server) -> None:
    """A kept connection has a deadline for a further request, whether it is begun or not."""
    for sent, status in ((HEAD, b"408"), (b"", b"200")):
        plug = server.plug(HEAD + b"\r\n" + sent)
        assert closed(plug).rpartition(b"HTTP/1.1 ")[2].startswith(status)
    assert 'reason="idle"' not in server.ask("/metrics").body.decode()  # how a connection ends


def test_a_refused_request_is_answered_before_its_body_arrives(server: Server) -> None:
    """The response is sent before the body is complete, so a slow body does not hold the connection."""
    plug = server.plug(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
    assert b" 405 " in plug.recv(4096)
    trickle(plug, b"x" * 1000)


def test_unread_responses_are_dropped(server: Server) -> None:
    """A client that sends ten thousand requests and reads no response is disconnected."""
    before = figure(server, 'embsync_http_connections_closed_total{reason="request"}')
    plug = server.plug()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plug.setblocking(False)
    sent, end = 0, time.monotonic() + PATIENCE
    while figure(server, 'embsync_http_connections_closed_total{reason="request"}') == before:
        assert time.monotonic() < end
        try:
            sent += plug.send((b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n") * 1000)
        except BlockingIOError:
            time.sleep(0.05)
        except (BrokenPipeError, ConnectionResetError):
            break
    assert sent > 0


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD + b"X: " + b"x" * 40_000 + b"\r\n\r\n",
        HEAD + b"X: y\r\n" * 5_000,
        HEAD + b"Host: other\r\n\r\n",
        HEAD + b" folded: \x00\r\n\r\n",
    ],
)
def test_non_http_bytes_are_answered_as_a_bad_request(server: Server, sent: bytes) -> None:
    """The response is a 4xx or 501 in JSON with the version, and the connection is closed."""
    plug = server.plug()
    try:
        plug.sendall(sent)
    except OSError:
        return  # closed before everything was sent
    head, _, body = closed(plug).partition(b"\r\n\r\n")
    if head:  # otherwise the client lost the response while it still sent
        assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 431 "))
        assert b"x-embsync-version: 1" in head.lower()
        assert json.loads(body)["what"]


def test_invalid_bytes_within_a_chunked_body_are_refused(server: Server, root: Path) -> None:
    """They are refused before a response, after one and behind a request in progress, without a warning in the log."""
    chunked = b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for path in (b"POST /v1/search", b"POST /healthz", b"GET /healthz", b"POST /nowhere"):
        plug = server.plug(path + chunked + b"2\r\n{}\r\nnonsense\r\n")
        assert closed(plug).startswith(b"HTTP/1.1 4" if b"GET" not in path else b"HTTP/1.1 ")
        plug = server.plug(path + chunked)
        time.sleep(0.05)
        plug.sendall(b"nonsense\r\n\r\n")
        closed(plug)
    closed(server.plug(HEAD + b"\r\n" + b"\x00nonsense\r\n\r\n"))
    assert server.ask("/healthz").status == 200
    assert "Traceback" not in (root.parent / "serve.log").read_text()


def answered(plug: socket.socket) -> tuple[list[bytes], bytes]:
    """Return head, without the date, and body of one response on a connection that stays open."""
    said = b""
    while b"\r\n\r\n" not in said:
        said += plug.recv(1 << 16)
    head, _, body = said.partition(b"\r\n\r\n")
    lines = [line.partition(b"GMT")[2] if line.startswith(b"date: ") else line for line in head.split(b"\r\n")]
    length = next(int(line.split()[1]) for line in lines if line.startswith(b"content-length: "))
    while len(body) < length:
        body += plug.recv(1 << 16)
    return lines, body


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, b'{"users": [2000], "k": 3}', b"Host: localhost"),
        (404, b'{"users": [7]}', b"Host: localhost"),
        (422, b'{"users": [2000], "k": 0}', b"Host: localhost"),
        (400, b"{", b"Host: localhost"),
        (421, b'{"users": [2000]}', b"Host: elsewhere"),
        (415, b'{"users": [2000]}', b"Host: localhost\r\nContent-Type: text/plain"),
    ],
)
def test_a_request_in_one_piece_is_answered_as_in_two(server: Server, status: int, body: bytes, headers: bytes) -> None:
    """A complete request may be answered without a task; head and body are the same, with headers in the same order."""
    head = b"POST /v1/search HTTP/1.1\r\n%b\r\nContent-Length: %d\r\n\r\n" % (headers, len(body))
    plug = server.plug(head + body)
    whole = answered(plug)
    plug.sendall(head)
    time.sleep(0.05)
    plug.sendall(body)
    assert answered(plug) == whole
    assert whole[0][0].startswith(b"HTTP/1.1 %d " % status)
    before = server.ask("/metrics").body
    plug.sendall(head + body)
    assert answered(plug) == whole
    assert counted(server.ask("/metrics").body, status) == counted(before, status) + 1


def counted(figures: bytes, status: int) -> float:
    """Return how many searches had a status."""
    name = b'embsync_http_requests_total{endpoint="/v1/search",status="%d"} ' % status
    return float(figures.split(name)[1].split()[0])


def _name(protocol: object) -> str:
    assert isinstance(protocol, partial)
    return str(protocol.func.__name__)


def test_the_faster_parser_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other parser is h11, a dependency of uvicorn."""
    pytest.importorskip("httptools")
    application = Application(Settings(store="nowhere"))
    assert _name(_protocol(application)) == "BoundedHttpTools"
    monkeypatch.setitem(sys.modules, "embsync.server.httptools_connections", None)
    assert _name(_protocol(application)) == "BoundedH11"


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Hundreds of requests, with and without bodies, with any status and HEAD, get their responses in order."""
    body = b'{"users": [2000], "k": 1}'
    post = (
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    some = HEAD + b"\r\n" + post % len(body) + body + HEAD.replace(b"GET", b"HEAD") + b"\r\n" + post % 2 + b"{}"
    plug = server.plug()
    sending = threading.Thread(target=plug.sendall, args=(some * 100 + HEAD + b"Connection: close\r\n\r\n",))
    sending.start()
    said = closed(plug)
    sending.join()
    statuses = [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 200, 200, 422] * 100 + [200]


def test_an_upgrade_to_another_protocol_is_ignored(server: Server) -> None:
    """Java's client offers HTTP/2 in its first request: it gets the entire response in HTTP/1.1."""
    body = b'{"users": [2000], "k": 1}'
    wish = b"Host: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    typed = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    for sent in (b"POST /v1/search HTTP/1.1\r\n" + wish + typed + body, b"GET /healthz HTTP/1.1\r\n" + wish + b"\r\n"):
        plug = server.plug(sent + HEAD + b"\r\n")
        assert closed(plug).count(b"HTTP/1.1 200 ") == 2
    assert closed(server.plug(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 4")
