"""All kinds of abusive clients at once; small requests are still answered.

``EMBSYNC_ABUSE_SECONDS`` is the duration of the long run (600; an hour in ``make torture``).
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.http import Server, anonymous_memory, serving
from support.nights import configured, night
from support.quick import quick_directory
from support.stores import sync
from torture.report import Tally, tally

from embsync.store import Store

SECONDS = float(os.environ.get("EMBSYNC_ABUSE_SECONDS", "600"))
SIZES = {"items": 1500, "users": 100, "width": 8}
#: Seconds within which health and a small search are answered; measured: under 1 on two busy cores.
PATIENCE = 10.0
MIB = 1 << 20
#: Errors of an attacker that exhausted its own resources.
_OWN = (errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS)
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def root() -> Iterator[Path]:
    """A store with one version."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, **SIZES), "n0")
        yield directory / "S"


class Abuse:
    """A server and its attackers."""

    def __init__(self, server: Server, users: list[int]) -> None:
        self.server = server
        self.users = users
        self.stop = threading.Event()
        self.tried: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []

    def large(self, *, k: int = 100, queries: int = 10_000) -> bytes:
        """Return a large request."""
        asked = {"users": [self.users[place % len(self.users)] for place in range(queries)], "k": k}
        return posted(json.dumps(asked).encode())

    def half_heads(self, chance: random.Random) -> None:
        """Send parts of request heads on many connections, and hold these open."""
        with contextlib.ExitStack() as held:
            for _ in range(chance.choice([10, 100, 300])):
                held.enter_context(self.plug(HEAD[: chance.randrange(len(HEAD))]))
            self.stop.wait(chance.random())

    def slow_bodies(self, chance: random.Random) -> None:
        """Send bodies a byte at a time, more of them than the server handles at once."""
        head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000000\r\n\r\n"
        with contextlib.ExitStack() as held:
            plugs = [held.enter_context(self.plug(head)) for _ in range(80)]
            for _ in range(chance.randrange(20)):
                for plug in plugs:
                    with contextlib.suppress(OSError):
                        plug.sendall(b" " * chance.choice([1, 1000]))
                self.stop.wait(0.05)

    def slow_readers(self, chance: random.Random) -> None:
        """Request large responses and read nothing."""
        with contextlib.ExitStack() as held:
            for _ in range(6):
                plug = held.enter_context(self.plug())
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                plug.sendall(self.large())
            self.stop.wait(2 * chance.random())

    def garbage(self, chance: random.Random) -> None:
        """Send what is not HTTP, such as TLS."""
        for _ in range(50):
            start = chance.choice([b"\x16\x03\x01", b"GET ", b"PRI * HTTP/2.0\r\n\r\n", HEAD, b""])
            self.heard(self.plug(start + chance.randbytes(chance.randrange(2000)) + b"\r\n\r\n"))

    def floods(self, chance: random.Random) -> None:
        """Send requests without reading the responses, and heads that never end."""
        with self.plug() as plug, contextlib.suppress(OSError):
            plug.settimeout(1)
            for _ in range(20):
                plug.sendall(chance.choice([(HEAD + b"\r\n") * 500, HEAD + b"X-Y: z\r\n" * 5000, b"\r\n" * 50_000]))

    def forged(self, chance: random.Random) -> None:
        """Send false names, lengths and encodings."""
        lines = [
            b"Host: evil.example",
            b"Host: a, b",
            b"Content-Length: 18446744073709551616",
            b"Content-Length: 5",
            b"Content-Length: 0x10",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: chunked, gzip",
            b"Expect: 100-continue",
            b"Upgrade: websocket",
            b"Connection: upgrade",
            b"Accept: application/x-npy",
            b"Content-Type: application/x-npy",
            b"Content-Encoding: gzip",
        ]
        for _ in range(50):
            target = chance.choice(
                [
                    b"GET /healthz",
                    b"POST /v1/search",
                    b"POST /v1/lookup",
                    b"HEAD /",
                    b"CONNECT a:1",
                    b"OPTIONS *",
                    b"GET http://evil.example/",
                    b"GET /" + b"a" * 5000,
                ]
            )
            some = chance.sample(lines, chance.randrange(5))
            self.heard(self.plug(b"\r\n".join([target + b" HTTP/1.1", *some, b"", b"0\r\n\r\n"])))

    def products(self, chance: random.Random) -> None:
        """Send the largest allowed requests, and larger ones, and sometimes close before the response."""
        for asked in (
            self.large(),
            self.large(k=1000, queries=1000),
            self.large(k=1000),
            posted(b'{"users":[' + b"[]," * 100_000 + b"[]]}"),
            posted(b"[" * 100_000),
        ):
            with self.plug(asked) as plug:
                if chance.random() < 0.5:
                    self.heard(plug)

    def storm(self, chance: random.Random) -> None:
        """Open and reset connections as fast as possible."""
        for _ in range(300):
            with self.plug() as plug:
                if chance.random() < 0.5:
                    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def plug(self, sent: bytes = b"") -> socket.socket:
        """Return a connection on which data was sent, as far as the server accepted it."""
        where = ("127.0.0.1", int(self.server.where.rsplit(":", 1)[1]))
        # A single address would run out of ports: each connection keeps its port for a minute after it is closed.
        own = (f"127.0.{random.randrange(1, 255)}.{random.randrange(1, 255)}", 0)
        plug = socket.create_connection(where, timeout=20, source_address=own)
        with contextlib.suppress(OSError):
            plug.sendall(sent)
        return plug

    def heard(self, plug: socket.socket) -> None:
        """Record the status of a response."""
        with plug, contextlib.suppress(OSError):
            plug.settimeout(1)
            said = plug.recv(1 << 16)
            if said.startswith(b"HTTP/1.1 "):
                self.statuses[int(said[9:12])] += 1

    def keep_on(self, attack: Callable[[random.Random], None], seed: int) -> None:
        """Repeat an attack until the end."""
        chance = random.Random(seed)
        while not self.stop.is_set():
            try:
                attack(chance)
            except TimeoutError:
                self.failures.append(f"{attack.__name__}: no connection in 20 s")
            except OSError as error:  # the server may refuse or reset connections
                if error.errno in _OWN:
                    self.failures.append(f"{attack.__name__}: {error}")
            self.tried[attack.__name__] += 1

    def probe(self) -> None:
        """Request health and a small search; both must succeed in time, repeated after a 429 or 503."""
        while not self.stop.is_set():
            for path, body in (("/healthz", None), ("/v1/search", {"users": self.users[:1], "k": 3})):
                self.answered(path, body)
            self.tried["probes"] += 1

    def answered(self, path: str, body: object) -> None:
        """Repeat a request until it succeeds, for at most ``PATIENCE`` seconds."""
        end, status = time.monotonic() + PATIENCE, 0
        while time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status = self.server.ask(path, body).status
                if status not in (429, 503):
                    break
            time.sleep(0.05)
        if status != 200:
            self.failures.append(f"{path}: {status} after {PATIENCE:g} s")


def posted(body: bytes) -> bytes:
    """Return the bytes of a request."""
    return (
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    ) + body


def descriptors(process: int) -> int:
    """Return the number of a process's descriptors."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def overflows() -> int:
    """Return the number of connections that the kernel has dropped since it started because a listen queue was full."""
    names, figures = (line.split() for line in Path("/proc/net/netstat").read_text().splitlines()[:2])
    return int(figures[names.index("ListenOverflows")])


def settled(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait until a condition holds; return whether it does."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return true()


def abused(root: Path, seconds: float, made: Tally) -> None:
    """Run all attacks at once for a number of seconds."""
    with serving(
        root,
        "--max-connections",
        "400",
        "--max-seconds",
        "3",
        "--max-memory",
        "128 MiB",
        under=("prlimit", "--nofile=1024:1024"),
    ) as server:
        process = server.process.pid
        server.ask("/v1/search", {"users": [2000]})
        abuse = Abuse(server, [2000 + place for place in range(60)])
        abuse.users = [
            one for one in abuse.users if server.ask("/v1/lookup", {"side": "users", "ids": [one]}).status == 200
        ]
        before, most, dropped = (anonymous_memory(process), descriptors(process)), 0, overflows()
        attacks = [
            abuse.half_heads,
            abuse.slow_bodies,
            abuse.slow_readers,
            abuse.garbage,
            abuse.floods,
            abuse.forged,
            abuse.products,
            abuse.storm,
        ]
        threads = [threading.Thread(target=abuse.keep_on, args=(attack, seed)) for seed, attack in enumerate(attacks)]
        threads.append(threading.Thread(target=abuse.probe))
        for thread in threads:
            thread.start()
        end, number = time.monotonic() + seconds, 1
        while time.monotonic() < end:
            server.process.send_signal(signal.SIGHUP)
            sync(root, night(number % 5, **SIZES), f"n{number}", configured(store__keep_versions=2))
            if number % 3 == 0:
                Store(root).rollback(number)
            number += 1
            most = max(most, anonymous_memory(process))
            time.sleep(min(0.5, max(0.0, end - time.monotonic())))
        abuse.stop.set()
        for thread in threads:
            thread.join(60)
        made.points = sum(abuse.tried.values())
        print(f"\n{dict(abuse.tried)}\n{dict(abuse.statuses)}\nmemory {(most - before[0]) / MIB:.0f} MiB at most")
        print(f"connections dropped by the kernel, whose queue was full, and asked for again: {overflows() - dropped}")
        for failure in abuse.failures:
            made.harm("lost", failure)
        if strange := {status for status in abuse.statuses if status >= 500} - {501, 503}:
            made.harm("torn", f"answers {strange}")
        if most - before[0] > 128 * MIB + 128 * MIB:  # the estimated memory, and that of allocators and buffers
            made.harm("lost", f"{(most - before[0]) / MIB:.0f} MiB")
        if not settled(lambda: descriptors(process) <= before[1] + 8):
            made.harm("unrepaired", f"{descriptors(process)} descriptors, {before[1]} before")
        print(f"left {(anonymous_memory(process) - before[0]) / MIB:.0f} MiB")
        if not settled(lambda: anonymous_memory(process) < before[0] + 64 * MIB, 10):
            made.harm("unrepaired", f"{(anonymous_memory(process) - before[0]) / MIB:.0f} MiB are left")
        if server.process.poll() is not None:
            made.harm("unrepaired", "the server ended")
    log = (root.parent / "serve.log").read_text()
    if "Traceback" in log or "unexpected" in log:
        made.harm("torn", log[-2000:])
    if len(log.splitlines()) > 20 + 3 * number + seconds:
        made.harm("torn", f"{len(log.splitlines())} lines in the log")


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("seconds", [6.0, pytest.param(SECONDS, marks=pytest.mark.torture)])
def test_no_client_can_stop_the_server(root: Path, seconds: float) -> None:
    """Health and a small search are answered in time; no 5xx but 501 and 503; memory and descriptors are released."""
    with tally("abuse over HTTP", least=20) as made:
        abused(root, seconds, made)
