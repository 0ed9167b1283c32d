"""Listening: the socket, the signals, and the workers that share it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import uvicorn

from embsync.errors import UsageError
from embsync.logs import log
from embsync.processes import ChildProcess, describe_exit
from embsync.server.app import Application
from embsync.server.connections import LONGEST_HEAD, BoundedConnection, accepted_at_once
from embsync.server.memory import share_arenas
from embsync.server.metrics import SHARED, forget
from embsync.server.settings import Settings, address, require_servable, threads_each

#: Longest time for requests in progress after SIGTERM; with the rest of a stop, less than TimeoutStopSec in
#: systemd/.
_LAST_SECONDS = 10.0
#: Connections that the kernel keeps until they are accepted; it takes min(this, net.core.somaxconn), 4,096 by default.
#: Beyond that it drops the first packet, and the client retries after 1, 3, 7, 15 and 31 s.
_BACKLOG = 4096
#: This many deaths per worker within this many seconds end the server. A worker that cannot start dies after about a
#: second.
_DEATHS, _DEATHS_SECONDS = 10, 60.0
#: Seconds for which the thread that opens a new version may hold the interpreter.
_SWITCH_INTERVAL = 0.0005
#: Signals that stop the server.
_STOPS = (signal.SIGTERM, signal.SIGINT)
#: Times at which frequent events were last logged.
_LOGGED: dict[str, float] = {}


def serve(settings: Settings, listening: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; requests in progress are completed first.

    Parameters
    ----------
    settings : Settings
    listening : callable
        Called with the address once connections are accepted; for port 0, it has the actual port.

    Returns
    -------
    int
        0 after a requested stop, 1 if workers keep dying.

    Raises
    ------
    UsageError
        The address cannot be used, a token is required, or the token file is unreadable.
    """
    require_servable(settings)
    # From here on, a stop has to clean up. Blocking the signals would not delay them: other threads would get them.
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (*_STOPS, signal.SIGHUP)}
    for number in _STOPS:
        signal.signal(number, lambda *_: stop.set())
    outlive_hangup()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))  # blocked while modules were loaded
    try:
        return _serve_on(_bind(settings.listen), settings, listening, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve_on(bound: socket.socket, settings: Settings, listening: Callable[[str], None], stop: threading.Event) -> int:
    where = bound.getsockname()
    place = _place(where)
    try:
        listening(_name(where))
        if settings.workers == 1:
            return work(settings, bound, stop)
        return _oversee(settings, bound, stop)
    finally:
        if place is not None and _place(where) == place:  # not the socket of a later server
            with contextlib.suppress(OSError):
                Path(where).unlink()
        bound.close()


class _Server(uvicorn.Server):
    """uvicorn's server, with fewer connections accepted at a time and a bounded shutdown."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; asyncio accepts as many connections at once as its backlog, so a longer backlog is set afterwards."""
        asyncio.get_running_loop().set_exception_handler(_unexpected)
        await super().startup(sockets)
        for bound in sockets or []:
            bound.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Complete requests in progress; drop those that take too long, and threads that do not end."""
        last = self.config.timeout_graceful_shutdown or 0
        end = threading.Timer(last + 2.5, os._exit, (0,))
        end.daemon = True
        end.start()
        asyncio.get_running_loop().call_later(last - 0.5, self._drop)
        await super().shutdown(sockets)

    def _drop(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def outlive_hangup() -> None:
    """Continue after SIGHUP, which asks daemons to reload, unless it means that the terminal was closed."""
    if sys.stdin is None or not sys.stdin.isatty():
        signal.signal(
            signal.SIGHUP,
            lambda *_: _log_seldom(
                "not_reloaded", hint="versions and the token are followed anyway; anything else needs a restart"
            ),
        )


def _last_seconds(settings: Settings) -> int:
    """Return the time for requests in progress after SIGTERM."""
    return math.ceil(min(settings.limits.seconds, _LAST_SECONDS))


def _unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Omit the traceback if a connection cannot be accepted, which may happen a thousand times a second."""
    error = context.get("exception")
    if not isinstance(error, OSError):
        loop.default_exception_handler(context)
    elif error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        _log_seldom("cannot_accept", reason=error.strerror)


def _log_seldom(event: str, **fields: Any) -> None:
    now = time.monotonic()
    if now - _LOGGED.get(event, -60.0) >= 60:
        _LOGGED[event] = now
        log(logging.ERROR, event, **fields)


def _protocol(application: Application) -> Callable[..., BoundedConnection]:
    """Return the factory of connections, with the faster of the two parsers that is installed."""
    try:
        from embsync.server.httptools_connections import BoundedHttpTools  # noqa: PLC0415  (optional)
    except ImportError:
        from embsync.server.h11_connections import BoundedH11  # noqa: PLC0415  (instead)

        return partial(BoundedH11, application.connections)
    return partial(BoundedHttpTools, application.connections, application.at_once)


def _uvicorn_config(application: Application, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        application.asgi(),
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        http=cast(Any, _protocol(application)),
        ws="none",
        loop="asyncio",
        timeout_graceful_shutdown=_last_seconds(settings),
        backlog=accepted_at_once(application.connections.most),
        h11_max_incomplete_event_size=LONGEST_HEAD,
    )


def work(settings: Settings, bound: socket.socket, stop: threading.Event | None = None) -> int:
    """Serve on a socket in this process until a signal; stop at once if ``stop`` is already set."""
    application = Application(settings, leaving=lambda: server.should_exit)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # otherwise every malformed request would cause a log line
    server = _Server(_uvicorn_config(application, settings))
    share_arenas()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.freeze()  # excludes imported objects from garbage collections, which would pause requests for 20 to 35 ms

    def leave(*_: object) -> None:
        # Signals before uvicorn installs its handlers would be lost; raising them again afterwards does no harm.
        server.should_exit = True

    before = {number: signal.signal(number, leave) for number in _STOPS}
    if stop is not None and stop.is_set():
        leave()
    try:
        server.run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _oversee(settings: Settings, bound: socket.socket, stop: threading.Event) -> int:
    """Replace workers that die until a signal, then stop all of them."""
    with _figures_directory() as figures:
        workers = [_start(settings, bound, figures) for _ in range(settings.workers)]
        deaths: deque[float] = deque(maxlen=_DEATHS * settings.workers)
        while not (stop.wait(0.2) or _too_often(deaths)):
            for place, worker in enumerate(workers):
                if (code := worker.poll()) is not None:
                    log(logging.ERROR, "worker_died", worker=worker.pid, status=code, reason=describe_exit(code))
                    deaths.append(time.monotonic())
                    forget(worker.pid, figures)
                    workers[place] = _start(settings, bound, figures)
        end = time.monotonic() + _last_seconds(settings) + 3
        for worker in workers:
            worker.terminate()
        for worker in workers:
            if worker.wait(max(0.0, end - time.monotonic())) is None:
                worker.kill()
    return 0 if stop.is_set() else 1


@contextlib.contextmanager
def _figures_directory() -> Iterator[str]:
    """Create the directory that workers share, with a lock against programs that clean ``/tmp`` by age (systemd)."""
    with tempfile.TemporaryDirectory(prefix="embsync-metrics-") as figures:
        descriptor = os.open(figures, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield figures
        finally:
            os.close(descriptor)


def _too_often(deaths: deque[float]) -> bool:
    """Return whether workers die as fast as they are replaced; occasional deaths do not count."""
    return len(deaths) == deaths.maxlen and time.monotonic() - deaths[0] < _DEATHS_SECONDS


def _start(settings: Settings, bound: socket.socket, figures: str) -> ChildProcess:
    environment = {**os.environ, SHARED: figures}
    environment.setdefault("OMP_NUM_THREADS", str(threads_each(settings.workers)))
    command = [
        sys.executable,
        "-m",
        "embsync.server.worker",
        str(os.getpid()),
        str(bound.fileno()),
        msgspec.json.encode(settings).decode(),
    ]
    return ChildProcess(command, env=environment, pass_fds=[bound.fileno()])


def _bind(listen: str) -> socket.socket:
    try:
        return _bind_unix(Path(listen.removeprefix("unix:"))) if listen.startswith("unix:") else _bind_tcp(listen)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE and not listen.startswith("unix:")
        hint = f"to see which process listens there: ss -ltnp 'sport = :{address(listen)[1]}'" if taken else None
        raise UsageError("cannot listen", where=listen, found=error.strerror or str(error), hint=hint) from error


def _bind_tcp(listen: str) -> socket.socket:
    host, port = address(listen)
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # asyncio disables Nagle's algorithm only if the protocol is given; otherwise each answer waits 40 ms for an ACK.
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _bind_unix(path: Path) -> socket.socket:
    """Listen on a Unix socket for owner and group; the socket of a dead server is replaced."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as other:
            other.setblocking(False)  # a full queue would block
            # a full queue or missing permission does not mean that the server is dead
            if (answer := other.connect_ex(str(path))) != errno.ECONNREFUSED:
                raise UsageError(
                    "another server listens here", where=path, found=os.strerror(answer) if answer else None
                )
        path.unlink()
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(0o117)
    try:
        bound.bind(str(path))
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(before)
    return bound


def _name(where: Any) -> str:
    if isinstance(where, str):
        return f"unix:{where}"
    host = f"[{where[0]}]" if ":" in where[0] else where[0]
    return f"http://{host}:{where[1]}"


def _place(where: Any) -> tuple[int, int] | None:
    """Return device and inode of a Unix socket, None if it does not exist."""
    if isinstance(where, str):
        with contextlib.suppress(OSError):
            status = Path(where).stat()
            return status.st_dev, status.st_ino
    return None
