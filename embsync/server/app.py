"""The application: routes, the way every request takes, and errors as answers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from embsync.errors import EmbsyncError, NotFoundError, StoreError, UsageError
from embsync.logs import log_exception
from embsync.reader import ForeignSpace, Version
from embsync.server import page
from embsync.server.answers import Answer, Desk
from embsync.server.arrays import NPY, from_npy
from embsync.server.connections import ANSWER_BYTES, Connections
from embsync.server.messages import (
    FoldInRequest,
    Invalid,
    LookupRequest,
    Malformed,
    MovementRequest,
    Refused,
    SearchRequest,
    TransformRequest,
    converted,
    decoded,
    size_decoded,
)
from embsync.server.metrics import SHARED, Metrics
from embsync.server.openapi import document
from embsync.server.serving import Serving
from embsync.server.settings import Settings, names_this_machine
from embsync.server.token import Token
from embsync.server.work import Memory, Work

_JSON = "application/json"
#: Endpoints that say nothing about the data.
_OPEN = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
#: Threads that answer; half of them at most are at work on large requests.
_THREADS = 16
#: Seconds after which it is noticed that a client has gone; most answers take less.
_SOON = 0.2
#: Seconds after which a body that is still arriving makes room for another request.
_SLOW = 0.5
_KINDS: dict[str, type[Any]] = {
    "search": SearchRequest,
    "lookup": LookupRequest,
    "transform": TransformRequest,
    "fold_in": FoldInRequest,
    "movement": MovementRequest,
}


def status_of(error: EmbsyncError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, Refused | Invalid):
        return error.status
    for kind, status in ((ForeignSpace, 409), (NotFoundError, 404), (UsageError, 422), (StoreError, 503)):
        if isinstance(error, kind):
            return status
    return 500


class Application:
    """One worker's endpoints; ``leaving`` tells that a signal has come."""

    def __init__(self, settings: Settings, leaving: Callable[[], bool] = lambda: False) -> None:
        self._settings = settings
        self._leaving = leaving
        self._limits = settings.limits
        self._metrics = Metrics()
        self._serving = Serving(settings, self._metrics)
        self._token = None if settings.token_file is None else Token(Path(settings.token_file))
        self.connections = Connections(settings.limits, self._metrics, self._mark_now)
        self._busy = 0
        self._reading: dict[asyncio.Timeout, float] = {}  # since when which body has been arriving, longest first
        self._memory = Memory(settings.limits.memory, _THREADS // 2, self._metrics.memory)
        self._threads = ThreadPoolExecutor(_THREADS, "embsync-answer")

    def asgi(self) -> Starlette:
        """Return the ASGI application."""
        posts = [Route(f"/v1/{name}", self._way(self._ask(name)), methods=["POST"]) for name in _KINDS]
        gets = [
            (path, answer)
            for path, answer in (
                ("/v1/version", self._version),
                ("/healthz", self._health),
                ("/readyz", self._ready),
                ("/metrics", self._figures),
                ("/openapi.json", self._openapi),
                ("/", self._page),
            )
        ]
        routes = [*posts, *(Route(path, self._way(answer), methods=["GET"]) for path, answer in gets)]
        application = Starlette(
            routes=routes, lifespan=self._life, exception_handlers={404: self._nowhere, 405: self._nowhere}
        )
        application.router.redirect_slashes = False  # a redirect would pass by host, token, count and mark
        return application

    async def _nowhere(self, request: Request, error: Exception) -> Response:
        async def refuse(_: Request) -> Response:
            raise Refused(
                getattr(error, "status_code", 404),
                "no such endpoint",
                found=f"{request.method} {_path(request)}",
                hint="GET /openapi.json lists them",
            )

        response = await self._way(refuse, "other")(request)
        response.headers.update(getattr(error, "headers", None) or {})  # Allow, of a 405
        return response

    @asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        self._serving.start()
        # A worker takes no connection from its siblings while it could only answer "no version yet".
        while SHARED in os.environ and not (self._serving.looked() or self._leaving()):
            await asyncio.sleep(0.01)
        yield
        await asyncio.to_thread(self._serving.stop)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _way(
        self, answer: Callable[[Request], Awaitable[Response]], label: str = ""
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the way of every request: allowed, answered, counted, and marked with its version."""

        async def answered(request: Request) -> Response:
            began = time.perf_counter()
            try:
                self._allow(request)
                response = await answer(request)
            except EmbsyncError as error:
                response = _failure(error)
            except ClientDisconnect:
                response = Response(status_code=400)
            except Exception:
                log_exception("unexpected_error", endpoint=label or _path(request))
                response = _failure(Refused(500, "unexpected error", hint="the server's log tells more"))
            response.headers.setdefault("X-Embsync-Version", self._mark_now())
            self._count(label or _path(request), response.status_code, began)
            return response

        return answered

    def _mark_now(self) -> str:
        current = self._serving.current
        return str(current.number) if current else "none"

    def _count(self, endpoint: str, status: int, began: float) -> None:
        self._metrics.requests.labels(endpoint, status).inc()
        self._metrics.seconds.labels(endpoint).observe(time.perf_counter() - began)

    def _allow(self, request: Request) -> None:
        if self._token is None:
            # Nobody's web page may reach a server meant for this machine by renaming its own host.
            host = request.headers.get("host")  # None: HTTP/1.0, which no browser speaks
            if not (host is None or self._settings.listen.startswith("unix:") or names_this_machine(host)):
                raise Refused(
                    421,
                    "not a name of this machine",
                    found=host,
                    expected="localhost or 127.0.0.1",
                    hint="have the proxy send 'Host: localhost', or serve with a token, to any name: "
                    "serve.token_file or --token-file FILE",
                )
        elif _path(request) not in _OPEN and not self._token.accepts(request.headers.get("authorization")):
            raise Refused(401, "no valid token", expected="Authorization: Bearer TOKEN")

    def _ask(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def asked(request: Request) -> Response:
            return await self._worked(request, lambda desk, body: _answered(desk, name, body, request))

        return asked

    async def _worked(self, request: Request, answer: Callable[[Desk, bytes], Answer]) -> Response:
        """Read a body and answer it in a thread, from the version served at this moment, within every limit."""
        version = self._served()
        if self._busy >= self._limits.concurrency and not self._hurried():
            raise Refused(429, "too many requests at once", expected=f"at most {self._limits.concurrency}")
        work = Work(self._memory)
        self._busy += 1
        try:
            body = await self._body(request, work)
        except BaseException:
            self._busy -= 1
            work.close()
            raise
        desk = Desk(
            version,
            self._limits,
            self._serving.kept,
            self._serving.numbers,
            work,
            NPY in request.headers.get("accept", "").lower(),
        )
        future = asyncio.get_running_loop().run_in_executor(self._threads, answer, desk, body)
        future.add_done_callback(self._done)
        del body
        try:
            await self._awaited(future, request)
            answered = future.result()
        except BaseException:
            work.give_up()
            future.add_done_callback(lambda _: work.close())
            raise
        finally:
            del future  # what it raised holds this frame
        return Pieces(answered, _mark(version), work)

    async def _awaited(self, future: asyncio.Future[Answer], request: Request) -> None:
        """Wait for an answer as long as its client does, and no longer than a request may take."""
        first = min(_SOON, self._limits.seconds)
        done, _ = await asyncio.wait({future}, timeout=first)
        if done:
            return
        gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
        try:
            done, _ = await asyncio.wait(
                {future, gone}, timeout=self._limits.seconds - first, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            gone.cancel()
        if not done:
            raise Refused(503, "not answered in time", expected=f"{self._limits.seconds:g} s", hint="ask for less")
        if future not in done:
            raise ClientDisconnect

    def _done(self, future: asyncio.Future[Answer]) -> None:
        self._busy -= 1
        if not future.cancelled():
            future.exception()  # seen, even where the request was given up

    def _hurried(self) -> bool:
        """End the body that has been arriving longest, if it is slow; return whether there was one."""
        now = asyncio.get_running_loop().time()
        for clock, since in self._reading.items():
            if now - since < _SLOW:
                return False
            if not clock.expired():
                del self._reading[clock]
                clock.reschedule(now)
                return True
        return False

    async def _body(self, request: Request, work: Work) -> bytes:
        limit, parts, size = self._limits.body, [], 0
        clock = asyncio.timeout(self._limits.seconds)
        try:
            async with clock:
                self._reading[clock] = asyncio.get_running_loop().time()
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise Refused(
                            413, "body too large", found=f"more than {limit} bytes", expected=f"at most {limit}"
                        )
                    work.receive(2 * len(part))  # once in parts, once as a whole
                    parts.append(part)
        except TimeoutError:
            raise Refused(408, "the body did not arrive in time") from None
        finally:
            self._reading.pop(clock, None)
        return b"".join(parts)

    def _served(self) -> Version:
        version = self._serving.current
        if version is None:
            raise Refused(
                503,
                "no version yet",
                where=self._serving.root,
                hint="a first snapshot has to be published where the store is",
            )
        return version

    async def _version(self, _: Request) -> Response:
        version = self._served()
        return Response(version.manifest_bytes, media_type=_JSON, headers=_mark(version))

    async def _health(self, _: Request) -> Response:
        state = self._serving.state()
        return _json(state, 200 if state["following"] else 503)

    async def _ready(self, _: Request) -> Response:
        state = self._serving.state()
        return _json(state, 200 if state["ready"] else 503)

    async def _figures(self, _: Request) -> Response:
        self._serving.state()
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, _: Request) -> Response:
        return _json(document(self._limits))

    async def _page(self, _: Request) -> Response:
        return Response(page.HTML, media_type="text/html; charset=utf-8", headers=page.HEADERS)


class Pieces(Response):
    """An answer that is sent piece by piece; each is let go once it is sent, and the share of memory with the last."""

    def __init__(self, answer: Answer, headers: dict[str, str], work: Work) -> None:
        self._pieces, self._work = answer.pieces, work
        self._size = sum(map(len, answer.pieces))
        super().__init__(None, 200, {"Content-Length": str(self._size), **headers}, answer.media_type)

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """Send it."""
        scope[ANSWER_BYTES] = self._size
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while self._pieces:
                piece = self._pieces.popleft()
                await send({"type": "http.response.body", "body": piece, "more_body": bool(self._pieces)})
        finally:
            self._work.close()


def _answered(desk: Desk, name: str, body: bytes, request: Request) -> Answer:
    kind = _KINDS[name]
    content = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    given = None
    beside = dict(request.query_params)
    desk.work.go_on()  # it may have waited long for a thread
    if content == NPY and name in ("search", "transform"):
        given = from_npy(body)
        asked = converted(beside, kind, strict=False)
    elif content == _JSON:
        if beside:
            raise Invalid(
                "fields beside a JSON body",
                where="query string",
                found=", ".join(beside),
                expected="all of them in the body",
            )
        desk.work.take(size_decoded(body), "what the body says")
        asked = decoded(body, kind)
    else:
        raise Refused(415, "unknown content type", found=content, expected=f"{_JSON} or {NPY}")
    if given is not None and getattr(asked, "vectors", None):
        raise Malformed("vectors twice", where="vectors", expected="the body alone")
    answer: Answer = getattr(desk, name)(asked, given)
    return answer


def _path(request: Request) -> str:
    """Return the path that was routed by; ``request.url`` is made of the Host header too, which anybody can forge."""
    path: str = request.scope["path"]
    return path


def _mark(version: Version) -> dict[str, str]:
    return {"X-Embsync-Version": str(version.number)}


def _json(plain: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(plain), status, headers, _JSON)


def _failure(error: EmbsyncError) -> Response:
    status = status_of(error)
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}
    plain = {key: value for key, value in error.as_dict().items() if key != "exit_code"}
    return _json(plain, status, headers.get(status))
