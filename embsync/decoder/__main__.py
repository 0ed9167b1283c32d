"""Entry point: read the library path from the parent process, and serve its requests."""

from __future__ import annotations

import importlib
import json
import signal
import socket
import sys


def main() -> None:
    """Load the parent's libraries, set the limits, and serve requests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops it by closing the channel
    channel = socket.socket(fileno=0)
    sys.path[:] = json.loads(channel.recv(65536))
    importlib.import_module("embsync.decoder.service").start(channel)


if __name__ == "__main__":
    main()
