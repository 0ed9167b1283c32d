"""Calls to Milvus, each with a time limit; its errors become embsync's, without secrets."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from embsync.config import MilvusConfig
from embsync.delivery.secrets import read_secret, without_secrets
from embsync.errors import SinkError, SinkUnavailable, UsageError

_CONNECT_SECONDS = 10.0
#: Seconds for one call; waiting for an index takes many calls. Without a limit, pymilvus retries for hours.
_CALL_SECONDS = 120.0
#: Milvus's codes differ between its releases: words in its messages, what to do, and whether a retry may succeed.
_ADVICE: tuple[tuple[tuple[str, ...], str, bool], ...] = (
    (("auth", "permission", "privilege"), "check user and token (delivery.sinks: token_file)", False),
    (("database '", "database not found"), "name a database that exists (delivery.sinks: database)", False),
    (("no space left", "disk quota", "memory quota"), "free space there, or lower keep_versions", True),
    (("fail connecting",), "is the server running, and the token right (delivery.sinks: token_file)?", True),
    (("unavailable", "deadline", "timeout", "timed out"), "is the server running?", True),
    (("rate limit",), "the server limits the rate of calls; the call is retried later", True),
)


class Client:
    """A connection to one database of a server, opened by the first call."""

    def __init__(self, config: MilvusConfig) -> None:
        self._config = config
        self._open: MilvusClient | None = None

    def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of ``MilvusClient``.

        Raises
        ------
        SinkError, SinkUnavailable
            Milvus reports an error.
        """
        with translated(self._config):
            if self._open is None:
                self._open = _connect(self._config)
            return getattr(self._open, method)(*arguments, **{"timeout": _CALL_SECONDS, **named})

    def close(self) -> None:
        """Disconnect."""
        if self._open is not None:
            self._open.close()
            self._open = None


def place_of(config: MilvusConfig) -> str:
    """Return the sink's address for messages, without user and token."""
    parts = urlsplit(config.url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}/{config.database} alias {config.alias}"


def _connect(config: MilvusConfig) -> MilvusClient:
    parts = urlsplit(config.url)
    if parts.username or parts.password:
        raise UsageError(
            "a password in the configuration",
            where=f"delivery.sinks: {config.name}: url",
            expected="http://host:port",
            hint="put user:password into a file that only this user reads, and name that as token_file",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "not the URL of a server", where=f"delivery.sinks: {config.name}: url", expected="http://host:port"
        )
    token = read_secret("token_file", file=config.token_file)
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)  # it logs each error with a traceback
    return MilvusClient(uri=config.url, token=token or "", db_name=config.database, timeout=_CONNECT_SECONDS)


@contextlib.contextmanager
def translated(config: MilvusConfig) -> Iterator[None]:
    """Raise errors of Milvus as :class:`SinkError`, or :class:`SinkUnavailable` where a retry may succeed."""
    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        text = without_secrets(getattr(error, "message", "") or str(error))
        for words, advice, transient in _ADVICE:
            if any(word in text.lower() for word in words):
                raise (SinkUnavailable if transient else SinkError)(
                    "Milvus reports an error", where=place_of(config), found=text, hint=advice
                ) from None
        raise SinkError("Milvus reports an error", where=place_of(config), found=text) from None
