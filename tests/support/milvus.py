"""A server that answers the calls of Milvus, of a test run's own: milvus-lite, which is Python over FAISS."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

from support.quick import quick_directory


@contextlib.contextmanager
def running_milvus() -> Iterator[str]:
    """Start a server without collections, and give its URL; stop it at the end."""
    with quick_directory() as root, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        code = "import sys; from milvus_lite.cmdline import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "server", "--host", "127.0.0.1", "--port", str(port)]
        with subprocess.Popen(
            [*command, "--data-dir", str(root / "data")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as server:
            assert server.stdout is not None
            try:
                for line in server.stdout:
                    if "listening" in line:
                        break
                yield f"http://127.0.0.1:{port}"
            finally:
                server.kill()
