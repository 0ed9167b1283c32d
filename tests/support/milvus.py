"""A server for the Milvus API that a test run starts: milvus-lite, which is Python over FAISS."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from support.quick import quick_directory

#: Binds a port and prints it; milvus-lite's own command needs a given port, which others may take meanwhile. pymilvus
#: sends a keepalive every ten seconds, which Milvus permits; with gRPC's default, milvus-lite closes such a connection
#: ("too many pings").
_SERVER = """
import sys
import grpc
plain = grpc.server
keepalive = [("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_ping_strikes", 0)]
grpc.server = lambda pool, options: plain(pool, options=[*options, *keepalive])
from milvus_lite.adapter.grpc.server import start_server_in_thread
server, _, port = start_server_in_thread(sys.argv[1])
print("listening on", port, flush=True)
sys.stdout = sys.stderr
server.wait_for_termination()
"""


@contextlib.contextmanager
def running_milvus() -> Iterator[str]:
    """Start a server without collections, yield its URL, and stop it at the end."""
    with quick_directory() as root, (root / "log").open("w") as log:  # an unread pipe would fill up
        command = [sys.executable, "-c", _SERVER, str(root / "data")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server:
            assert server.stdout is not None
            try:
                line = next((line for line in server.stdout if line.startswith("listening on ")), None)
                assert line is not None, (root / "log").read_text()
                yield f"http://127.0.0.1:{line.split()[-1]}"
            finally:
                server.kill()
