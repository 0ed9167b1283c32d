"""Programs that a shell finds by name and whose processes are forked, like those that tests start directly.

A program is a small client, :mod:`support.launched`: it sends its arguments, environment and standard streams to the
process that runs the test. That process starts ``python ARGUMENTS``, forked if :mod:`support.forkserver` does so, and
kills it if its client is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from support import launched
from support.quick import quick_directory

#: A file is run as Python does, in a process that can be forked.
_FILE = "import os, runpy, sys; del sys.argv[0]; sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))"
_FILE += "; runpy.run_path(sys.argv[0], run_name='__main__')"


@contextlib.contextmanager
def launching(programs: Mapping[str, str]) -> Iterator[Path]:
    """Yield a directory with programs, by name and first Python arguments; wait for the processes they started."""
    with quick_directory() as root, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        for name, arguments in programs.items():
            words = shlex.join([sys.executable, "-I", "-S", launched.__file__, str(root / "launcher")])
            (root / name).write_text(f'#!/bin/sh\nexec {words} {arguments} "$@"\n')
            (root / name).chmod(0o755)
        listener.bind(str(root / "launcher"))
        listener.listen(64)
        accepting = threading.Thread(target=_accept, args=(listener,))
        accepting.start()
        try:
            yield root
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listener: socket.socket) -> None:
    threads = []
    with contextlib.suppress(OSError):  # the listener was shut down
        while True:
            client, _ = listener.accept()
            threads.append(threading.Thread(target=_launch, args=(client,)))
            threads[-1].start()
    for thread in threads:
        thread.join()


def _launch(client: socket.socket) -> None:
    """Run a process until it or its client ends."""
    with client:
        request, streams, _, _ = socket.recv_fds(client, launched.LONGEST_REQUEST, 3)
        arguments, directory, environment = json.loads(request)
        if arguments and arguments[0].endswith(".py"):
            arguments = ["-m", "support.script", _FILE, *arguments]
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            cwd=directory,
            env=environment,
        )
        for stream in streams:
            os.close(stream)
        watching = threading.Thread(target=_kill_without, args=(client, process))
        watching.start()
        with contextlib.suppress(BrokenPipeError):  # the client was killed
            client.send(str(process.pid).encode())
            client.send(str(process.wait()).encode())
        process.wait()
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RD)
        watching.join()


def _kill_without(client: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Kill a process when its client has ended; a client sends nothing after its request."""
    with contextlib.suppress(ConnectionResetError):
        client.recv(1)
    process.kill()
