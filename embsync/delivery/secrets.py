"""Secrets of sinks: read from the environment or from files, and never shown.

The configuration names the place of a secret, never the secret itself. :func:`without_secrets` masks every secret that
was read, since libraries include connection strings in their error messages.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from embsync.errors import UsageError

_SHOWN_AS = "***"
#: Length of the shortest secret that is masked: shorter ones would match parts of ordinary words.
_SHORTEST = 4
_known: set[str] = set()


def read_secret(key: str, *, variable: str | None = None, file: str | None = None) -> str | None:
    """Return a secret from an environment variable or the first line of a file; None if neither is named.

    Parameters
    ----------
    key : str
        The configuration key concerned, for messages.
    variable, file : str, optional
        Name of the variable, and path of the file.

    Raises
    ------
    UsageError
        Both are named, the variable is not set, or the file cannot be read or is empty.
    """
    if variable is not None and file is not None:
        raise UsageError(
            "two sources for one secret", where=key, found=f"{variable} and {file}", expected="one of them"
        )
    if variable is not None:
        found = os.environ.get(variable, "")
        if not found:
            raise UsageError("the variable with a secret is not set", where=key, found=variable, expected="its value")
    elif file is not None:
        found = _first_line(key, Path(file))
    else:
        return None
    remember_secret(found)
    return found


def _first_line(key: str, file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        found = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError("the file with a secret cannot be read", where=f"{key}: {file}", found=found) from None
    if not lines or not lines[0].strip():
        raise UsageError("the file with a secret is empty", where=f"{key}: {file}", expected="the secret, on one line")
    return lines[0].strip()


def remember_secret(secret: str) -> None:
    """Make :func:`without_secrets` mask a secret, including its percent-encoded forms."""
    if len(secret) >= _SHORTEST:
        _known.update({secret, quote(secret, safe=""), quote(secret)})


def without_secrets(text: str) -> str:
    """Return text in which every known secret is replaced."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, _SHOWN_AS)
    return text
