"""Connections of one worker: limits on their number and duration, and eviction for new ones.

uvicorn has a deadline for idle connections only. Here a connection that waits for its client (for a head, for the
rest of an unread body, for its response to be read) has a deadline, and is closed first when there are too many.
The connections of uvicorn's two parsers are in ``httptools_connections`` and ``h11_connections``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from embsync.logs import log
from embsync.server.errors import FailureStatus
from embsync.server.metrics import Metrics
from embsync.server.settings import Limits

#: Descriptors for the process itself: its standard streams and sockets, files of versions being opened, and
#: connections accepted but not yet counted (up to three batches of them).
_RESERVED = 192
#: Connections accepted before existing ones are served again.
_BATCH = 32
#: Bytes of the largest head.
LONGEST_HEAD = 16 << 10
#: Bytes per second at which a client must read a response, beyond the time allowed to every request.
_RATE = 1 << 20
#: Seconds for a client to notice a response before its body was complete, or a closed connection.
_LEFTOVER_SECONDS = 2.0
#: Seconds between two log lines about closed connections.
_LOG_SECONDS = 60.0
#: Key of the scope under which the application stores the size of a response.
ANSWER_BYTES = "embsync.answer_bytes"
#: Key set in the scope of a request that arrived completely before the application was called.
ALL_HERE = "embsync.all_here"


def fitting(wanted: int) -> int:
    """Raise the limit of descriptors as far as ``wanted`` connections need it; return how many of them fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVED
    if soft < needed:
        with contextlib.suppress(OSError, ValueError):  # a system call filter may forbid it
            soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fits = min(wanted, max(soft - _RESERVED, soft // 4, 1))
    if fits < wanted:
        log(
            logging.WARNING,
            "connections_limited",
            connections=fits,
            wanted=wanted,
            descriptors=soft,
            hint=f"LimitNOFILE={needed} or ulimit -n {needed}",
        )
    return fits


def accepted_at_once(connections: int) -> int:
    """Return how many connections are accepted before existing ones are served again."""
    return max(1, min(_BATCH, connections // 8))


class Phase(NamedTuple):
    """The phase: ``head``, ``request``, ``leftover``, ``idle``, ``closing`` or ``over``; and the request."""

    name: str
    cycle: Any = None


class Connections:
    """The limits of a worker's connections, and the connections that wait for their clients, longest first.

    Parameters
    ----------
    limits : Limits
    metrics : Metrics
    mark : callable
        Returns the current value of ``X-Embsync-Version``.
    """

    def __init__(self, limits: Limits, metrics: Metrics, mark: Callable[[], str]) -> None:
        self.most = fitting(limits.connections)
        self.seconds = limits.seconds
        self.idle_seconds = limits.idle_seconds
        self.mark = mark
        self.waiting: dict[BoundedConnection, None] = {}
        self._metrics = metrics
        self._logged_at = -_LOG_SECONDS
        self._unlogged: dict[str, int] = {}

    def make_room(self, new: BoundedConnection) -> bool:
        """Close the connection that has waited longest if there is one too many; return whether there is room."""
        self.counted(new.connections)
        if len(new.connections) <= self.most:
            return True
        oldest = next(iter(self.waiting), None)
        if oldest is None:
            return False
        oldest.give_up("evicted")
        return True

    def counted(self, connections: set[Any]) -> None:
        """Set the gauge of connections."""
        self._metrics.connections.set(len(connections))

    def closed(self, reason: str) -> None:
        """Count a connection closed by the server, and log the counts at most once a minute."""
        self._metrics.closed.labels(reason).inc()
        self._unlogged[reason] = self._unlogged.get(reason, 0) + 1
        now = time.monotonic()
        if now - self._logged_at >= _LOG_SECONDS:
            log(logging.WARNING, "connections_closed", **self._unlogged)
            self._logged_at, self._unlogged = now, {}


class BoundedConnection(asyncio.Protocol):
    """HTTP/1.1 on one connection, with a deadline for every phase; a mixin that precedes one of uvicorn's protocols."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    flow: Any
    cycle: Any
    connections: set[Any]

    def __init__(self, bounds: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._bounds = bounds
        self._phase = Phase("over")
        self._since = 0.0
        self._deadline: asyncio.TimerHandle | None = None

    def now(self) -> Phase:
        """Return the phase that the connection is in."""
        raise NotImplementedError

    def has_begun_head(self) -> bool:
        """Return whether a part of a head has arrived."""
        raise NotImplementedError

    def may_refuse(self) -> bool:
        """Return whether a response may be written now: no answer has been sent in part."""
        raise NotImplementedError

    def answering(self) -> Any:
        """Return uvicorn's cycle of the current or last request; None before the first."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head, or refuse the connection."""
        super().connection_made(transport)
        room = self._bounds.make_room(self)
        self._enter(Phase("head"))
        if not room:
            self._bounds.closed("refused")
            self._refuse(FailureStatus.SERVICE_UNAVAILABLE, "too many connections", f"at most {self._bounds.most}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline."""
        self._leave()
        super().connection_lost(exc)
        self._bounds.counted(self.connections)

    def on_response_complete(self) -> None:
        """Continue with the next request; uvicorn's own timer, which any byte stops, is not used."""
        super().on_response_complete()  # type: ignore[misc]
        self._unset_keepalive_if_required()  # type: ignore[attr-defined]
        self.watch()

    def pause_writing(self) -> None:
        """Note that the client has not read what was sent."""
        super().pause_writing()
        self._bounds.waiting[self] = None

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        super().resume_writing()
        if self._phase.name == "request":
            self._bounds.waiting.pop(self, None)
        self.watch()

    def send_400_response(self, _: str) -> None:
        """Respond to malformed HTTP, unless it follows a request that is being answered."""
        self._bounds.closed("malformed")
        if self.may_refuse():
            self._refuse(FailureStatus.BAD_REQUEST, "not a request in HTTP/1.1", None)
        else:
            self._close()

    def give_up(self, reason: str) -> None:
        """Drop the connection and unsent data."""
        self._bounds.closed(reason)
        self._leave()
        self.transport.abort()

    def watch(self) -> None:
        """Enter the phase that the connection is in, if it has changed; note a request that has arrived."""
        if self.cycle is not None and not self.cycle.more_body:
            self.cycle.scope[ALL_HERE] = True
        if self._phase.name != "over" and (now := self.now()) != self._phase:
            self._enter(now)

    def _enter(self, phase: Phase) -> None:
        self._phase, self._since = phase, self.loop.time()
        self._bounds.waiting.pop(self, None)
        if phase.name != "request" or self.flow.write_paused:
            self._bounds.waiting[self] = None
        end = self._since + self._seconds()
        if self._deadline is None or self._deadline.when() > end:  # a timer that fires too early is rescheduled
            self._set_deadline(end)

    def _set_deadline(self, end: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_at(end, self._late)

    def _leave(self) -> None:
        self._bounds.waiting.pop(self, None)
        self._phase = Phase("over")
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _seconds(self) -> float:
        """Return the time limit of the phase; for a request: its body, its handling, and reading the response."""
        if self._phase.name == "request":
            return 3 * self._bounds.seconds + float(self._phase.cycle.scope.get(ANSWER_BYTES, 0)) / _RATE
        if self._phase.name == "idle":
            return self._bounds.idle_seconds
        return _LEFTOVER_SECONDS if self._phase.name == "leftover" else self._bounds.seconds

    def _late(self) -> None:
        """Close after the deadline, unless the size of the response, known by now, extends it."""
        name, end, self._deadline = self._phase.name, self._since + self._seconds(), None
        if self.loop.time() < end - 0.001:
            self._set_deadline(end)
        elif name == "idle":
            self._close()
        elif name == "head" and self.has_begun_head():
            self._bounds.closed(name)
            within = f"within {self._bounds.seconds:g} s"
            self._refuse(FailureStatus.REQUEST_TIMEOUT, "the head did not arrive in time", within)
        else:
            self.give_up(name)

    def _refuse(self, status: FailureStatus, what: str, expected: str | None) -> None:
        """Respond in place of the application, and close."""
        failure = {"error": "Refused", "what": what, "where": None, "found": None, "expected": expected, "hint": None}
        body = msgspec.json.encode(failure)
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            f"x-embsync-version: {self._bounds.mark()}",
            *(["retry-after: 1"] if status == FailureStatus.SERVICE_UNAVAILABLE else []),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self._close()

    def _close(self) -> None:
        if (cycle := self.answering()) is not None:  # the result of a request in progress is discarded
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()
        self.watch()
