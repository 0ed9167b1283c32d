"""What a search over HTTP takes from the bytes of a request to those of its answer, without sockets.

Requests are handed to the server's protocol in this process, one after the other, and answers are taken from it:
embsync's, and that of ``bare_server.py`` with the same parser. Beside them, what FAISS takes of it, with the effort of
the version, and ``version.search``. Processor microseconds of one thread, the best of rounds in turn.

    python benchmarks/request_cost.py [--rows 20000] [--rounds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bare_server
import faiss
import numpy as np
import uvicorn
from searching import same_file
from serving import WIDTH, K, publish
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from workload import Size, write_nights

import embsync
from embsync.server.app import Application
from embsync.server.httptools_connections import BoundedHttpTools
from embsync.server.settings import Settings

QUERIES = 200
ROUNDS = 20
Ask = Callable[[], Awaitable[object]]


class Wire(asyncio.Transport):
    """A connection that keeps its responses."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.answer = bytearray()

    def write(self, data: Any) -> None:
        """Keep a part of a response."""
        self.answer += data

    def is_closing(self) -> bool:
        """Return False."""
        return False

    def resume_reading(self) -> None:
        """Do nothing: there is nothing to read."""

    def close(self) -> None:
        """Do nothing."""


def asking(protocol: Any, requests: list[bytes]) -> Ask:
    """Return a function that sends one request after the other, each when the previous one is answered."""
    wire = Wire()
    protocol.connection_made(wire)

    async def ask() -> None:
        for request in requests:
            wire.answer.clear()
            protocol.data_received(request)
            while not protocol.cycle.response_complete:
                await asyncio.sleep(0)
            assert wire.answer.startswith(b"HTTP/1.1 200"), wire.answer

    return ask


def request(query: np.ndarray) -> bytes:
    """Return the bytes of a request, as ``wrk`` sends it."""
    body = json.dumps({"vectors": [query.tolist()], "k": K}).encode()
    head = (
        b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    return head % len(body) + body


def protocol(kind: Callable[..., Any], application: Any) -> Any:
    """Return a connection of uvicorn, without a socket."""
    config = uvicorn.Config(application, lifespan="off", log_config=None, access_log=False, ws="none", loop="asyncio")
    return kind(config=config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop())


@contextlib.contextmanager
def served(root: Path) -> Iterator[Application]:
    """Start the application of ``embsync serve``, and wait until it serves the version."""
    application = Application(Settings(store=str(root)))
    application._served.start()
    while application._served.current is None:
        time.sleep(0.01)
    yield application
    application._served.stop()


async def measured(root: Path, rounds: int) -> dict[str, float]:
    """Return the least processor microseconds per request of each way."""
    with served(root) as application, embsync.open(root) as reader:
        version = reader.current
        assert version.users is not None
        queries = [np.array(row)[None] for row in version.users.vectors[:QUERIES]]
        requests = [request(query[0]) for query in queries]
        bare = same_file(version)

        async def each(search: Callable[[np.ndarray], object]) -> None:
            for query in queries:
                search(query)

        ways: dict[str, Ask] = {
            "embsync": asking(
                protocol(partial(BoundedHttpTools, application.connections, application.at_once), application.asgi()),
                requests,
            ),
            "starlette and FAISS, httptools": asking(
                protocol(HttpToolsProtocol, bare_server.application(version.path)), requests
            ),
            "version.search": lambda: each(lambda query: version.search(query, K)),
            "FAISS": lambda: each(bare),
        }
        least = dict.fromkeys(ways, np.inf)
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.thread_time()
                await way()
                least[name] = min(least[name], 1e6 * (time.thread_time() - began) / QUERIES)
    return least


def main() -> None:
    """Publish, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="items, and users")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "S"
        publish(root, write_nights(Path(place), Size(given.rows, given.rows, WIDTH)), 2)
        least = asyncio.run(measured(root, given.rounds))
    print("| one request | processor us |\n| --- | --- |")
    for name, one in least.items():
        print(f"| {name} | {one:.0f} |")


if __name__ == "__main__":
    main()
