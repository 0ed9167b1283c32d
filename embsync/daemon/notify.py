"""systemd's notify protocol: one datagram a message."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(*assignments: str) -> None:
    """Tell the service manager, if there is one that listens: ``READY=1``, ``STATUS=...``, ``WATCHDOG=1``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)  # a manager that does not read must not stop the loop
        # a line is an assignment: a snapshot's name in one must not make another
        message = "\n".join(assignment.replace("\n", " ") for assignment in assignments)
        channel.sendto(message.encode(errors="backslashreplace"), "\0" + address[1:] if address[0] == "@" else address)


def reloading() -> None:
    """Tell that the configuration is being read again; ``READY=1`` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_seconds() -> float | None:
    """Return within how many seconds the manager wants a sign of life; None when it does not ask this process."""
    try:
        wanted = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        process = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return wanted if wanted > 0 and process == os.getpid() else None
