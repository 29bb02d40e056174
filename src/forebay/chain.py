"""The one shape of handlers and middleware, and how they are joined.

A *handler* is ``async def handler(request) -> response``; a *middleware* is
``async def middleware(request, call_next) -> response`` and decides whether, when and how often to
``await call_next(request)``. What a request and a response are is up to the user of the chain: HTTP, RPC, messages and
jobs all use this one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

__all__ = ["Handler", "Middleware", "compile_chain"]

Req = TypeVar("Req")
Resp = TypeVar("Resp")

Handler = Callable[[Req], Awaitable[Resp]]
Middleware = Callable[[Req, Handler[Req, Resp]], Awaitable[Resp]]


def compile_chain(middleware: Sequence[Middleware[Req, Resp]], handler: Handler[Req, Resp]) -> Handler[Req, Resp]:
    """Join ``middleware`` around ``handler``, the first one outermost. Done once, at registration.

    With no middleware the result *is* the handler, so it costs nothing.
    """
    chain = handler
    for layer in reversed(middleware):
        chain = _link(layer, chain)
    return chain


def _link(layer: Middleware[Req, Resp], following: Handler[Req, Resp]) -> Handler[Req, Resp]:
    def call(request: Req) -> Awaitable[Resp]:
        return layer(request, following)  # handed on, not awaited: one coroutine per layer, not two

    return call
