"""The web framework: routes, handlers, middleware, and the way of a request through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import SimpleNamespace
from typing import Any, TypeVar

import structlog

from forebay.chain import Handler, Middleware, compile_chain
from forebay.engine.tasks import Tasks
from forebay.errors import HTTPError, ProtocolError
from forebay.http.binding import Binding, compile_binding, is_coroutine_function, place_of
from forebay.http.call import Call
from forebay.http.cancelled import CancelledHandlers
from forebay.http.exchange import Exchange
from forebay.http.files import FileCache, FileResponse
from forebay.http.messages import Request, Response
from forebay.http.problems import is_expected, problem, problem_of
from forebay.http.results import Encoder, encoder_for
from forebay.http.router import Router, parameters
from forebay.http.websocket_route import check_websocket_handler, websocket_endpoint
from forebay.http.websocket_settings import WebSocketSettings

__all__ = ["App", "Route"]

log = structlog.get_logger("forebay.http")

F = TypeVar("F", bound=Callable[..., Any])
HTTPMiddleware = Middleware[Request, Response]
Lifespan = Callable[["App"], AbstractAsyncContextManager[None]]


class Route:
    """A pattern, its handler, and what was compiled of both. ``chain`` is None without middleware."""

    __slots__ = ("binding", "chain", "encode", "handler", "is_async", "pattern", "place")

    def __init__(self, pattern: str, handler: Callable[..., Any], binding: Binding, encode: Encoder) -> None:
        self.pattern = pattern
        self.handler = handler
        self.is_async = is_coroutine_function(handler)
        self.binding = binding
        self.encode = encode
        self.chain: Handler[Request, Response] | None = None
        self.place = place_of(handler)

    def __repr__(self) -> str:
        return f"<Route {self.pattern} {self.place}>"


class App:
    """An HTTP application.

    :param name: for logs and metrics.
    :param body_limit: bytes of a request's content that are accepted, 413 beyond it; None: any number. Default 16 MiB.
    :param lifespan: ``lifespan(app)`` gives an async context manager, entered before the first request and left after
        the last one.

    Handlers are bound by their signature (:mod:`forebay.http.binding`). Plain functions run on the loop, so they must
    not block; coroutine functions get a Task each, which is cancelled when the client leaves. What a handler returns
    becomes the answer (:mod:`forebay.http.results`); what it raises becomes ``application/problem+json``.

    Middleware sees every request, those no route takes as well, and every answer that was meant: an ``HTTPError`` has
    become a response by then. Any other exception passes through it, and ends as a 500. The first one registered is the
    outermost. ``state`` is free for the application's own use.

    HEAD is answered by GET routes, OPTIONS by itself, with ``Allow``.
    """

    def __init__(
        self, name: str = "app", *, body_limit: int | None = 16 * 1024 * 1024, lifespan: Lifespan | None = None
    ) -> None:
        self.name = name
        self.body_limit = body_limit
        self.state = SimpleNamespace()
        self._lifespan = lifespan
        self._stack: AsyncExitStack | None = None
        self._router: Router[Route] = Router()
        self._routes: list[Route] = []
        self._middleware: list[HTTPMiddleware] = []
        self._frozen = False
        self.cancelled = CancelledHandlers(name)
        self._tasks = Tasks()  # of WebSockets
        self.files = FileCache()
        missing, _ = compile_binding(self._missing, "", {})
        self._no_route = Route("", self._missing, missing, encoder_for(Response))

    def __repr__(self) -> str:
        return f"<App {self.name} routes={len(self._routes)} middleware={len(self._middleware)}>"

    # -- registration

    def route(self, pattern: str, methods: Sequence[str] = ("GET",)) -> Callable[[F], F]:
        """Register a handler for ``methods`` of the paths that ``pattern`` matches (:mod:`forebay.http.router`).

        :raises ValueError: the pattern is not well-formed, or is taken already; names both places.
        :raises TypeError: the handler's signature does not fit the pattern, or has something nothing provides.
        """

        def register(handler: F) -> F:
            self._check_open()
            binding, result = compile_binding(handler, pattern, parameters(pattern))
            route = Route(pattern, handler, binding, encoder_for(result))
            for method in methods:
                self._add(method.upper(), route)
            self._routes.append(route)
            return handler

        return register

    def _add(self, method: str, route: Route) -> None:
        taken = self._router.add(method, route.pattern, route)
        if taken is not None:
            place = f"{taken.pattern} at {taken.place}"
            raise ValueError(f"{method} {route.pattern} at {route.place} is taken already, by {place}")

    def get(self, pattern: str) -> Callable[[F], F]:
        """Register a handler for GET, and thereby for HEAD."""
        return self.route(pattern, ("GET",))

    def post(self, pattern: str) -> Callable[[F], F]:
        """Register a handler for POST."""
        return self.route(pattern, ("POST",))

    def put(self, pattern: str) -> Callable[[F], F]:
        """Register a handler for PUT."""
        return self.route(pattern, ("PUT",))

    def patch(self, pattern: str) -> Callable[[F], F]:
        """Register a handler for PATCH."""
        return self.route(pattern, ("PATCH",))

    def delete(self, pattern: str) -> Callable[[F], F]:
        """Register a handler for DELETE."""
        return self.route(pattern, ("DELETE",))

    def head(self, pattern: str) -> Callable[[F], F]:
        """Register a handler for HEAD, instead of the one for GET."""
        return self.route(pattern, ("HEAD",))

    def options(self, pattern: str) -> Callable[[F], F]:
        """Register a handler for OPTIONS, instead of the automatic answer."""
        return self.route(pattern, ("OPTIONS",))

    def websocket(self, pattern: str, settings: WebSocketSettings | None = None) -> Callable[[F], F]:
        """Register a handler for WebSockets: ``async def handler(ws, ...)``, with the pattern's parameters by name.

        Its return closes the WebSocket, with 1000; what it raises is logged, and closes it with 1011. Middleware sees
        the handshake as a GET request: answered with 101, or with what middleware answers instead.

        :param settings: what such a WebSocket may do, from which pages, and how long it waits.
        :raises ValueError: as for :meth:`route`.
        :raises TypeError: the handler is no coroutine function, or does not take the pattern's parameters.
        """

        def register(handler: F) -> F:
            self._check_open()
            route = Route(pattern, handler, self._no_route.binding, encoder_for(Response))
            check_websocket_handler(handler, pattern, parameters(pattern), route.place)
            route.handler = websocket_endpoint(handler, settings or WebSocketSettings(), self._tasks)
            route.is_async = True
            self._add("GET", route)
            self._routes.append(route)
            return handler

        return register

    def middleware(self, layer: HTTPMiddleware) -> HTTPMiddleware:
        """Register a middleware: ``async def layer(request, call_next)``."""
        self._check_open()
        self._middleware.append(layer)
        return layer

    def _check_open(self) -> None:
        if self._frozen:
            raise RuntimeError(f"{self!r} serves already: routes and middleware are registered before")

    def _freeze(self) -> None:
        self._frozen = True
        if self._middleware:
            for route in (*self._routes, self._no_route):
                route.chain = compile_chain(self._middleware, self._endpoint(route))

    # -- life

    async def startup(self) -> None:
        """Enter the lifespan. Called by the server before it listens."""
        self._freeze()
        if self._lifespan is not None:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._lifespan(self))
                self._stack = stack.pop_all()

    async def shutdown(self) -> None:
        """Wait for handlers that were cancelled, then leave the lifespan. Called by the server when it stops."""
        await self._tasks.cancel()
        await self.cancelled.join()
        self.files.close()
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    # -- a request

    def on_request(self, exchange: Exchange) -> None:
        """Answer one request. Called by the server."""
        if not self._frozen:
            self._freeze()
        try:
            found = self._router.find(exchange.method, exchange.raw_path)
        except ProtocolError as error:
            exchange.respond(*problem_of(error))
            return
        route, path_params = found if found is not None else (self._no_route, None)
        binding = route.binding
        if route.is_async or route.chain is not None or (binding.wants_body and not exchange.body_complete):
            Call(self, route, exchange, path_params).begin()
            return
        request = Request(exchange, path_params, route=route.pattern) if binding.wants_request else None
        try:
            if binding.trivial and path_params is None:
                answer = route.encode(route.handler())
            else:
                body = exchange.take_body() if binding.wants_body else b""
                answer = route.encode(route.handler(**binding.bind(exchange, path_params, body, request)))
        except Exception as error:
            answer = self.answer_of(error, exchange, route)
        if isinstance(answer, Response):
            if answer.stream is not None:
                Call(self, route, exchange, path_params).begin(answer)
                return
            if isinstance(answer, FileResponse):
                self.send_file(answer, exchange, route)
                return
            answer = self.encode_response(answer, exchange, route)
        exchange.respond(*answer)

    def answer_of(self, error: Exception, exchange: Exchange, route: Route) -> tuple[int, bytes, bytes]:
        """The answer ``error`` leaves as; logged when an operator must know of it."""
        if not is_expected(error):
            log.error("handler failed", app=self.name, method=exchange.method, route=route.pattern, exc_info=error)
        try:
            return problem_of(error)
        except ValueError as unfit:  # its own words or headers cannot be sent
            log.error("error cannot be sent", app=self.name, route=route.pattern, exc_info=unfit)
            return problem(500)

    def encode_response(self, response: Response, exchange: Exchange, route: Route) -> tuple[int, bytes, bytes]:
        """A response as it is sent; one that cannot be sent, because of its headers, is a 500."""
        try:
            return response.status, response.headers.encode(), response.body
        except ValueError as error:
            return self.answer_of(error, exchange, route)

    def send_file(self, response: FileResponse, exchange: Exchange, route: Route) -> None:
        """Answer with a file; one that cannot be sent is the error that says why."""
        try:
            response.answer(exchange, self.files)
        except Exception as error:
            if exchange.started:
                raise
            exchange.respond(*self.answer_of(error, exchange, route))

    def _missing(self, request: Request) -> Response:
        """What no route takes: 404, 405, or the automatic OPTIONS."""
        if request.raw_path == b"*":
            return Response(status=204)
        allowed = ", ".join(self._router.allowed(request.raw_path))
        if not allowed:
            raise HTTPError(404, "there is nothing at this path")
        if request.method == "OPTIONS":
            return Response(status=204, headers={"allow": allowed})
        raise HTTPError(405, f"{request.method} is not one of {allowed}", headers=[("allow", allowed)])

    def _endpoint(self, route: Route) -> Handler[Request, Response]:
        """The handler as the middleware around it calls it: from request to response."""
        binding = route.binding

        async def endpoint(request: Request) -> Response:
            try:
                body = await request.body() if binding.wants_body else b""
                result = route.handler(**binding.bind(request.exchange, request.path_params, body, request))
                answer = route.encode(await result if route.is_async else result)
            except Exception as error:
                if not is_expected(error):
                    raise
                answer = problem_of(error)
            return answer if isinstance(answer, Response) else Response.encoded(*answer)

        return endpoint
