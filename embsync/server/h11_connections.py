"""Connections whose requests are parsed by h11, in Python; it is always installed, since uvicorn depends on it."""

from __future__ import annotations

import contextlib
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from embsync.server.connections import LONGEST_HEAD, BoundedConnection, Phase


class BoundedH11(BoundedConnection, H11Protocol):
    """A connection parsed by h11."""

    def data_received(self, data: bytes) -> None:
        """Parse received data."""
        # In pieces: otherwise a head of any length would be accepted if it arrived at once.
        for start in range(0, len(data), LONGEST_HEAD):
            if not self.transport.is_closing():
                super().data_received(data[start : start + LONGEST_HEAD])

    def handle_events(self) -> None:
        """Handle parsed events, and enter the phase that the connection is in then."""
        super().handle_events()
        self.watch()

    def shutdown(self) -> None:
        """Close after the request in progress is answered."""
        with contextlib.suppress(h11.LocalProtocolError):
            super().shutdown()
        self.watch()

    def now(self) -> Phase:
        """Return the phase that the connection is in."""
        theirs, cycle = self.conn.their_state, self.cycle
        if self.transport.is_closing():
            return Phase("closing")
        if cycle is None or (theirs is h11.IDLE and not self.flow.write_paused):
            begun = cycle is None or self.conn.trailing_data[0]
            return Phase("head" if begun else "idle", cycle)
        if theirs is h11.SEND_BODY and cycle.response_complete:
            return Phase("leftover", cycle)
        return Phase("request", cycle)

    def has_begun_head(self) -> bool:
        """Return whether a part of a head has arrived."""
        return bool(self.conn.trailing_data[0])

    def may_refuse(self) -> bool:
        """Return whether a response may be written now: no answer has been sent in part."""
        return self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def answering(self) -> Any:
        """Return the cycle of the current or last request."""
        return self.cycle
