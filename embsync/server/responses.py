"""Responses: JSON, errors, and responses sent piece by piece."""

from __future__ import annotations

from functools import cache

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from embsync.errors import EmbsyncError
from embsync.reader import Version
from embsync.server.connections import ANSWER_BYTES
from embsync.server.context import JSON, Answer
from embsync.server.errors import FailureStatus, Refused
from embsync.server.memory import Reservation

VERSION_HEADER = "X-Embsync-Version"
_VERSION_BYTES = VERSION_HEADER.lower().encode()
RETRY = {"Retry-After": "1"}
_ERROR_HEADERS: dict[int, dict[str, str]] = {
    FailureStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
    FailureStatus.TOO_MANY_REQUESTS: RETRY,
    FailureStatus.SERVICE_UNAVAILABLE: RETRY,
}


def version_header(version: Version | None) -> dict[str, str]:
    """Return the header with the version of a response."""
    return {VERSION_HEADER: "none" if version is None else str(version.number)}


def json_response(plain: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return plain values as JSON."""
    return Response(msgspec.json.encode(plain), status, headers, JSON)


def error_response(error: EmbsyncError) -> Response:
    """Return an error as JSON, with its status."""
    status = error.http_status
    plain = {key: value for key, value in error.as_dict().items() if key != "exit_code"}
    return json_response(plain, status, _ERROR_HEADERS.get(status))


def unexpected_error() -> Response:
    """Return the response to an error that was logged."""
    return error_response(Refused(EmbsyncError.http_status, "unexpected error", hint="the server's log has details"))


@cache
def _content_type(media_type: str) -> bytes:
    """Return the ``Content-Type`` of a media type; there are few."""
    return (media_type + "; charset=utf-8" * media_type.startswith("text/")).encode()


class PiecesResponse(Response):
    """A response sent piece by piece: each piece is freed once sent, and the reserved memory is released at the end."""

    def __init__(self, answer: Answer, version: Version, memory: Reservation) -> None:
        self._pieces, self._memory = answer.pieces, memory
        self._size = sum(map(len, answer.pieces))
        self.status_code = 200
        self.raw_headers = [
            (b"content-length", b"%d" % self._size),
            (_VERSION_BYTES, b"%d" % version.number),
            (b"content-type", _content_type(answer.media_type)),
            *((name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()),
        ]

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """Send the response."""
        scope[ANSWER_BYTES] = self._size
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while self._pieces:
                piece = self._pieces.popleft()
                await send({"type": "http.response.body", "body": piece, "more_body": bool(self._pieces)})
        finally:
            self._memory.release()

    def taken(self) -> bytes:
        """Return the body, and release the reserved memory."""
        self._memory.release()
        return b"".join(self._pieces)


def headers_and_body(response: Response) -> tuple[bytes, bytes]:
    """Return the headers of a response, each ended by CRLF, and its body."""
    headers = b"".join([b"%b: %b\r\n" % one for one in response.raw_headers])
    return headers, response.taken() if isinstance(response, PiecesResponse) else bytes(response.body)
