"""The bearer token: read from a file, read again when the file changes, compared in constant time."""

from __future__ import annotations

import hmac
import os
import re
from pathlib import Path

from embsync.errors import UsageError
from embsync.file_kinds import file_kind

_LONGEST = 4096
_TOKEN = re.compile(rb"[!-~]{1,%d}" % _LONGEST)


class Token:
    """The current token in a file.

    Parameters
    ----------
    path : path
        A text file with only the token; read when needed, so that a worker can start while it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._value: bytes | None = None

    def accepts(self, header: str | None) -> bool:
        """Return whether an ``Authorization`` header has the token; False while the file is missing."""
        self._reload()
        scheme, _, given = (header or "").partition(" ")
        if self._value is None or scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._value)

    def _reload(self) -> None:
        try:
            status = self._path.stat()
            now = status.st_mtime_ns, status.st_ino, status.st_size
            if now != self._seen:
                self._value = read_token(self._path)
                self._seen = now
        except (OSError, UsageError):
            self._value = self._seen = None


def read_token(path: Path) -> bytes:
    """Return the token in a file; pipes and devices are refused without blocking.

    Raises
    ------
    UsageError
        The file cannot be read, or does not have exactly one token.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            kind = file_kind(os.fstat(descriptor))
            token = os.read(descriptor, 2 * _LONGEST).strip() if kind == "file" else b""
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageError("no token", where=path, found=error.strerror, expected="a file with only the token") from None
    if not token:
        raise UsageError(
            "no token",
            where=path,
            found="an empty file" if kind == "file" else f"a {kind}",
            expected="a file with only the token",
        )
    if not _TOKEN.fullmatch(token):
        raise UsageError(
            "not a token that a header can carry",
            where=path,
            found=f"{len(token)} bytes, not shown",
            expected=f"one line of 1 to {_LONGEST} visible ASCII characters without spaces",
        )
    return token
