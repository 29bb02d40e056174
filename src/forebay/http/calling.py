"""How a route is called where a request is at hand: its handler with what that needs, and the middleware around it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from forebay.chain import Handler, compile_chain
from forebay.http.binding.arguments import Source
from forebay.http.exchange import Exchange
from forebay.http.messages import HTTPMiddleware, Next, Request, Response, response_of
from forebay.http.problems import EXPECTED, is_expected, problem_of
from forebay.http.results import negotiated
from forebay.http.route import Route

if TYPE_CHECKING:
    from forebay.http.app import App

__all__ = ["chain_of", "endpoint_of", "invoke", "resolve_and_call"]


def chain_of(layers: Sequence[HTTPMiddleware], endpoint: Handler[Request, Response]) -> Handler[Request, Response]:
    """Join ``layers`` around ``endpoint``, the first one outermost. An ``HTTPError`` that one of them raises is a
    response to those further out; what the outermost raises is passed on."""
    return compile_chain([*layers[:1], *map(_answering, layers[1:])], endpoint)


def _answering(layer: HTTPMiddleware) -> HTTPMiddleware:
    async def call(request: Request, call_next: Next) -> Response:
        try:
            return await layer(request, call_next)
        except EXPECTED as error:
            exchange = request.exchange
            if exchange.started or exchange.finished:
                raise
            return response_of(error)

    return call


def endpoint_of(app: App[Any], route: Route) -> Handler[Request, Response]:
    """The handler as the middleware around it calls it: from request to response."""

    async def endpoint(request: Request) -> Response:
        exchange, binding = request.exchange, route.binding
        try:
            if route.is_async and not (binding.waits or binding.wants_body or route.answer):  # as mostly
                result = await route.handler(**binding.bind(exchange, request.path_params, b"", request, app))
            else:
                result = await invoke(app, route, request)
            answer = route.encode(result)
            if exchange.fields.msgpack:
                answer = negotiated(exchange, result, answer)
        except Exception as error:
            if not is_expected(error):
                raise
            answer = problem_of(error)
        if not isinstance(answer, Response):
            return Response.encoded(*answer)
        # The handler may return it to others, too, who must not get the cookies of this one
        return answer.copy() if answer is result and answer.stream is None else answer

    return endpoint


async def invoke(app: App[Any], route: Route, request: Request) -> Any:
    """Call the handler. What its dependencies hold is left to ``request``, or closed at once when it fails."""
    binding = route.binding
    if route.answer is not None:
        return await route.answer(route, request)
    if not binding.holds:
        body = await request.body() if binding.wants_body else b""
        path = request.path_params
        if binding.waits:
            arguments = await binding.resolve(Source(request.exchange, path, body, request, app))
        else:
            arguments = binding.bind(request.exchange, path, body, request, app)
        return await _call(app, route, arguments)
    stack = AsyncExitStack()
    try:
        result = await _call(app, route, await binding.resolve_all(request, stack))
    except BaseException as error:
        request.closing = True
        try:
            await stack.__aexit__(type(error), error, error.__traceback__)
        finally:
            request.closing = False
        raise
    request.release(stack)
    return result


async def resolve_and_call(app: App[Any], route: Route, exchange: Exchange, path: dict[str, Any] | None) -> Any:
    """Call a coroutine function that depends on others, but needs no request."""
    arguments = await route.binding.resolve(Source(exchange, path, b"", None, app))
    return await route.handler(**arguments)


async def _call(app: App[Any], route: Route, arguments: dict[str, Any]) -> Any:
    if route.is_async:
        return await route.handler(**arguments)
    if route.is_blocking:
        return await app.run_blocking(route.handler, **arguments)
    return route.handler(**arguments)
