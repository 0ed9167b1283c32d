"""embsync commands as real processes that are forked from one that has loaded their libraries.

``python -m embsync ...`` takes half a second to a second before it starts work, nearly all of it for loading
NumPy, SciPy and FAISS, and the default run starts some hundreds. After :func:`install`, :class:`subprocess.Popen`
forks such a command from a server that has only loaded these, in a hundredth of the time. The process is a
child of the process that requested it, with its own process id and group, arguments, environment, directory and
descriptors, and dies of signals as usual. Commands that a forked process starts are forked from it.

A process is executed as usual if forking would make a difference: under another program (strace, prlimit), with
variables that the interpreter or a library reads while it is loaded (``LD_PRELOAD``, ``OMP_NUM_THREADS``), as another
user, or where ``PYTEST_FORK_COMMANDS`` is ``0``.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import inspect
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import embsync

SWITCH = "PYTEST_FORK_COMMANDS"
#: Modules that may be run.
_PROGRAMS = ("embsync", "embsync.daemon.work", "embsync.server.worker", "support.obeying", "support.script")
_LOADED = (
    "embsync.cli.main",
    "embsync.cli.daemon",
    "embsync.cli.inspect",
    "embsync.cli.publish",
    "embsync.cli.query",
    "embsync.cli.dry_run",
    "embsync.daemon.daemon",
    "embsync.daemon.work",
    "embsync.index.searcher",
    "embsync.pipeline.entry",
    "embsync.pipeline.run",
    "embsync.reader",
    "rich.progress",
    "starlette.applications",
    "uvicorn",
    "uvicorn.lifespan.off",
    "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.http.httptools_impl",
)
#: Package files run as ``python -I FILE`` limit their memory, so their server loads fewer libraries.
_FILES = Path(embsync.__file__).parent
_LOADED_BY_FILES = (
    "numpy",
    "pyarrow",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.parquet",
    "deltalake",
    "embsync.decoder.service",
)
_VARIABLES_OF_FILES = {"MALLOC_ARENA_MAX": "2"}
#: Loaded again by each process: prometheus_client reads its environment when it is loaded.
_FRESH = ("prometheus_client", "embsync.server")
#: Prefixes of the names of variables that are read before a program runs.
_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "GLIBC_", "MALLOC_", "OMP_", "GOMP_", "OPENBLAS_", "MKL_", "FAISS_")
#: Those of them that a forked process applies.
_OBEYED = {"PYTHONPATH"} | ({"PYTHONIOENCODING"} - os.environ.keys())
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_LONGEST_REQUEST = 2**20
_adoption = threading.Lock()
_execute = subprocess.Popen._execute_child
_parameters = inspect.signature(_execute)


@dataclass
class _Program:
    """The program that a forked process runs."""

    #: A module, or the path of a file.
    name: str
    arguments: list[str]
    warnings: list[str]
    environment: dict[str, str]
    directory: str
    umask: int
    session: bool
    group: int
    #: Descriptor numbers in the process, the standard ones first.
    descriptors: list[int]


@dataclass
class _Server:
    """The server of one process, started on first use; a forked process starts without one."""

    loaded: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    owner: int = field(default_factory=os.getpid)
    channel: socket.socket | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.read_at_start = _read_at_start({**os.environ, **self.variables})

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Return whether a process of this server with these variables would load the same libraries equally."""
        mine = _inside or self.owner == os.getpid()
        read = _read_at_start({**environment, **self.variables})
        return mine and environment.get(SWITCH) != "0" and read == self.read_at_start

    def fork(self, program: _Program, descriptors: Sequence[int]) -> int:
        """Return the process id of a child of this process that runs a program."""
        with self.lock, _adopting():
            channel = self.channel or self._start()
            socket.send_fds(channel, [pickle.dumps(program)], list(descriptors))
            return int(channel.recv(32))

    def _start(self) -> socket.socket:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST_REQUEST)
        with theirs:
            command = [sys.executable, "-m", "support.forkserver", str(theirs.fileno()), *self.loaded]
            environment = {**os.environ, **self.variables, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        atexit.register(self.stop)
        return self.channel

    def stop(self) -> None:
        """End the server; its processes continue."""
        if self.channel is not None and self.process is not None and self.owner == os.getpid():
            self.channel.close()
            self.process.wait()


_commands: _Server | None = None
_files: _Server | None = None
_inside = False


def install() -> None:
    """Fork embsync commands from now on, in this process and in forked ones."""
    global _commands, _files
    if os.environ.get(SWITCH) != "0" and _commands is None:
        _commands, _files = _Server(_LOADED), _Server(_LOADED_BY_FILES, _VARIABLES_OF_FILES)
        subprocess.Popen._execute_child = _execute_child


def _execute_child(popen: subprocess.Popen[Any], *arguments: Any) -> None:
    """Start a process; this replaces the method of Popen that forks and executes."""
    call = _parameters.bind(popen, *arguments).arguments
    program, server = _program(call), _commands
    if program is not None and program.name not in _PROGRAMS:
        server = None if _inside else _files
    if program is None or server is None or not server.suits(program.environment):
        _execute(popen, *arguments)
        return
    standard = [call["p2cread"], call["c2pwrite"], call["errwrite"]]
    ours = [own if given == -1 else given for own, given in enumerate(standard)] + program.descriptors[3:]
    popen.pid = _fork_here(program, ours) if _inside else server.fork(program, ours)
    popen._child_created = True
    pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
    popen._close_pipe_fds(*(call[name] for name in pipes))


def _program(call: Mapping[str, Any]) -> _Program | None:
    """Return what to fork for a call of Popen, None if it must be executed."""
    words = call["args"]
    unusual = ("executable", "preexec_fn", "gid", "gids", "uid", "shell")
    if isinstance(words, str | bytes | os.PathLike) or any(call[name] for name in unusual) or call["umask"] >= 0:
        return None
    words = [os.fspath(word) for word in words]
    environment = dict(os.environ if call["env"] is None else call["env"])
    directory = Path.cwd() if call["cwd"] is None else Path(call["cwd"]).absolute()
    if not call["close_fds"] or words[:1] != [sys.executable] or not directory.is_dir():
        return None
    first, warned = 1, []
    while words[first : first + 1] == ["-W"]:
        warned.append(words[first + 1])
        first += 2
    kind, name = [*words[first : first + 2], "", ""][:2]
    known = name in _PROGRAMS if kind == "-m" else kind == "-I" and _FILES in Path(name).parents
    fixed = all(isinstance(word, str) for word in [*words, *environment, *environment.values()])
    if not known or set(warned) - {"error"} or not fixed:
        return None
    return _Program(
        name,
        words[first + 2 :],
        warned,
        environment,
        str(directory),
        _umask(),
        call["start_new_session"],
        call["process_group"],
        [0, 1, 2, *sorted(set(call["pass_fds"]))],
    )


def _umask() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("Umask:")[2].split()[0], 8)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if name.startswith(_READ_AT_START) and name not in _OBEYED
    }


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Adopt descendants whose parent exits meanwhile."""
    library = ctypes.CDLL(None)
    with _adoption:  # process-wide, and the process has two servers
        library.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            yield
        finally:
            library.prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _serve(channel: socket.socket, loaded: Sequence[str]) -> None:
    """Load modules, then fork a process for each request, until no client is left."""
    for module in loaded:
        with contextlib.suppress(ModuleNotFoundError):  # module of an extra
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal: the client ends this process by closing the channel
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, _LONGEST_REQUEST, 64)
        if not request:
            return
        channel.send(str(_fork_for_asker(pickle.loads(request), descriptors)).encode())
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_for_asker(program: _Program, descriptors: list[int]) -> int:
    """Return the process id of a child of the requesting process: its first parent exits immediately."""
    reading, writing = os.pipe()
    with _waiting_for_its_begin() as begun:
        between = os.fork()
        if between == 0:
            between = os.getpid()
            child = os.fork()
            if child == 0:
                while os.getppid() == between:
                    time.sleep(0)
                _become(program, descriptors, begun)
            os.write(writing, str(child).encode())
            os._exit(0)
        os.waitpid(between, 0)
    child = int(os.read(reading, 32))
    os.close(reading)
    os.close(writing)
    return child


def _fork_here(program: _Program, descriptors: list[int]) -> int:
    with warnings.catch_warnings(), _waiting_for_its_begin() as begun:
        warnings.simplefilter("ignore", DeprecationWarning)  # about other threads, whose state is not used
        child = os.fork()
        if child == 0:
            _become(program, descriptors, begun)
    return child


@contextlib.contextmanager
def _waiting_for_its_begin() -> Iterator[int]:
    """Yield a descriptor, and wait at the end until the forked process has closed it.

    Until then it has no group of its own and has this process's handlers, so a kill of its group would miss it.
    """
    reading, writing = os.pipe()
    yield writing
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)


def _become(program: _Program, descriptors: list[int], begun: int) -> NoReturn:
    """Turn a forked process into the program: close ``begun`` when that is done, run the program, and exit."""
    global _inside  # noqa: PLW0603
    code = 1
    try:
        _inside = True
        if program.session:
            os.setsid()
        elif program.group >= 0:
            os.setpgid(0, program.group)
        _forget_handlers()
        os.close(begun)
        _take_descriptors(descriptors, program.descriptors)
        _open_streams(program.environment.get("PYTHONIOENCODING", ""))
        os.environ.clear()
        os.environ.update(program.environment)
        time.tzset()
        os.chdir(program.directory)
        os.umask(program.umask)
        known = program.environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = [path for path in known if path and path not in sys.path]
        for action in program.warnings:
            warnings.simplefilter(action)
        code = _run(program)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def _run(program: _Program) -> int:
    atexit._clear()
    for name in [name for name in sys.modules if name == program.name != "embsync" or name.startswith(_FRESH)]:
        del sys.modules[name]
    sys.argv = ["", *program.arguments]
    code = 0
    try:
        if program.name in _PROGRAMS:
            runpy.run_module(program.name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program.name, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        code = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()
    atexit._run_exitfuncs()
    return code & 0xFF


def _forget_handlers() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None


def _take_descriptors(descriptors: list[int], numbers: list[int]) -> None:
    """Move descriptors to the given numbers and close all others."""
    above = max([*numbers, *descriptors]) + 1
    for moved, number in enumerate(descriptors, above):
        os.dup2(number, moved)
    for moved, number in enumerate(numbers, above):
        os.dup2(moved, number)
    for one, other in pairwise([*sorted(numbers), os.sysconf("SC_OPEN_MAX")]):
        if other - one > 1:  # of nothing to close, the kernel would make all
            os.closerange(one + 1, other)


def _open_streams(encoding: str) -> None:
    """Open the standard streams with an encoding in the form of ``PYTHONIOENCODING``, or with that of this process."""
    name, _, errors = encoding.partition(":")
    name = name or (sys.__stdin__.encoding if sys.__stdin__ is not None else "utf-8")
    sys.stdin = open(0, encoding=name, errors=errors or None, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=name, errors=errors or None, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding=name, errors="backslashreplace", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    # Under the name of this module in requests, so that pickled objects have one module name.
    from support import forkserver

    forkserver.install()
    forkserver._serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
