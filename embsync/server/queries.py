"""Queries as received, decoded on first access; and request headers."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from embsync.server.context import Answer, RequestContext
from embsync.server.decoding import Fields, decode, decode_query, decoded_size
from embsync.server.endpoints import PageEndpoint, QueryEndpoint

#: Limits of a body that is decoded and perhaps answered without a thread: its bytes, and its bytes as Python objects.
#: Decoding it takes some 0.1 ms, handing it over to a thread 0.2 ms.
QUICK_BODY, _QUICK_OBJECTS = 1 << 14, 1 << 19
#: Bytes of a body that cannot exceed _QUICK_OBJECTS, whatever its contents.
_SHORT_BODY = _QUICK_OBJECTS // 301


class QueryRequest:
    """A query as received; it is decoded on first access, possibly in the thread that handles it."""

    def __init__(
        self,
        endpoint: QueryEndpoint | PageEndpoint,
        context: RequestContext,
        content_type: str,
        fields: Fields,
        body: bytes | None,
    ) -> None:
        self.endpoint, self.context = endpoint, context
        self._content_type, self._fields, self._body = content_type, fields, body
        self._request: Any = None

    def is_small(self) -> bool:
        """Return whether decoding is fast, and needs so little memory that it never waits for any."""
        body = self._body or b""  # the length of a query string is limited by that of the head
        return len(body) <= _SHORT_BODY or (len(body) <= QUICK_BODY and decoded_size(body) <= _QUICK_OBJECTS)

    @property
    def request(self) -> Any:
        """The request; None for a page."""
        if self._request is None and not isinstance(self.endpoint, PageEndpoint):
            if self._body is None:
                self._request = decode_query(self.endpoint, self._fields)
            else:
                body, self._body = self._body, b""
                self._request = decode(self.endpoint, self._content_type, self._fields, body, self.context.memory)
        return self._request

    def answer(self) -> Answer:
        """Return the answer."""
        self.context.memory.raise_if_cancelled()  # the request may have waited for a thread
        return self.endpoint.handler(self.context, self.request)


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first header with a name, given in lower case; starlette takes 2 µs for each header."""
    for its_name, value in scope["headers"]:
        if its_name == name:
            text: str = value.decode("latin-1")
            return text
    return None
