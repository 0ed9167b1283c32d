"""One of several workers: started with an inherited socket and the settings."""

from __future__ import annotations

import signal
import socket
import sys

import msgspec

from embsync import logs
from embsync.processes import die_with_parent
from embsync.server.server import outlive_hangup, work
from embsync.server.settings import Settings


def main(parent: str, descriptor: str, settings: str) -> int:
    """Serve on a listening socket that the parent holds open; if the parent dies, stop as on SIGTERM."""
    die_with_parent(int(parent), signal.SIGTERM)
    outlive_hangup()
    given = msgspec.json.decode(settings.encode(), type=Settings)
    logs.configure(given.log)
    with socket.socket(fileno=int(descriptor)) as bound:
        return work(given, bound)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
