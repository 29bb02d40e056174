"""The web framework: what an application is made of, its life, and the way of a request through it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from contextvars import Context, copy_context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Generic, Literal, cast

import structlog

from forebay.engine.eager import EagerTasks
from forebay.engine.loop import Cancelled, Ticker, ticker
from forebay.engine.tasks import Gate, Tasks
from forebay.errors import ExecutorStopped, ProtocolError
from forebay.http.background import BackgroundWork
from forebay.http.call import Call, Releases
from forebay.http.calling import chain_of, endpoint_of, resolve_and_call
from forebay.http.cancelled import CancelledHandlers
from forebay.http.compile import compile_route
from forebay.http.converters import Converter
from forebay.http.deadlines import begin_deadline
from forebay.http.exchange import Exchange
from forebay.http.files import FileCache, FileResponse
from forebay.http.group import Group, Registration
from forebay.http.life import Life
from forebay.http.messages import HTTPMiddleware, Request, Response
from forebay.http.missing import MissingRoutes
from forebay.http.problems import is_expected, problem, problem_of
from forebay.http.request_hook import Hooks
from forebay.http.results import Answer, negotiated
from forebay.http.route import Route
from forebay.http.route_table import build_path
from forebay.http.router import Router
from forebay.http.threads import BlockingCalls

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from forebay.http.openapi import OpenAPI

    S = TypeVar("S", default=Any)
else:
    from typing import TypeVar

    S = TypeVar("S")

__all__ = ["App", "Route"]

log = structlog.get_logger("forebay.http")

Lifespan = Callable[["App[S]"], AbstractAsyncContextManager[None]]
ErrorHook = Callable[[BaseException, Exchange], None]


class App(Group, Generic[S]):
    """An HTTP application.

    :param name: for logs and metrics.
    :param state: the application's own, in ``app.state``; a parameter annotated with its class is given it. Default: an
        empty namespace.
    :param lifespan: ``lifespan(app)`` gives an async context manager, entered before the first request and left after
        the last one.
    :param middleware: around every request; the first is the outermost.
    :param body_limit: bytes of a request's content that are accepted, 413 beyond it; None: any number. Default 16 MiB.
    :param slashes: ``strict``: ``/users`` and ``/users/`` are two paths. ``redirect``: a path that no route takes is
        answered with 308 to the other one, where a route takes that.
    :param converters: of path parameters, besides the built-in ones.
    :param threads: how many functions marked ``blocking`` run at once, at least 1.
    :param threads_queue: how many more of them wait; past that a request is 503.
    :param openapi: serve the OpenAPI document of its routes, and a page to read it and to try them. Default: neither.

    Handlers are bound by their signature (:mod:`forebay.http.binding`). Plain functions run on the loop, so they must
    not block, unless they are marked ``blocking``; coroutine functions are cancelled when the client leaves. What a
    handler returns becomes the answer (:mod:`forebay.http.results`); what it raises becomes
    ``application/problem+json``.

    Middleware of the application sees every request, those no route takes as well, and every answer that was meant: an
    ``HTTPError`` has become a response by then. Any other exception passes through it, and ends as a 500.

    HEAD is answered by GET routes, OPTIONS by itself, with ``Allow``.

    ``overrides`` puts other functions in the place of dependencies, for tests; it is read when the application starts.
    It may be started again after it was shut down.
    """

    def __init__(
        self,
        name: str = "app",
        *,
        state: S | None = None,
        lifespan: Lifespan[S] | None = None,
        middleware: Sequence[HTTPMiddleware] = (),
        body_limit: int | None = 16 * 1024 * 1024,
        slashes: Literal["strict", "redirect"] = "strict",
        converters: Mapping[str, Converter] | None = None,
        threads: int = 32,
        threads_queue: int = 1000,
        openapi: OpenAPI | None = None,
    ) -> None:
        super().__init__("", middleware=middleware)
        if slashes not in ("strict", "redirect"):
            raise ValueError(f"App: slashes {slashes!r}: must be 'strict' or 'redirect'")
        self.name = name
        self.body_limit = body_limit
        self.state: S = cast("S", SimpleNamespace() if state is None else state)
        self.slashes = slashes
        self.overrides: dict[Callable[..., Any], Callable[..., Any]] = {}
        self.scoped: dict[Callable[..., Any], Any] = {}
        self.on_error: ErrorHook | None = None
        self.cancelled = CancelledHandlers(name)
        self.eager = EagerTasks()
        self.releases = Releases()
        self.files = FileCache()
        self.background = BackgroundWork(name)
        self._lifespan = lifespan
        self._stack: AsyncExitStack | None = None
        self._home: Ticker | None = None  # of the loop that serves it
        self._servers = 0
        self._ready = Gate()
        self._router: Router[Route] = Router(converters)
        self._routes: list[Route] = []
        self._names: dict[str, list[Route]] = {}
        self._mounts: list[Any] = []
        self._threads = BlockingCalls(f"{name}-blocking", threads, threads_queue)
        self._frozen = False
        self._compiled_with: dict[Callable[..., Any], Callable[..., Any]] = {}
        self.socket_tasks = Tasks()
        self._missing = MissingRoutes(self)
        self.no_route = self._missing.make(self)
        self.openapi = openapi
        if openapi is not None:
            from forebay.http.openapi import install

            install(self, openapi)

    def __repr__(self) -> str:
        return f"<App {self.name} routes={len(self._routes)} middleware={len(self.layers)}>"

    # -- registration

    def root(self) -> App[Any]:
        """Itself: an application is part of no group."""
        return self

    @property
    def state_class(self) -> type | None:
        """The class of ``state``; None for the default, which is nobody's own."""
        kind = type(self.state)
        return None if kind in (SimpleNamespace, dict) else kind

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes, in the order in which they were registered."""
        return tuple(self._routes)

    @property
    def router(self) -> Router[Route]:
        """What finds the route of a request."""
        return self._router

    def add_route(self, registration: Registration) -> None:
        """Compile what was registered in a group of this application. Called by groups."""
        self.check_open()
        prefix = registration.group.full_prefix()
        pattern = prefix + registration.pattern if registration.pattern not in ("", "/") or not prefix else prefix
        if registration.kind == "mount":
            pattern = pattern.removesuffix("/")
        elif registration.pattern == "/" and prefix:
            pattern = prefix + "/"
        route = Route(
            self,
            registration.group,
            pattern,
            registration.methods,
            registration.handler,
            registration.options,
            host=registration.group.full_host(),
            place=registration.place,
            kind=registration.kind,
        )
        route.settings = registration.settings
        compile_route(route, self._router.converters)
        explicit = registration.options.name
        if explicit is not None:
            for other in self._names.get(explicit, ()):
                if other.options.name is not None:
                    raise ValueError(f"name {explicit!r} of {route.where} is taken already, by {other.where}")
        paths = [pattern]
        if route.kind == "mount":
            paths = [*([pattern] if pattern else []), f"{pattern}/", f"{pattern}/{{mounted:path}}"]
        for path in paths:
            for method in route.methods:
                taken = self._router.add(method, path, route, route.host)
                if taken is not None:
                    by = f"{taken.pattern} of {taken.where}"
                    raise ValueError(f"{method} {path} of {route.where} is taken already, by {by}")
        self._names.setdefault(route.name, []).append(route)
        self._routes.append(route)
        if route.kind == "mount" and hasattr(route.handler, "startup") and route.handler not in self._mounts:
            self._mounts.append(route.handler)

    def mounted_apps(self) -> Iterator[App[Any]]:
        """The applications that are mounted in this one, and in those."""
        for one in self._mounts:
            if isinstance(one, App):
                yield one
                yield from one.mounted_apps()

    def url_for(self, name: str, /, **params: Any) -> str:
        """The path of the route called ``name``, by its option or its handler's own name, percent-encoded.

        :param params: its path parameters, as the converters give them.
        :raises ValueError: there is no such route, more than one, or a parameter is missing, unknown or does not fit.
        """
        found = self._names.get(name, [])
        named = [route for route in found if route.options.name == name] or found
        if not named:
            raise ValueError(f"no route is called {name!r}; there are {', '.join(sorted(self._names)) or 'none'}")
        if len({route.pattern for route in named}) > 1:
            raise ValueError(
                f"{name!r} is the name of {len(named)} routes: {', '.join(map(repr, named))}; give them names"
            )
        return build_path(named[0].pattern, params, self._router.converters)

    def check_open(self) -> None:
        """:raises RuntimeError: it is too late to register anything."""
        if self._frozen:
            raise RuntimeError(f"{self!r} serves already: routes and middleware are registered before")

    def freeze(self) -> None:
        """Compile what depends on all that was registered. Called before the first request."""
        if self._frozen:
            return
        if self.overrides != self._compiled_with:
            overrides, self._compiled_with = dict(self.overrides), {}
            for route in self._routes:
                compile_route(route, self._router.converters)
            self._compiled_with = overrides
        self._frozen = True
        self._missing.forget()
        for route in (*self._routes, self.no_route):
            self.finish(route)

    def finish(self, route: Route) -> Route:
        """With its middleware around it."""
        route.layers = (*route.group.all_layers(), *route.options.middleware)
        hooks = Hooks(route.layers)
        layers = route.layers[len(hooks.hooks) :]
        route.hooks = hooks if hooks.hooks else None
        endpoint = endpoint_of(self, route)
        route.chain = chain_of(layers, endpoint) if layers else None
        route.whole = chain_of(route.layers, endpoint)
        route.by_request = route.is_blocking or route.binding.holds or route.answer is not None
        binding = route.binding
        direct = not (route.chain or route.by_request)
        route.direct = direct and route.is_async and not (binding.wants_body or binding.wants_request)
        route.plain = direct and not (route.is_async or binding.waits)
        return route

    # -- life

    async def startup(self) -> None:
        """Enter the lifespan. Called by each server before it listens; for all but the first there is nothing to do.

        :raises RuntimeError: the start by another server, at the same time, has failed.
        """
        if self._home is ticker():  # a loop that was given up does not count
            self._servers += 1
            await self._ready.wait()
            if self._stack is None:
                raise RuntimeError(f"{self!r} could not be started")
            return
        self._home, self._servers, self._ready = ticker(), 1, Gate()
        self.eager = EagerTasks()
        async with AsyncExitStack() as stack:
            stack.callback(self._thaw)  # when it fails
            self.freeze()
            await self.background.start()
            stack.push_async_callback(self.background.stop)
            await self._threads.start()
            stack.push_async_callback(self._threads.stop)
            life = Life(self, self._lifespan)
            await life.begin()
            stack.push_async_callback(life.end)
            for mounted in self._mounts:
                await mounted.startup()
                stack.push_async_callback(mounted.shutdown)
            self._stack = stack.pop_all()
            self._ready.open()

    def _thaw(self) -> None:
        self._frozen = False
        self._home = None
        self.scoped = {}
        self._ready.open()

    async def drain(self) -> None:
        """Finish the work that was left for after responses. Called by the server when all are sent."""
        if self._servers <= 1:
            await self.background.drain()

    async def shutdown(self) -> None:
        """Wait for handlers that were cancelled, then leave the lifespan. Called by the server when it stops; all is
        done by the last one."""
        self._servers -= 1
        if self._servers > 0:
            return
        await self.socket_tasks.cancel()
        await self.cancelled.join()
        await self.releases.join(self.name)
        await self.eager.close()
        self.files.close()
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """The application as an ASGI 3 application, for other servers."""
        from forebay.http.asgi_app import serve_asgi

        await serve_asgi(self, scope, receive, send)

    def openapi_document(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document of its routes.

        :raises RuntimeError: it has no ``openapi`` settings, which name the application and its version.
        """
        if self.openapi is None:
            raise RuntimeError(f"{self!r} has no OpenAPI settings: App(openapi=OpenAPI(title=..., version=...))")
        from forebay.http.openapi import build_document

        return build_document(self, self.openapi)

    async def run_blocking(self, function: Callable[..., Any], /, **arguments: Any) -> Any:
        """Call ``function`` in one of the application's threads.

        :raises Overloaded: too many of them wait already.
        """
        return await self._threads.run(function, arguments)

    # -- a request

    def on_request(self, exchange: Exchange) -> None:
        """Answer one request. Called by the server."""
        context = copy_context()  # its own: the next request of the connection must not see what this one sets
        context.run(self._on_request, exchange, context)

    def _on_request(self, exchange: Exchange, context: Context) -> None:
        if not self._frozen:
            self.freeze()
        try:
            router = self._router
            host = exchange.fields.host if router.by_host else b""
            found = router.find(exchange.method, exchange.raw_path, host)
            if found is None:
                route, path = self._missing.route_for(exchange, exchange.raw_path), None
            else:
                route, path = found
        except ProtocolError as error:
            exchange.respond(*problem_of(error))
            return
        if exchange.fields.timeout or route.timeout is not None:
            begin_deadline(exchange, route.timeout)
        binding = route.binding
        request: Request | None = None
        answer: Answer | Response | None = None
        try:
            if route.hooks is not None:
                request = Request(exchange, path or {}, route.pattern, None, self)
                answer = route.hooks.run(request)
            if answer is None:
                if not (route.plain or route.direct) or (binding.wants_body and not exchange.body_complete):
                    Call(self, route, exchange, path, request).begin()
                    return
                if binding.wants_request and request is None:
                    request = Request(exchange, path or {}, route.pattern, None, self)
                if binding.waits:
                    result: Any = resolve_and_call(self, route, exchange, path)
                elif binding.trivial:
                    result = route.handler(**path) if path is not None else route.handler()
                else:
                    body = exchange.take_body() if binding.wants_body else b""
                    result = route.handler(**binding.bind(exchange, path, body, request, self))
                if route.direct:
                    done, result = self.eager.step(result, context)
                    if not done:
                        Call(self, route, exchange, path, request, result).begin()
                        return
                answer = route.encode(result)
                if exchange.fields.msgpack:
                    answer = negotiated(exchange, result, answer)
        except Exception as error:
            answer = self.answer_of(error, exchange, route)
        except Cancelled:  # its own: nobody else could have cancelled it yet
            log.warning("handler was cancelled", app=self.name, method=exchange.method, route=route.pattern)
            answer = problem(503)
        if isinstance(answer, Response):
            if answer.stream is not None or (request is not None and request.after_response):
                Call(self, route, exchange, path, request).begin(answer)
                return
            if isinstance(answer, FileResponse):
                self.send_file(answer, exchange, route)
                return
            answer = self.encode_response(answer, exchange, route)
        exchange.respond(*answer)
        if request is not None and request.after_response:
            self.work_after(request)

    def answer_of(self, error: Exception, exchange: Exchange, route: Route) -> tuple[int, bytes, bytes]:
        """The answer ``error`` leaves as; logged when an operator must know of it."""
        if not is_expected(error):
            self.report(error, exchange, route)
        try:
            return problem_of(error)
        except ValueError as unfit:  # its own words or headers cannot be sent
            log.error("error cannot be sent", app=self.name, route=route.pattern, exc_info=unfit)
            return problem(500)

    def report(self, error: BaseException, exchange: Exchange, route: Route) -> None:
        """A handler has failed."""
        if self.on_error is not None:
            self.on_error(error, exchange)
        log.error("handler failed", app=self.name, method=exchange.method, route=route.pattern, exc_info=error)

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

    def work_after(self, request: Request) -> None:
        """Begin the work that was left for after the response."""
        work, request.after_response = request.after_response, None
        for submit in work or ():
            with suppress(ExecutorStopped):  # it was logged, and counted
                submit()

    async def respond_mounted(self, request: Request, raw_path: bytes) -> Response:
        """Answer a request as a part of another application. ``raw_path`` is what is left behind the mount's prefix."""
        request.enter(self)
        method, host = request.method, request.exchange.host
        found = self._router.find(method, raw_path, host)
        route, path = found if found is not None else (self._missing.route_for(request.exchange, raw_path), None)
        for name, value in request.path_params.items():
            if name != "mounted":  # what is left of the path
                request.mount_params = {**request.mount_params, name: value}
        request.path_params = path if path is not None else {}
        request.route = request.route.removesuffix("/") + route.pattern
        if route.timeout is not None:
            begin_deadline(request.exchange, route.timeout)
        return await route.whole(request)
