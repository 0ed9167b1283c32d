"""Parse tables in a separate process, so that a malformed file cannot crash this one, and receive the decoded values.

No part of a parquet or Arrow file is parsed in this process: the decoder (:mod:`embsync.decoder`) gets the open file
and a pipe, and writes decoded rows to it, under its limits. A decoder is kept after a pass, so that the next pass over
the same side does not wait for libraries to load.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from embsync.errors import SnapshotChanged, SnapshotError, UsageError
from embsync.processes import ChildProcess, describe_exit

Message = dict[str, Any]

_SCRIPT = Path(__file__).parents[1] / "decoder" / "__main__.py"
#: A longer wait means that a disk or network share hangs, since the decoder's own steps are limited to seconds.
_TIMEOUT_SECONDS = 30
#: Limit for loading the libraries from a cold disk.
_START_SECONDS = 120
_LONGEST_MESSAGE = 2**17


class DecoderProcess:
    """A running decoder."""

    def __init__(self, process: ChildProcess, channel: socket.socket) -> None:
        self._process = process
        self._channel = channel

    @classmethod
    def start(cls) -> Self:
        """Start a decoder and wait until its limits are set.

        Raises
        ------
        UsageError
            pyarrow is not installed, or does not load.
        """
        if importlib.util.find_spec("pyarrow") is None:
            raise UsageError(
                "parquet, Arrow and CSV need pyarrow",
                expected="the extra 'parquet'",
                hint="pip install 'embsync[parquet]'",
            )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        with theirs:
            process = ChildProcess(
                [sys.executable, "-I", str(_SCRIPT)],
                own_group=False,  # killing the process group of a run also kills its decoders
                stdin=theirs.fileno(),
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        started = cls(process, ours)
        try:
            ours.settimeout(_START_SECONDS)
            ours.send(json.dumps(sys.path).encode())
            if not ours.recv(_LONGEST_MESSAGE):
                raise UsageError("pyarrow does not load", hint="pip install 'embsync[parquet]'")
            ours.settimeout(_TIMEOUT_SECONDS)
        except BaseException:
            started.close()
            raise
        return started

    def close(self) -> None:
        """Kill the decoder."""
        self._channel.close()
        self._process.kill()

    def ask(self, where: str, verb: str, arguments: Message, *handles: int) -> Message:
        """Send a request and return the first reply."""
        try:
            socket.send_fds(self._channel, [json.dumps({verb: arguments}).encode()], handles)
        except OSError:
            raise self._ended(where) from None
        return self.answer(where)

    def answer(self, where: str) -> Message:
        """Return the next reply.

        Raises
        ------
        SnapshotError
            The reply is a refusal, or the file crashed the decoder.
        SnapshotChanged
            There was no reply for a long time, or the decoder was killed from outside.
        """
        try:
            data = self._channel.recv(_LONGEST_MESSAGE)
        except TimeoutError:
            raise _stalled(where) from None
        except OSError:
            data = b""
        if not data:
            raise self._ended(where)
        try:
            message: Message = dict(json.loads(data))
        except (ValueError, TypeError, RecursionError):
            raise _malformed(where, "an answer that is not a valid message") from None
        if "refused" in message:
            parts = {name: message.get(name) for name in ("found", "expected", "hint")}
            raise SnapshotError(str(message["refused"]), where=where, **parts)
        return message

    def receive(self, where: str, pipe: BinaryIO, view: memoryview) -> int:
        """Fill a buffer from a pipe that the decoder writes to; return the bytes read, fewer if the pipe ends.

        Raises
        ------
        SnapshotChanged
            Nothing was written for a long time.
        """
        ready, done = select.poll(), 0
        ready.register(pipe, select.POLLIN)
        while done < len(view):
            if not ready.poll(_TIMEOUT_SECONDS * 1000):
                raise _stalled(where)
            got = os.readv(pipe.fileno(), [view[done:]])
            if got == 0:
                break
            done += got
        return done

    def _ended(self, where: str) -> SnapshotError:
        self._channel.close()
        code = self._process.wait(_TIMEOUT_SECONDS) or 0
        if code == -signal.SIGBUS:  # a mapped file was truncated
            return SnapshotChanged("became shorter while it was read", where=where)
        if code == -signal.SIGKILL:  # not caused by the file: an administrator, or the kernel out of memory
            return SnapshotChanged("the decoder was killed", where=where)
        found = "a running decoder" if code == -signal.SIGXCPU else f"the decoder {describe_exit(code)}"
        return _malformed(where, found)


def _malformed(where: str, found: str) -> SnapshotError:
    return SnapshotError("malformed table", where=where, found=found, expected="a file that can be decoded")


def _stalled(where: str) -> SnapshotChanged:
    return SnapshotChanged("reading does not progress", where=where, found=f"nothing for {_TIMEOUT_SECONDS} s")


class Decoders:
    """The decoders of one snapshot: one for each concurrent pass."""

    def __init__(self) -> None:
        self._idle: list[DecoderProcess] = []
        weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def one(self) -> Iterator[DecoderProcess]:
        """Yield a decoder; it is not reused if the pass fails."""
        decoder = self._idle.pop() if self._idle else DecoderProcess.start()
        try:
            yield decoder
        except BaseException:
            decoder.close()
            raise
        self._idle.append(decoder)


def _close_all(idle: list[DecoderProcess]) -> None:
    while idle:
        idle.pop().close()
