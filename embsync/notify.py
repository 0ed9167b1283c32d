"""systemd's notification protocol: one datagram per message."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator


def notify(*assignments: str) -> None:
    """Notify the service manager, if there is one: ``READY=1``, ``STATUS=...``, ``WATCHDOG=1``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)  # a manager that does not read must not block the loop
        # each line is an assignment, so a line break in a snapshot's name must not add one
        message = "\n".join(assignment.replace("\n", " ") for assignment in assignments)
        channel.sendto(message.encode(errors="backslashreplace"), "\0" + address[1:] if address[0] == "@" else address)


@contextlib.contextmanager
def reloading() -> Iterator[None]:
    """Notify that the configuration is being reloaded, and at the end that the service is ready again."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
    try:
        yield
    finally:
        notify("READY=1")


def watchdog_seconds() -> float | None:
    """Return the manager's watchdog interval in seconds; None if it does not watch this process."""
    try:
        wanted = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        process = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return wanted if wanted > 0 and process == os.getpid() else None
