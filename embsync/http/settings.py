"""What ``embsync serve`` is told, and what it refuses to do."""

from __future__ import annotations

import ipaddress
import os

import msgspec

from embsync.errors import UsageError


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request may ask for.

    Attributes
    ----------
    body : int
        Bytes of a request's body; beyond: 413.
    neighbours, batch : int
        Largest k, and most ids, vectors or lists of a request; beyond: 422.
    concurrency : int
        Requests worked on at once by a worker; beyond: 429.
    seconds : float
        Time for a request; beyond: 503.
    """

    body: int = 16 << 20
    neighbours: int = 1_000
    batch: int = 10_000
    concurrency: int = 64
    seconds: float = 10.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A server: where the store is, where to listen, and what to allow."""

    store: str
    listen: str = "127.0.0.1:8980"
    token_file: str | None = None
    space_id: str | None = None
    workers: int = 1
    interval: float = 0.5
    limits: Limits = Limits()


def address(listen: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises
    ------
    UsageError
    """
    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError("not an address to listen on", found=listen, expected="HOST:PORT or unix:/path")
    return host.strip("[]"), int(port)


def require_token_beyond_loopback(settings: Settings) -> None:
    """Refuse to serve other machines without a token.

    Raises
    ------
    UsageError
    """
    if settings.token_file is not None or settings.listen.startswith(("unix:", "fd:")):
        return
    host, _ = address(settings.listen)
    if not is_loopback(host):
        raise UsageError("refusing to listen beyond this machine without a token", found=settings.listen,
                         expected="--token-file FILE", hint="or listen on 127.0.0.1 or unix:/path")


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def threads_each(workers: int) -> int:
    """Return the OpenMP threads a worker may use."""
    return max(1, len(os.sched_getaffinity(0)) // workers)
