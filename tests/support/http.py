"""A real server in another process, and a client that keeps its connection."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from support.waiting import PATIENCE

NPY = "application/x-npy"


@dataclass
class Answer:
    """A response."""

    status: int
    headers: Any
    body: bytes

    @property
    def plain(self) -> Any:
        """The decoded JSON."""
        return json.loads(self.body)

    @property
    def array(self) -> Any:
        """The decoded array."""
        return np.load(io.BytesIO(self.body), allow_pickle=False)

    @property
    def version(self) -> int:
        """The version in the response's header."""
        return int(self.headers["X-Embsync-Version"])


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    where: str
    announced: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    plugs: list[socket.socket] = field(default_factory=list)

    def plug(self, sent: bytes = b"") -> socket.socket:
        """Open a socket and send something; it is closed with the server at the latest."""
        if self.where.startswith("unix:"):
            plug = socket.socket(socket.AF_UNIX)
            place: Any = self.where.removeprefix("unix:")
        else:
            plug = socket.socket()
            place = urlsplit(self.where).hostname, urlsplit(self.where).port
        self.plugs.append(plug)
        plug.settimeout(PATIENCE)
        plug.connect(place)
        plug.sendall(sent)
        return plug

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection."""
        if self.where.startswith("unix:"):
            connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
            connection.sock = self.plug()
            return connection
        parts = urlsplit(self.where)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)

    def ask(
        self, path: str, body: Any = None, *, connection: http.client.HTTPConnection | None = None, **headers: str
    ) -> Answer:
        """Send GET, or POST with plain values, bytes or an array, and return the response."""
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if isinstance(body, np.ndarray):
            buffer = io.BytesIO()
            np.save(buffer, body)
            body, sent["Content-Type"] = buffer.getvalue(), NPY
        elif body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        own = connection or self.connect()
        try:
            own.request("GET" if body is None else "POST", path, body, sent)
            answer = own.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            if connection is None:
                own.close()


def command(root: Path, *options: str) -> list[str]:
    """Return the command line of a server."""
    return [sys.executable, "-W", "error", "-m", "embsync", "serve", "--store", str(root), "--json", *options]


def environment() -> dict[str, str]:
    """Return the environment of a server."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def serving(
    root: Path, *options: str, ready: bool = True, listen: str = "127.0.0.1:0", under: tuple[str, ...] = ()
) -> Iterator[Server]:
    """Run ``embsync serve`` on a free port until the context is left; ``under`` is a wrapper such as prlimit."""
    arguments = [*under, *command(root, "--listen", listen, "--interval", "0.02", *options)]
    log = root.parent / "serve.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment()) as process,
    ):
        try:
            assert process.stdout is not None
            said = "".join(iter(process.stdout.readline, "}\n"))
            announced = json.loads(said + "}")
            server = Server(process, announced["listening"], announced)
            while ready and server.ask("/readyz").status != 200:
                assert process.poll() is None
            yield server
            for plug in server.plugs:
                plug.close()
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()


def heard(plug: socket.socket) -> bytes:
    """Return the bytes received until the server closes the connection."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := plug.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def anonymous_memory(process: int) -> int:
    """Return the anonymous memory of a process in bytes (RssAnon), which excludes mapped versions."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) << 10
