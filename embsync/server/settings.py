"""Settings of ``embsync serve`` and their validation."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from pathlib import Path

import msgspec

from embsync.config import Config, LimitsConfig, LogConfig, ServeConfig
from embsync.errors import UsageError
from embsync.file_kinds import file_kind
from embsync.invocation import command, quoted
from embsync.server.token import read_token

Limits = LimitsConfig

_UNIX = "unix:"
#: The token file in a printed command.
_TOKEN_FILE = "embsync.token"  # noqa: S105  (a name)
#: Longest path in a socket's address, without the terminating byte.
_LONGEST_SOCKET = 107
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


class Settings(ServeConfig, frozen=True, kw_only=True):
    """The configuration of a server and the path of its store."""

    store: str
    log: LogConfig = LogConfig()

    @classmethod
    def of(cls, config: Config) -> Settings:
        """Return the settings in a configuration."""
        return cls(store=config.store.path, log=config.log, **msgspec.structs.asdict(config.serve))

    def answers_to(self, host: str) -> bool:
        """Return whether a ``Host`` header, with or without a port, is a name of this machine or one of ``hosts``."""
        match = _HOST.fullmatch(host)
        return names_this_machine(host) or (match is not None and (match[1] or match[2]).lower() in self.hosts)


def address(listen: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises
    ------
    UsageError
        It is neither.
    """
    match = _ADDRESS.fullmatch(listen)
    if match is None or int(match[3]) > 65535:
        raise UsageError(
            "not an address to listen on", found=repr(listen), expected="HOST:PORT, [IPV6]:PORT or unix:/path"
        )
    return match[1] or match[2], int(match[3])


def require_servable(settings: Settings) -> None:
    """Refuse unusable addresses, and a token file without a token.

    Raises
    ------
    UsageError
        An address, a host or the token file is unusable, or a token is required.
    """
    require_token_beyond_loopback(settings)
    for host in settings.hosts:
        match = _HOST.fullmatch(host)
        if match is None or host != (match[1] or match[2]).lower():
            raise UsageError(
                "not a name that clients call this server by",
                where="serve.hosts",
                found=repr(host),
                expected="lower case, without scheme or port, such as search.example.org",
            )
    if settings.listen.startswith(_UNIX):
        _require_place(Path(settings.listen.removeprefix(_UNIX)))
    if settings.token_file is not None:
        read_token(Path(settings.token_file))


def _require_place(path: Path) -> None:
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise UsageError(
            "too long for a socket's path",
            where=path,
            found=f"{len(os.fsencode(path))} bytes",
            expected=f"at most {_LONGEST_SOCKET}",
        )
    if path.exists() and not path.is_socket():
        raise UsageError(
            "the socket cannot be created", where=path, found=f"a {file_kind(path.stat())}", expected="an unused path"
        )
    if not path.parent.is_dir():
        raise UsageError(
            "the socket cannot be created",
            where=path,
            found="no such directory",
            hint=f"mkdir -p {quoted(str(path.parent))}",
        )


def is_open_to_all(path: Path) -> bool:
    """Return whether every user of this machine may read a file."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def require_token_beyond_loopback(settings: Settings) -> None:
    """Refuse to serve other machines without a token.

    Raises
    ------
    UsageError
        The address is not a loopback address or Unix socket, and there is no token file; or it is not an address.
    """
    if settings.listen.startswith(_UNIX):
        return
    host, _ = address(settings.listen)
    if settings.token_file is None and not is_loopback(host):
        raise UsageError(
            "refusing to listen beyond this machine without a token",
            found=settings.listen,
            expected="--token-file FILE",
            hint=("listen on 127.0.0.1 or unix:/path", listen_command(settings, host)),
        )


def listen_command(settings: Settings, host: str) -> str:
    """Return a command that listens on a host, with the port of the settings; without a token file, it creates one."""
    given = ServeConfig().listen if settings.listen.startswith(_UNIX) else settings.listen
    listen = f"{f'[{host}]' if ':' in host else host}:{address(given)[1]}"
    token = settings.token_file or _TOKEN_FILE
    serve = command("serve", "--listen", listen, "--token-file", token, store=settings.store)
    if settings.token_file is not None:
        return serve.line
    made = f"(umask 077; test -s {token} || head -c 24 /dev/urandom | base64 > {token})"
    return f"to listen with a token: {made} && {serve.line}"


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_this_machine(host: str) -> bool:
    """Return whether a ``Host`` header, with or without a port, is a name of this machine."""
    match = _HOST.fullmatch(host)
    return match is not None and is_loopback((match[1] or match[2]).lower())


def threads_each(workers: int) -> int:
    """Return the number of OpenMP threads that a worker may use."""
    return max(1, len(os.sched_getaffinity(0)) // workers)
