"""Errors of HTTP requests and their statuses; :mod:`embsync.errors` has the status of all others."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Self

from embsync.errors import EmbsyncError, UsageError


class FailureStatus(IntEnum):
    """The statuses of requests that are not answered, described as in the OpenAPI document."""

    description: str

    def __new__(cls, value: int, description: str) -> Self:
        """Return the status."""
        status = int.__new__(cls, value)
        status._value_, status.description = value, description
        return status

    BAD_REQUEST = 400, "The body does not match its content type"
    UNAUTHORIZED = 401, "No valid token"
    NOT_FOUND = 404, "An id or a version does not exist"
    REQUEST_TIMEOUT = 408, "The body did not arrive in time"
    CONFLICT = 409, "Another space is served"
    CONTENT_TOO_LARGE = 413, "Body too large"
    UNSUPPORTED_MEDIA_TYPE = 415, "Unknown content type"
    MISDIRECTED_REQUEST = 421, "The Host header is not a name of this server"
    UNPROCESSABLE_CONTENT = 422, "A field is invalid or exceeds a limit; ``where`` is its path"
    TOO_MANY_REQUESTS = 429, "Too many requests at once"
    SERVICE_UNAVAILABLE = 503, "No version yet, too much memory in use, or the time limit was reached"


class Invalid(UsageError):
    """A request that cannot be answered; ``where`` is the path of the field."""


class Malformed(Invalid):
    """A body that does not match its content type."""

    http_status = FailureStatus.BAD_REQUEST


class Refused(EmbsyncError):
    """A request refused before it was handled, with a given status."""

    def __init__(self, status: int, what: str, **parts: Any) -> None:
        super().__init__(what, **parts)
        self.http_status = status
