"""The bearer token: read from a file, read again when the file changes, compared in constant time."""

from __future__ import annotations

import hmac
from pathlib import Path

from embsync.errors import UsageError


class Token:
    """The token a file holds now.

    Parameters
    ----------
    path : path
        A text file with the token alone.

    Raises
    ------
    UsageError
        The file cannot be read, or holds nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._value: bytes | None = None
        self._look()
        if self._value is None:
            raise UsageError("no token", where=path, expected="a readable file that holds one")

    def accepts(self, header: str | None) -> bool:
        """Tell whether an ``Authorization`` header carries the token; nobody is let in while the file is away."""
        self._look()
        scheme, _, given = (header or "").partition(" ")
        if self._value is None or scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._value)

    def _look(self) -> None:
        try:
            status = self._path.stat()
            now = status.st_mtime_ns, status.st_ino, status.st_size
            if now == self._seen:
                return
            self._value = self._path.read_bytes().strip() or None
            self._seen = now
        except OSError:
            self._value = self._seen = None
