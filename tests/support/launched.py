"""``python launched.py SOCKET ARGUMENTS...`` is ``python ARGUMENTS...``, started by :mod:`support.launcher`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from types import FrameType

PASSED_ON = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
LONGEST_REQUEST = 2**18


def run(path: str, arguments: list[str]) -> int:
    """Request a process, forward signals, and return its exit code as in :class:`subprocess.Popen`."""

    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as launcher:
        launcher.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST_REQUEST)
        launcher.connect(path)
        request = json.dumps([arguments, os.getcwd(), dict(os.environ)])  # noqa: PTH109  (pathlib takes long to load)
        socket.send_fds(launcher, [request.encode()], [0, 1, 2])
        process = int(launcher.recv(32))
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        return int(launcher.recv(32))


if __name__ == "__main__":
    code = run(sys.argv[1], sys.argv[2:])
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
