"""Child processes that are killed as a group and die with their parent; how they ended, in words.

This file is also a program: ``python -I -S processes.py PARENT COMMAND...`` runs any command, and kills it with
everything it started when the parent dies. It therefore imports nothing from the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
#: Signals that Python ignores; a command expects the system's default.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class ChildProcess:
    """A running child.

    Parameters
    ----------
    arguments : sequence of str
    guarded : bool
        Whether it is killed by a guard process when the parent dies. Otherwise the program must call
        :func:`die_with_parent` itself, or exit at the end of its standard input.
    own_group : bool
        Whether it leads its own process group; otherwise it belongs to its parent's, and is killed with that.
    stdin, stdout, stderr, env, pass_fds
        As for :class:`subprocess.Popen`.

    Raises
    ------
    OSError
        It cannot be started.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        guarded: bool = False,
        own_group: bool = True,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        guard = [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid())] if guarded else []
        self._own_group = own_group
        self._process = subprocess.Popen(
            [*guard, *arguments],
            process_group=0 if own_group else None,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            pass_fds=pass_fds,
        )

    @property
    def pid(self) -> int:
        """Its process id, which is also its group's id if it leads one."""
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """The pipe to its standard input, if requested."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe from its standard output, if requested."""
        assert self._process.stdout is not None
        return self._process.stdout

    def poll(self) -> int | None:
        """Return its exit code, the negative number of the signal that killed it, or None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end, at most for some seconds, and return its exit code as :meth:`poll` does."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def communicate(self, request: bytes, seconds: float) -> tuple[bytes, bytes] | None:
        """Send it a request, return all that it writes until it ends, and kill what is left of its group.

        Parameters
        ----------
        request : bytes
            Its whole standard input, which must be a pipe.
        seconds : float

        Returns
        -------
        stdout, stderr : bytes
            What it wrote to those that are pipes, otherwise empty; None if it was killed
            because it took longer.
        """
        try:
            output, messages = self._process.communicate(request, seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()
        return output or b"", messages or b""

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> int:
        """Kill it and its group; return its exit code."""
        if self._own_group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        return self._process.wait()


def describe_exit(code: int) -> str:
    """Describe an exit code as the end of a sentence: ``ended with 3``, ``was killed by SIGKILL``."""
    if code >= 0:
        return f"ended with {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, however it ends.

    The kernel watches the thread that started this process, which must live as long as the parent.

    Parameters
    ----------
    parent : int
        Process id of the parent; if it has already died, this process exits with 1.
    number : signal
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        sys.exit(1)


def _guard(parent: int, arguments: list[str]) -> int:
    """Run a command in this process's group, and kill the group when the parent dies; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    die_with_parent(parent, signal.SIGTERM)
    process = os.posix_spawn(arguments[0], arguments, os.environ, setsigdef=_IGNORED_BY_PYTHON)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code < 0:  # end by the same signal
        with contextlib.suppress(OSError):  # SIGKILL cannot be handled
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(_guard(int(sys.argv[1]), sys.argv[2:]))
