"""A route: a pattern, its handler, and what was compiled of both."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forebay.chain import Handler
from forebay.http.binding import Binding, place_of
from forebay.http.binding.signature import name_of
from forebay.http.messages import HTTPMiddleware, Request, Response
from forebay.http.request_hook import Hooks
from forebay.http.results import Encoder

if TYPE_CHECKING:
    from forebay.http.app import App
    from forebay.http.binding import Signature
    from forebay.http.group import Group
    from forebay.http.websocket_settings import WebSocketSettings

__all__ = ["Route", "RouteOptions", "check_shared"]


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """What a route may be given besides its pattern and its handler.

    :param name: for ``url_for``; default: the handler's own.
    :param status: of the answer when the handler returns a plain value; default 200, and 204 for None.
    :param tags: for the documentation, besides those of its groups.
    :param summary: one line for the documentation; default: the first line of the handler's docstring.
    :param description: default: the rest of the docstring.
    :param middleware: around this route only, inside that of its groups.
    :param timeout: seconds for the answer to begin and end in, 504 past it; None: no limit.
    :param responses: other answers, for the documentation: a status to a description, or to a type that is their
        content.
    :param deprecated: shown in the documentation.
    :param hidden: left out of the documentation.
    :raises ValueError: a number that cannot be.
    :raises TypeError: a middleware that cannot be called, or ``tags`` that are one str.
    """

    name: str | None = None
    status: int | None = None
    tags: Sequence[str] = ()
    summary: str | None = None
    description: str | None = None
    middleware: Sequence[HTTPMiddleware] = ()
    timeout: float | None = None
    responses: Mapping[int, Any] = field(default_factory=dict)
    deprecated: bool = False
    hidden: bool = False

    def __post_init__(self) -> None:
        if self.timeout is not None and not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise ValueError(f"timeout {self.timeout}: must be seconds above 0, or None")
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError(f"status {self.status}: must be 200 to 599")
        check_shared(self.middleware, self.tags)


def check_shared(middleware: Sequence[HTTPMiddleware], tags: Sequence[str]) -> None:
    """Check what both routes and groups are given.

    :raises TypeError: a middleware is a class or cannot be called, or ``tags`` is one str.
    """
    for layer in middleware:
        if isinstance(layer, type):
            name = layer.__name__
            raise TypeError(f"middleware {name} is a class: an instance of it is wanted, as in {name}(...)")
        if not callable(layer):
            raise TypeError(f"middleware {layer!r} must be callable, as async def layer(request, call_next) is")
    if isinstance(tags, str):
        raise TypeError(f"tags {tags!r}: must be a list, such as [{tags!r}]")


class Route:
    """One handler, at one pattern. ``layers`` is the middleware around it, the outermost first: ``hooks``, and behind
    them ``chain``, or None where there are only hooks; ``whole`` is all of it, for requests that have come through
    other middleware already. ``app`` is the application whose it is, which for a mounted one is not the one that
    serves."""

    __slots__ = (
        "answer", "app", "binding", "by_request", "chain", "direct", "encode", "group", "handler", "hooks", "host",
        "is_async", "is_blocking", "kind", "layers", "methods", "options", "pattern", "place", "plain", "settings",
        "signature", "socket_name", "timeout", "uses_threads", "whole",
    )  # fmt: skip

    def __init__(
        self,
        app: App[Any],
        group: Group,
        pattern: str,
        methods: Sequence[str],
        handler: Callable[..., Any],
        options: RouteOptions,
        *,
        host: str | None,
        place: str,
        kind: str = "http",
    ) -> None:
        self.app = app
        self.group = group
        self.pattern = pattern
        self.methods = tuple(methods)
        self.handler = handler
        """For a mount, what is mounted."""
        self.answer: Callable[[Route, Request], Awaitable[Response]] | None = None
        """What answers instead of a call of the handler, of a WebSocket and of a mount."""
        self.options = options
        self.host = host
        self.place = place
        self.kind = kind
        """``http``, ``websocket`` or ``mount``."""
        self.timeout = options.timeout
        self.layers: tuple[HTTPMiddleware, ...] = ()
        self.hooks: Hooks | None = None
        self.chain: Handler[Request, Response] | None = None
        self.whole: Handler[Request, Response]
        self.is_async = False
        self.is_blocking = False
        self.by_request = False
        """Its arguments cannot be had from the exchange alone, without waiting."""
        self.direct = False
        """Its handler is a coroutine function that needs no more than the head: it, or what it depends on, is begun
        where that arrives."""
        self.plain = False
        """It can be answered where its request arrives, without a Task, but for content that is still to come."""
        self.uses_threads = False
        self.settings: WebSocketSettings | None = None
        """Of a WebSocket's route."""
        self.socket_name = ""
        """The parameter of a WebSocket's handler that is the WebSocket."""
        self.signature: Signature | None = None
        self.binding: Binding
        self.encode: Encoder

    def __repr__(self) -> str:
        return f"<Route {' '.join((*self.methods, self.pattern))} {self.place}>"

    @property
    def where(self) -> str:
        """The handler, where it stands, and where it was registered."""
        if self.kind == "mount":
            return f"{name_of(self.handler)} (registered at {self.place})"
        return f"{name_of(self.handler)} ({place_of(self.handler)}, registered at {self.place})"

    @property
    def name(self) -> str:
        """What ``url_for`` calls it."""
        return self.options.name or name_of(self.handler).rpartition(".")[2]

    @property
    def tags(self) -> tuple[str, ...]:
        """Its groups' and its own."""
        return tuple(dict.fromkeys((*self.group.all_tags(), *self.options.tags)))
