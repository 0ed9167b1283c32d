"""The application: routes, the handling of every request, and error responses."""

from __future__ import annotations

import asyncio
import functools
import os
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from embsync.errors import EmbsyncError
from embsync.logs import log_exception
from embsync.reader import Version
from embsync.server.arrays import NPY
from embsync.server.connections import ALL_HERE, Connections
from embsync.server.context import JSON, Answer, RequestContext
from embsync.server.endpoints import PAGES, QUERIES, RESOURCES, PageEndpoint, QueryEndpoint, Resource
from embsync.server.errors import FailureStatus, Refused
from embsync.server.memory import MemoryBudget, Reservation
from embsync.server.metrics import SHARED, Metrics
from embsync.server.openapi import document
from embsync.server.pages import HTML, without_version
from embsync.server.queries import QUICK_BODY, QueryRequest, header
from embsync.server.resources import WorkerState
from embsync.server.responses import VERSION_HEADER, PiecesResponse, error_response, unexpected_error, version_header
from embsync.server.served_version import ServedVersion
from embsync.server.settings import Settings
from embsync.server.token import Token

#: Endpoints by path.
_QUERIES = {one.path: one for one in QUERIES}
#: Endpoints that need no token.
_OPEN = frozenset(resource.path for resource in RESOURCES if resource.open)
#: Threads that handle requests; at most half of them handle large requests.
_THREADS = 16
#: Seconds between checks whether a client has disconnected; most responses take less.
_SOON = 0.2
#: Seconds after which a body that is still arriving is dropped if another request needs its slot.
_SLOW = 0.5
#: Seconds that an answer without a thread may take, and seconds for which all requests are handled in threads after one
#: took longer because of major page faults: pages of the version were read from the disk again.
_LONG, _RELIEF_SECONDS = 0.02, 1.0
#: Key of the scope under which a decoded request that needs a thread is stored.
_ASKED = "embsync.asked"
#: Number of Host headers whose validity is cached.
_HOSTS = 64


class Application:
    """One worker's endpoints; ``leaving`` returns True once a signal was received."""

    def __init__(self, settings: Settings, leaving: Callable[[], bool] = lambda: False) -> None:
        self._settings = settings
        self._leaving = leaving
        self._limits = settings.limits
        self._metrics = Metrics()
        self._served = ServedVersion(settings, self._metrics)
        self._worker = WorkerState(self._served, self._metrics, document(settings.limits))
        self._token = None if settings.token_file is None else Token(Path(settings.token_file))
        self.connections = Connections(settings.limits, self._metrics, self._version_now)
        self._busy = 0
        self._reading: dict[asyncio.Timeout, float] = {}  # start of each body that is still arriving, oldest first
        self._memory = MemoryBudget(settings.limits.memory, _THREADS // 2, self._metrics.memory)
        self._threads = ThreadPoolExecutor(_THREADS, "embsync-answer")
        self._faults, self._relieved_until = 0, 0.0
        self._answers_to = functools.lru_cache(_HOSTS)(settings.answers_to)

    def asgi(self) -> ASGIApp:
        """Return the ASGI application; queries bypass starlette's routing, which takes 0.03 ms."""
        queries = {one.path: self._handled(self._query(one), one.path) for one in QUERIES}
        routes = [
            Route(one.path, queries[one.path], methods=["POST", "GET"] if one.get else ["POST"]) for one in QUERIES
        ]
        routes += [Route(one.path, self._handled(self._page(one), one.path), methods=["GET"]) for one in PAGES]
        routes += [Route(one.path, self._handled(self._resource(one)), methods=["GET"]) for one in RESOURCES]
        starlette = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={404: self._no_route, 405: self._no_route, Exception: self._unexpected},
        )
        starlette.router.redirect_slashes = False  # redirects would bypass checks, metrics and the version header

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            answer = queries.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
            if answer is None:
                await starlette(scope, receive, send)
            else:
                response = await answer(Request(scope, receive))
                await response(scope, receive, send)

        return application

    async def _no_route(self, request: Request, error: Exception) -> Response:
        headers = getattr(error, "headers", None) or {}
        allowed = sorted({*headers.get("Allow", "").split(", ")} - {"", "HEAD"})  # a 405 has it

        async def refuse(_: Request) -> Response:
            raise Refused(
                getattr(error, "status_code", FailureStatus.NOT_FOUND),
                f"method {request.method} is not allowed" if allowed else "no such endpoint",
                found=f"{request.method} {request.scope['path']}",
                expected=" or ".join(allowed) or None,
                hint=f"use {' or '.join(allowed)}" if allowed else "GET /openapi.json lists them",
            )

        response = await self._handled(refuse, "other")(request)
        response.headers.update(headers)
        return response

    async def _unexpected(self, _: Request, __: Exception) -> Response:
        """Respond in place of starlette, whose error page is not JSON; the error is logged."""
        response = unexpected_error()
        response.headers[VERSION_HEADER] = self._version_now()
        return response

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._served.start()
        # A worker accepts no connections while it could only respond "no version yet".
        while SHARED in os.environ and not (self._served.has_checked() or self._leaving()):
            await asyncio.sleep(0.01)
        yield
        await asyncio.to_thread(self._served.stop)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _handled(
        self, answer: Callable[[Request], Awaitable[Response]], label: str = ""
    ) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: check access, respond, count, and add the version header."""

        async def answered(request: Request) -> Response:
            began = time.perf_counter()
            try:
                self._allow(request.scope)
                response = await answer(request)
            except Exception as error:
                response = self._failed(error, label or request.scope["path"])
            return self._finished(response, label or request.scope["path"], began)

        return answered

    def at_once(self, scope: Scope, body: bytearray) -> Response | None:
        """Respond to a complete request without a task; None if the ASGI application must."""
        endpoint = _QUERIES.get(scope["path"]) if scope["method"] == "POST" else None
        if endpoint is None or len(body) > QUICK_BODY or self._busy >= self._limits.concurrency:
            return None
        began, memory = time.perf_counter(), Reservation(self._memory)
        try:
            self._allow(scope)
            version = self._worker.version()
            asked = self._asked(endpoint, version, memory, scope, self._received(body, memory))
            answer = self._quick_answer(asked)
            if answer is None:
                scope[_ASKED] = asked
                return None
            response: Response = PiecesResponse(answer, version, memory)
        except Exception as error:
            memory.release()
            response = self._failed(error, endpoint.path)
        return self._finished(response, endpoint.path, began)

    def _finished(self, response: Response, endpoint: str, began: float) -> Response:
        """Add the version header, and count."""
        if not isinstance(response, PiecesResponse):  # those have the header, with the version that they are from
            response.headers.setdefault(VERSION_HEADER, self._version_now())
        self._metrics.count(endpoint, response.status_code, time.perf_counter() - began)
        return response

    def _failed(self, error: Exception, endpoint: str) -> Response:
        """Return the response to a request that failed; an unexpected error is logged."""
        if isinstance(error, EmbsyncError):
            return error_response(error)
        if isinstance(error, ClientDisconnect):
            return Response(status_code=FailureStatus.BAD_REQUEST)
        log_exception("unexpected_error", endpoint=endpoint)
        return unexpected_error()

    def _version_now(self) -> str:
        return version_header(self._served.current)[VERSION_HEADER]

    def _allow(self, scope: Scope) -> None:
        if self._token is None:
            # DNS rebinding: a web page must not reach a server on this machine under the page's own host name.
            host = header(scope, b"host")  # None: HTTP/1.0, which no browser uses
            if not (host is None or self._settings.listen.startswith("unix:") or self._answers_to(host)):
                raise Refused(
                    FailureStatus.MISDIRECTED_REQUEST,
                    "not a name of this server",
                    found=host,
                    expected=", ".join(["localhost", "127.0.0.1", *self._settings.hosts]),
                    hint="add it to serve.hosts (--host) if a proxy sends it, or serve any name with a token "
                    "(serve.token_file, --token-file)",
                )
        elif scope["path"] not in _OPEN and not self._token.accepts(header(scope, b"authorization")):
            raise Refused(FailureStatus.UNAUTHORIZED, "no valid token", expected="Authorization: Bearer TOKEN")

    def _resource(self, resource: Resource) -> Callable[[Request], Awaitable[Response]]:
        async def read(_: Request) -> Response:
            return resource.handler(self._worker)

        return read

    def _query(self, endpoint: QueryEndpoint) -> Callable[[Request], Awaitable[Response]]:
        async def asked(request: Request) -> Response:
            return await self._answer(endpoint, request)

        return asked

    def _page(self, endpoint: PageEndpoint) -> Callable[[Request], Awaitable[Response]]:
        async def asked(request: Request) -> Response:
            if self._served.current is None and HTML in (header(request.scope, b"accept") or "").lower():
                run = asyncio.get_running_loop().run_in_executor
                return await run(self._threads, without_version, self._served, endpoint.path)
            return await self._answer(endpoint, request)

        return asked

    async def _answer(self, endpoint: QueryEndpoint | PageEndpoint, request: Request) -> Response:
        """Read a body and answer it within all limits, with the version served now; in a thread unless it is quick."""
        version = self._worker.version()
        asked: QueryRequest | None = request.scope.pop(_ASKED, None)
        if self._busy >= self._limits.concurrency and not self._end_slow_body():
            if asked is not None:
                asked.context.memory.release()
            most = f"at most {self._limits.concurrency}"
            raise Refused(FailureStatus.TOO_MANY_REQUESTS, "too many requests at once", expected=most)
        self._busy += 1
        if asked is None:
            memory = Reservation(self._memory)
            try:
                body = None if request.method in ("GET", "HEAD") else await self._body(request, memory)
                asked = self._asked(endpoint, version, memory, request.scope, body)
                del body
                answer = self._quick_answer(asked)
            except BaseException:
                self._busy -= 1
                memory.release()
                raise
            if answer is not None:
                self._busy -= 1
                return PiecesResponse(answer, version, memory)
        context = asked.context
        return PiecesResponse(await self._in_a_thread(asked, request), context.version, context.memory)

    def _asked(
        self,
        endpoint: QueryEndpoint | PageEndpoint,
        version: Version,
        memory: Reservation,
        scope: Scope,
        body: bytes | None,
    ) -> QueryRequest:
        as_array = NPY in (header(scope, b"accept") or "").lower()
        context = RequestContext(
            version, self._limits, self._served.open_kept, self._served.kept_versions, memory, as_array
        )
        fields = QueryParams(scope["query_string"]).multi_items() if scope["query_string"] else ()
        return QueryRequest(endpoint, context, header(scope, b"content-type") or JSON, fields, body)

    def _quick_answer(self, asked: QueryRequest) -> Answer | None:
        """Respond without a thread if that is fast; None if a thread is needed."""
        began = time.monotonic()
        if began < self._relieved_until or not asked.is_small():
            return None
        if not asked.endpoint.is_quick(asked.context, asked.request):
            return None
        answer = asked.answer()
        now = time.monotonic()
        if now - began > _LONG and (faults := resource.getrusage(resource.RUSAGE_THREAD).ru_majflt) > self._faults:
            self._faults, self._relieved_until = faults, now + _RELIEF_SECONDS
        return answer

    async def _in_a_thread(self, asked: QueryRequest, request: Request) -> Answer:
        memory = asked.context.memory
        future = asyncio.get_running_loop().run_in_executor(self._threads, asked.answer)
        future.add_done_callback(self._done)
        try:
            await self._awaited(future, request)
            return future.result()
        except BaseException:
            memory.cancel()
            future.add_done_callback(lambda _: memory.release())
            raise
        finally:
            del future  # the exception references this frame

    async def _awaited(self, future: asyncio.Future[Answer], request: Request) -> None:
        """Wait for a response until the client disconnects or the time limit of requests is reached."""
        first = min(_SOON, self._limits.seconds)
        done, _ = await asyncio.wait({future}, timeout=first)
        if done:
            return
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
        try:
            done, _ = await asyncio.wait(
                {future, gone}, timeout=self._limits.seconds - first, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            gone.cancel()
        if not done:
            limit = f"{self._limits.seconds:g} s"
            raise Refused(
                FailureStatus.SERVICE_UNAVAILABLE, "not answered in time", expected=limit, hint="request less"
            )
        if future not in done:
            raise ClientDisconnect

    def _done(self, future: asyncio.Future[Answer]) -> None:
        self._busy -= 1
        if not future.cancelled():
            future.exception()  # retrieved even if the request was abandoned

    def _end_slow_body(self) -> bool:
        """Drop the oldest body that is still arriving, if it is slow; return whether one was dropped."""
        now = asyncio.get_running_loop().time()
        for clock, since in self._reading.items():
            if now - since < _SLOW:
                return False
            if not clock.expired():
                del self._reading[clock]
                clock.reschedule(now)
                return True
        return False

    async def _body(self, request: Request, memory: Reservation) -> bytes:
        parts, size = [], 0
        if ALL_HERE in request.scope:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            return self._received(message["body"], memory)
        clock = asyncio.timeout(self._limits.seconds)
        try:
            async with clock:
                self._reading[clock] = asyncio.get_running_loop().time()
                async for part in request.stream():
                    size += len(part)
                    self._require_short(size)
                    memory.receive(2 * len(part))  # once in parts, and once joined
                    parts.append(part)
        except TimeoutError:
            raise Refused(FailureStatus.REQUEST_TIMEOUT, "the body did not arrive in time") from None
        finally:
            self._reading.pop(clock, None)
        return b"".join(parts)

    def _received(self, body: bytes | bytearray, memory: Reservation) -> bytes:
        self._require_short(len(body))
        memory.receive(2 * len(body))
        return bytes(body)

    def _require_short(self, size: int) -> None:
        limit = self._limits.body
        if size > limit:
            found, expected = f"more than {limit} bytes", f"at most {limit}"
            raise Refused(FailureStatus.CONTENT_TOO_LARGE, "body too large", found=found, expected=expected)


async def _gone(request: Request) -> None:
    """Wait until the client disconnects; for a request without body, an empty body is received first."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
