"""Start: take the path of libraries from the process that started this one, and serve it."""

from __future__ import annotations

import importlib
import json
import signal
import socket
import sys


def main() -> None:
    """Load the libraries of the other side, take on the limits, and answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side decides, by hanging up
    channel = socket.socket(fileno=0)
    sys.path[:] = json.loads(channel.recv(65536))
    importlib.import_module("embsync.decoder.service").start(channel)


if __name__ == "__main__":
    main()
