"""Errors of requests, and the HTTP status of each error."""

from __future__ import annotations

from typing import Any

from embsync.errors import EmbsyncError, NotFoundError, StoreError, UsageError
from embsync.reader import ForeignSpace


class Invalid(EmbsyncError):
    """A request that cannot be answered; ``where`` is the path of the field."""

    exit_code = 2


class Malformed(Invalid):
    """A body that is not what its content type says."""


class Refused(EmbsyncError):
    """A request turned away before it was looked at, with a status of its own."""

    def __init__(self, status: int, what: str, **parts: Any) -> None:
        super().__init__(what, **parts)
        self.status = status


#: The first that fits counts.
_STATUS: tuple[tuple[type[EmbsyncError], int], ...] = (
    (Malformed, 400),
    (Invalid, 422),
    (ForeignSpace, 409),
    (NotFoundError, 404),
    (UsageError, 422),
    (StoreError, 503),
    (EmbsyncError, 500),
)


def http_status(error: EmbsyncError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, Refused):
        return error.status
    return next(status for kind, status in _STATUS if isinstance(error, kind))
