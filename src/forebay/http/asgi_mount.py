"""ASGI applications of others as a part of an application of ours, inside its middleware."""

from __future__ import annotations

from contextlib import AsyncExitStack
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import quote, unquote

import structlog

from forebay.engine.connection import CloseReason
from forebay.engine.loop import sleep
from forebay.engine.tasks import Gate, Task, start_task
from forebay.errors import ConnectionClosed, ForebayError
from forebay.http.asgi import ASGIApplication, ClientDisconnected
from forebay.http.asgi_exchange import ASGIExchange
from forebay.http.asgi_http import HTTPCall
from forebay.http.asgi_link import header_pairs
from forebay.http.asgi_scope import ASGI, Scope
from forebay.http.asgi_websocket import WebSocketCall, is_websocket
from forebay.http.content import Content
from forebay.http.messages import Request, Response
from forebay.http.websocket_settings import WebSocketSettings
from forebay.wire.http1 import STATUS_LINES, encode_headers

if TYPE_CHECKING:
    from forebay.http.connection import HTTPConnection

__all__ = ["ASGIMount"]

log = structlog.get_logger("forebay.http")

_HIGH = 65536  # bytes of an answer that wait; past it the application waits
_OURS = (b"date", b"server")
_HINTS = "http.response.early_hint"


class ASGIMount:
    """An ASGI 3 application, mounted in one of ours: ``app.mount("/old", django)`` makes one of these.

    It is hosted as by :class:`~forebay.http.asgi.ASGIApplication`: a client that leaves does not cancel it, but is told
    of. Its ``root_path`` is where it is mounted; scheme and client are those of the request, so what ``TrustedProxies``
    has found counts. An answer of one message is a whole :class:`Response` to the middleware around it, any other is a
    stream. WebSockets are denied or accepted by the application itself: of these, middleware sees the status.

    :param app: called with scope, receive and send.
    :param name: in logs.
    :param lifespan: ``auto``: an application without one is fine; ``on``: it is not; ``off``: it is not asked.
    :param startup_timeout: seconds for its startup; None: any time.
    :param shutdown_timeout: seconds for its shutdown.
    :param websocket: limits and timeouts of its WebSockets.
    :raises ValueError: an argument makes no sense.
    """

    __slots__ = ("_host",)

    def __init__(
        self,
        app: ASGI,
        *,
        name: str = "mounted",
        lifespan: Literal["auto", "on", "off"] = "auto",
        startup_timeout: float | None = 60.0,
        shutdown_timeout: float = 10.0,
        websocket: WebSocketSettings | None = None,
    ) -> None:
        self._host = ASGIApplication(
            app,
            name=name,
            lifespan=lifespan,
            startup_timeout=startup_timeout,
            shutdown_timeout=shutdown_timeout,
            websocket=websocket,
        )

    def __repr__(self) -> str:
        return f"<ASGIMount {self._host.name} calls={len(self._host.calls)}>"

    async def startup(self) -> None:
        """Let the application start.

        :raises StartError: it failed, or took too long.
        """
        await self._host.startup()

    async def shutdown(self) -> None:
        """Cancel what the application still does, and let it end."""
        await self._host.shutdown()

    async def respond(self, request: Request, path: str) -> Response:
        """Have the application answer ``request``.

        :param path: what is left of the path; the application finds it by ``request.root_path``.
        :raises ConnectionClosed: the client is gone.
        :raises ForebayError: the answer was cut before it could be begun.
        """
        exchange = request.exchange
        if exchange.upgrade_to and is_websocket(exchange):
            return await self._websocket(request)
        collector = _Collector(request)
        HTTPCall(self._hosting(request, _scope_of(request)), collector.exchange).begin()
        return await collector.response()

    def _hosting(self, request: Request, changes: Scope, told: Gate | None = None) -> ASGIApplication:
        """The host of one request, whose scope has ``changes``."""
        app, exchange = self._host.app, request.exchange

        async def mounted(scope: Scope, receive: Any, send: Any) -> None:
            scope.update(changes)
            try:
                await app(scope, receive, send)
            except ClientDisconnected:
                raise
            except Exception as error:
                if request.app.on_error is not None:
                    request.app.on_error(error, exchange)
                raise

        async def watched(scope: Scope, receive: Any, send: Any) -> None:
            async def telling(message: Any) -> None:
                await send(message)
                if exchange.started and told is not None:
                    told.open()

            try:
                await mounted(scope, receive, telling)
            finally:
                if told is not None:
                    told.open()

        host = copy(self._host)
        host.app = mounted if told is None else watched
        return host

    async def _websocket(self, request: Request) -> Response:
        exchange, told = request.exchange, Gate()
        await sleep(0)  # the framework is about to listen for the client; from then on the application does
        changes = _scope_of(request)
        changes["scheme"] = "wss" if changes["scheme"] == "https" else "ws"
        del changes["extensions"]
        WebSocketCall(self._hosting(request, changes, told), exchange).begin()
        while not (exchange.finished or exchange.status == 101):
            told.close()
            await told.wait()
        return Response.encoded(exchange.status or 500, b"", b"")  # it is sent already, or nobody is left


def _scope_of(request: Request) -> Scope:
    """What a mounted application's scope has of its own."""
    exchange = request.exchange
    root = exchange.root_path
    changes: Scope = {
        "root_path": root + unquote(request.root_path.decode("latin-1")),
        "scheme": request.scheme,
        "extensions": {_HINTS: {}} if exchange.http11 else {},
    }
    if root:
        changes["path"] = root + exchange.path
        changes["raw_path"] = quote(root).encode() + exchange.raw_path
    if request.client != exchange.client:
        changes["client"] = (request.client, 0)  # it is not known by which port it came to the proxy
    return changes


class _Collector:
    """Makes a response of what an application answers. To the exchange it is what a connection is on our server.

    A response of one piece is whole; the first piece with more to come makes it a stream.
    """

    __slots__ = (
        "_cut", "_ended", "_failure", "_full", "_given", "_headers", "_length", "_may_read", "_news", "_pieces",
        "_pump", "_request", "_size", "_status", "_whole", "conn", "exchange", "last", "root_path", "scheme",
        "upgrades_to",
    )  # fmt: skip

    def __init__(self, request: Request) -> None:
        outer = request.exchange
        self.conn = outer.conn
        self.scheme = outer.scheme
        self.root_path = outer.root_path
        self.upgrades_to = b""
        self.last = False
        self._request = request
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._length: int | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._full = False  # the application was asked to wait
        self._given = False  # there is a response
        self._whole = False  # it came in one piece
        self._ended = False
        self._cut: str | None = None
        self._failure: Exception | None = None  # of the content
        self._news = Gate()
        self._may_read = Gate()
        self._pump: Task[None] | None = None
        self.exchange = inner = ASGIExchange(
            cast("HTTPConnection", self), outer.method, outer.target, outer.raw_path, outer.query, outer.fields,
            outer.keep_alive, outer.received_at,
        )  # fmt: skip
        if outer.has_body:
            inner.content = Content(expects=False)

    # -- the response

    async def response(self) -> Response:
        """What the application answers."""
        try:
            while not (self._given or self._cut or self._failure or self.exchange.finished):
                self._news.close()
                await self._news.wait()
            if self._failure is not None:
                raise self._failure
            if self._cut is not None:
                raise ForebayError(f"the answer was cut: {self._cut}")
            if not self._given:
                raise ConnectionClosed("the client is gone")
        except BaseException:
            self.leave()
            raise
        response = Response.encoded(self._status, encode_headers(self._headers), b"")
        if self._whole and self._length in (None, self._size):  # else it is not sent: that of HEAD
            response.body = b"".join(self._pieces)
            self.leave()
            return response
        if self._length is not None:
            response.headers["content-length"] = str(self._length)
        response.stream = self
        stack = AsyncExitStack()
        stack.callback(self.leave)
        self._request.release(stack)  # middleware may throw the response away
        return response

    def __aiter__(self) -> _Collector:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._cut is not None:
                raise ForebayError(f"the answer was cut: {self._cut}")
            if self._ended:
                raise StopAsyncIteration
            if self._failure is not None:
                raise self._failure
            if self.exchange.finished:
                raise ConnectionClosed("the client is gone")
            self._news.close()
            await self._news.wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._full:
            self._full = False
            if not self.exchange.finished:
                self.exchange.writable_again()
        return data

    async def aclose(self) -> None:
        """Take nothing more."""
        self.leave()

    def leave(self) -> None:
        """Nobody takes anything any more."""
        if not self.exchange.finished:
            self.exchange.disconnected(CloseReason.PEER)
        if self._pump is not None:
            self._pump.cancel()

    # -- the content

    async def _read(self) -> None:
        """Give the application the content, as whoever is around it has it."""
        exchange = self.exchange
        try:
            async for piece in self._request.stream():
                await self._may_read.wait()
                if piece:
                    exchange.body_arrived(piece)
            exchange.body_ended(())
        except Exception as error:  # the client is gone, or the content is not to be had
            if not exchange.finished:
                self._failure = error
                exchange.disconnected(CloseReason.PEER)
            self._news.open()

    def pause_body(self) -> None:
        """Read nothing more."""
        self._may_read.close()

    def resume_body(self) -> None:
        """Read on."""
        self._may_read.open()
        if self._pump is None and self._request.exchange.has_body:
            self._pump = start_task(self._read(), "content of a mounted application")

    # -- from the exchange

    def begin(self, exchange: ASGIExchange, status: int, headers: bytes, length: int | None) -> None:
        """The head of the answer.

        :raises KeyError: a status that is none.
        """
        if status not in STATUS_LINES:
            raise KeyError(status)
        self._status = status
        self._headers = [pair for pair in header_pairs(headers) if pair[0] not in _OURS]
        self._length = length
        if not exchange.keep_alive:
            self._request.exchange.keep_alive = False

    def send(self, data: bytes) -> None:
        """A piece of the answer."""
        if data:
            self._pieces.append(data)
            self._size += len(data)

    def flush(self) -> bool:
        """There is more to come."""
        self._given = True
        self._news.open()
        self._full = self._full or self._size > _HIGH
        return not self._full

    def finished(self, exchange: ASGIExchange) -> None:
        """The answer is complete."""
        exchange.finished = True
        self._whole = not self._given
        self._given = self._ended = True
        self._news.open()

    def cut(self, exchange: ASGIExchange, reason: str) -> None:
        """The answer cannot be completed."""
        exchange.finished = True
        self._cut = reason
        self._news.open()

    def hint(self, headers: bytes) -> None:
        """An early hint."""
        self._request.exchange.interim(103, headers)

    def expire(self, exchange: ASGIExchange) -> None:
        """Deadlines are those of the request around it."""
