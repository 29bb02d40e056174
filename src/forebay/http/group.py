"""Groups of routes: what they have in common, and the registration of routes in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from forebay.http.binding.signature import place_of_caller, remember_names
from forebay.http.hosts import parse_host_pattern
from forebay.http.messages import HTTPMiddleware
from forebay.http.route import RouteOptions, check_shared
from forebay.http.websocket_settings import WebSocketSettings

if TYPE_CHECKING:
    from forebay.http.app import App

__all__ = ["Group", "Options", "Registration"]

F = TypeVar("F", bound=Callable[..., Any])

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Z-]+")  # a token (RFC 9110 section 9.1), in capitals


class Options(TypedDict, total=False):
    """See :class:`forebay.http.route.RouteOptions`."""

    name: str
    status: int
    tags: Sequence[str]
    summary: str
    description: str
    middleware: Sequence[HTTPMiddleware]
    timeout: float | None
    responses: Mapping[int, Any]
    deprecated: bool
    hidden: bool


@dataclass(frozen=True, slots=True)
class Registration:
    """A route that was registered, before anything is compiled of it."""

    group: Group
    pattern: str
    methods: tuple[str, ...]
    handler: Callable[..., Any]
    options: RouteOptions
    place: str
    settings: WebSocketSettings | None = None
    kind: str = "http"


class Group:
    """Routes that share the beginning of their path, a host, middleware, tags.

    ::

        users = Group("/users", middleware=[BearerAuth(check)], tags=["users"])

        @users.get("/{id:int}")
        async def get_user(id: int) -> User: ...

        app.include(users)

    :param prefix: put before the patterns of its routes: empty, or ``/...`` without a slash at its end. It may have
        parameters.
    :param middleware: around its routes, inside that of the groups it is in; the first is the outermost.
    :param tags: of its routes, in the documentation.
    :param host: the only one its routes answer for: ``api.example.com``, ``*.example.com``, or with a parameter,
        ``{tenant}.example.com``. None: any, or that of the group it is in.
    :raises ValueError: the prefix or the host is not like that.
    :raises TypeError: a middleware that cannot be called, or ``tags`` that are one str.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        middleware: Sequence[HTTPMiddleware] = (),
        tags: Sequence[str] = (),
        host: str | None = None,
    ) -> None:
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            raise ValueError(f"prefix {prefix!r}: must be empty, or begin with a slash and not end with one")
        check_shared(middleware, tags)
        if host is not None:
            parse_host_pattern(host)
        self.prefix = prefix
        self.tags = tuple(tags)
        self.host = host
        self.parent: Group | None = None
        self.layers: list[HTTPMiddleware] = list(middleware)
        self._pending: list[Registration | Group] = []
        self._included_at = ""

    def __repr__(self) -> str:
        return f"<Group {self.prefix or '/'} middleware={len(self.layers)}>"

    # -- what it is part of

    def root(self) -> App[Any] | None:
        """The application it is part of; None before it is included."""
        return self.parent.root() if self.parent is not None else None

    def above(self) -> Iterator[Group]:
        """The groups it is in, itself first."""
        group: Group | None = self
        while group is not None:
            yield group
            group = group.parent

    def full_prefix(self) -> str:
        """Its prefix behind those of the groups it is in."""
        return "".join(group.prefix for group in reversed(list(self.above())))

    def full_host(self) -> str | None:
        """Its host, or that of the nearest group that has one."""
        return next((group.host for group in self.above() if group.host is not None), None)

    def all_layers(self) -> tuple[HTTPMiddleware, ...]:
        """The middleware around its routes, the outermost first."""
        return tuple(layer for group in reversed(list(self.above())) for layer in group.layers)

    def all_tags(self) -> tuple[str, ...]:
        """The tags of its routes."""
        return tuple(tag for group in reversed(list(self.above())) for tag in group.tags)

    # -- registration

    def route(self, pattern: str, methods: Sequence[str] = ("GET",), **options: Unpack[Options]) -> Callable[[F], F]:
        """Register a handler for ``methods`` of the paths that ``pattern`` matches (:mod:`forebay.http.router`).

        :param options: see :class:`~forebay.http.route.RouteOptions`.
        :raises ValueError: a method or the pattern is not well-formed, or both are taken already; names both places.
        :raises TypeError: the handler's signature does not fit the pattern, or has something nothing provides, or it
            returns what cannot be sent.
        """
        if not methods or isinstance(methods, str):
            raise ValueError(f"route {pattern!r}: methods must be a list of at least one, such as ['GET']")
        upper = tuple(dict.fromkeys(method.upper() for method in methods))
        if wrong := [method for method in upper if not _METHOD.fullmatch(method)]:
            raise ValueError(f"route {pattern!r}: {wrong[0]!r} must be a method, such as GET")
        _check_pattern(pattern)
        checked = RouteOptions(**options)
        place = place_of_caller()

        def register(handler: F) -> F:
            self._register(Registration(self, pattern, upper, handler, checked, place))
            return handler

        return register

    def get(self, pattern: str, **options: Unpack[Options]) -> Callable[[F], F]:
        """Register a handler for GET, and thereby for HEAD."""
        return self.route(pattern, ("GET",), **options)

    def post(self, pattern: str, **options: Unpack[Options]) -> Callable[[F], F]:
        """Register a handler for POST."""
        return self.route(pattern, ("POST",), **options)

    def put(self, pattern: str, **options: Unpack[Options]) -> Callable[[F], F]:
        """Register a handler for PUT."""
        return self.route(pattern, ("PUT",), **options)

    def patch(self, pattern: str, **options: Unpack[Options]) -> Callable[[F], F]:
        """Register a handler for PATCH."""
        return self.route(pattern, ("PATCH",), **options)

    def delete(self, pattern: str, **options: Unpack[Options]) -> Callable[[F], F]:
        """Register a handler for DELETE."""
        return self.route(pattern, ("DELETE",), **options)

    def head(self, pattern: str, **options: Unpack[Options]) -> Callable[[F], F]:
        """Register a handler for HEAD, instead of the one for GET."""
        return self.route(pattern, ("HEAD",), **options)

    def options(self, pattern: str, **options: Unpack[Options]) -> Callable[[F], F]:
        """Register a handler for OPTIONS, instead of the automatic answer."""
        return self.route(pattern, ("OPTIONS",), **options)

    def websocket(
        self, pattern: str, settings: WebSocketSettings | None = None, **options: Unpack[Options]
    ) -> Callable[[F], F]:
        """Register a handler for WebSockets: ``async def handler(ws, ...)``.

        The WebSocket is the parameter annotated ``WebSocket``, or else the first one. The others are bound like those
        of HTTP handlers, from the request of the handshake, which has no content; one that does not fit, or an
        ``HTTPError`` of a dependency, answers it, and no WebSocket is opened. Dependencies are closed when it has
        ended.

        Its return closes the WebSocket, with 1000; what it raises is logged, and closes it with 1011. Middleware sees
        the handshake as a GET request: answered with 101, or with what middleware answers instead.

        :param settings: what such a WebSocket may do, from which pages, and how long it waits.
        :raises ValueError: as for :meth:`route`.
        :raises TypeError: as for :meth:`route`, or the handler is no coroutine function.
        """
        _check_pattern(pattern)
        checked = RouteOptions(**options)
        place = place_of_caller()

        def register(handler: F) -> F:
            kind = "websocket"
            made = settings or WebSocketSettings()
            self._register(Registration(self, pattern, ("GET",), handler, checked, place, made, kind))
            return handler

        return register

    def middleware(self, layer: HTTPMiddleware) -> HTTPMiddleware:
        """Register a middleware, ``async def layer(request, call_next)``, inside those there are.

        :raises TypeError: it cannot be called, or is a class.
        """
        self._check_open()
        check_shared((layer,), ())
        self.layers.append(layer)
        return layer

    def group(
        self,
        prefix: str = "",
        *,
        middleware: Sequence[HTTPMiddleware] = (),
        tags: Sequence[str] = (),
        host: str | None = None,
    ) -> Group:
        """A group inside this one."""
        group = Group(prefix, middleware=middleware, tags=tags, host=host)
        self.include(group)
        return group

    def include(self, group: Group) -> None:
        """Take in a group that was made elsewhere, with all that is registered in it, now or later.

        :raises ValueError: it is part of a group already, or as for :meth:`route`.
        """
        self._check_open()
        self._include(group, place_of_caller())

    def _include(self, group: Group, place: str) -> None:
        if group.root() is group:
            raise ValueError(f"{group!r} is an application: mount(prefix, app) takes it, at {place}")
        if group.parent is not None or group.root() is not None or group in self.above():
            at = f", at {group._included_at}" if group._included_at else ""
            raise ValueError(
                f"{group!r} is part of an application or group already{at}; it was to be included at {place}"
            )
        group.parent = self
        group._included_at = place
        pending, group._pending = group._pending, []
        if self.root() is None:
            self._pending.append(group)
            group._pending = pending
            return
        for one in pending:
            if isinstance(one, Registration):
                group._register(one)
            else:
                one.parent = None
                group._include(one, one._included_at)

    def mount(self, prefix: str, target: Any, *, name: str | None = None) -> None:
        """Give all paths below ``prefix``, and ``prefix`` itself, to ``target``; but not those that go on with an empty
        segment, ``//``. ``/`` is the prefix of all that no other route takes.

        :param target: another ``App``, whose routes, middleware and lifespan become part of this one, and whose
            handlers keep its ``state``; something :class:`~forebay.http.mounting.Mountable`, such as ``StaticFiles``;
            or any ASGI application, which sees ``root_path``.
        :raises ValueError: as for :meth:`route`.
        :raises TypeError: ``target`` is none of these.
        """
        self._check_open()
        if not prefix.startswith("/") or (prefix.endswith("/") and prefix != "/"):
            raise ValueError(f"mount {prefix!r}: must begin with a slash and, but for '/', not end with one")
        options = RouteOptions(name=name, hidden=True)
        self._register(Registration(self, prefix, ("*",), target, options, place_of_caller(), kind="mount"))

    def _register(self, registration: Registration) -> None:
        root = self.root()
        if root is None:
            if registration.kind != "mount":
                remember_names(registration.handler)
            self._pending.append(registration)
        else:
            root.add_route(registration)

    def _check_open(self) -> None:
        root = self.root()
        if root is not None:
            root.check_open()


def _check_pattern(pattern: str) -> None:
    """What can be said of a pattern before it is known where the group is."""
    if not isinstance(pattern, str):
        raise TypeError(f"{pattern!r} is no pattern of a route: that comes first, as in @app.get('/users')")
    if pattern and not pattern.startswith("/"):
        raise ValueError(f"route {pattern!r} must begin with a slash")
