"""One of several workers: started with an inherited socket and the settings."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

import msgspec

from embsync import logs
from embsync.server.server import work
from embsync.server.settings import Settings


def main(descriptor: str, settings: str) -> int:
    """Serve on a listening socket that the parent holds open."""
    told = msgspec.json.decode(settings.encode(), type=Settings)
    logs.configure(told.log)
    threading.Thread(target=_stop_without, args=(os.getppid(),), daemon=True).start()
    with socket.socket(fileno=int(descriptor)) as bound:
        return work(told, bound)


def _stop_without(parent: int) -> None:
    """Stop as on SIGTERM when the parent is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
