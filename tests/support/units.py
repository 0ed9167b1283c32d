"""The limits of the shipped systemd units, and whether a process keeps to them."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

UNITS = Path(__file__).resolve().parents[2] / "systemd"
_LOOK_SECONDS = 0.02


def stop_seconds(unit: str) -> float:
    """Return a unit's ``TimeoutStopSec=``, after which systemd kills the remaining processes."""
    found = re.search(r"^TimeoutStopSec=(\d+)s$", (UNITS / unit).read_text(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def exit_code_in_time(process: subprocess.Popen[str], unit: str) -> int:
    """Return the exit code of a process that was sent a stop signal, within the unit's time limit.

    The time is counted in polls, which are later on a busy machine, where the process is slower too.
    """
    for _ in range(int(stop_seconds(unit) / _LOOK_SECONDS)):
        code = process.poll()
        if code is not None:
            return code
        time.sleep(_LOOK_SECONDS)
    raise AssertionError(f"still there after TimeoutStopSec of {unit}")


@contextlib.contextmanager
def listening(address: Path) -> Iterator[list[str]]:
    """Collect the messages sent to a service manager as they arrive: the kernel queues ten and drops the rest."""
    reported: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        channel.settimeout(0.1)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    reported.append(channel.recv(4096).decode())

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield reported
        finally:
            ended.set()
            thread.join()
