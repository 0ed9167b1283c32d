"""Errors of requests; the HTTP status of all others is an attribute of theirs."""

from __future__ import annotations

from typing import Any

from embsync.errors import EmbsyncError


class Invalid(EmbsyncError):
    """A request that cannot be answered; ``where`` is the path of the field."""

    exit_code = 2
    http_status = 422


class Malformed(Invalid):
    """A body that is not what its content type says."""

    http_status = 400


class Refused(EmbsyncError):
    """A request refused before it was handled, with its own status."""

    def __init__(self, status: int, what: str, **parts: Any) -> None:
        super().__init__(what, **parts)
        self.http_status = status
