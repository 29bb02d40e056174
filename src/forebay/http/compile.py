"""What is compiled of a route's handler when it is registered, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forebay.http.binding import Signature, compile_binding, is_coroutine_function, place_of
from forebay.http.binding.blocking import is_blocking
from forebay.http.binding.dependencies import How
from forebay.http.binding.signature import MISSING, name_of
from forebay.http.converters import CONVERTERS, Converter
from forebay.http.mounting import mounted
from forebay.http.results import check_result, encoder_for
from forebay.http.route import Route
from forebay.http.route_table import parameters
from forebay.http.websocket import WebSocket
from forebay.http.websocket_route import open_websocket

__all__ = ["compile_route"]


def compile_route(route: Route, converters: Mapping[str, Converter]) -> None:
    """Fill in what ``route`` needs to answer. May be done again, when dependencies were overridden.

    :param converters: those of the application.
    :raises TypeError: the handler's signature or its return annotation is not one that can be served; says why, and
        names the places of the handler and of the registration.
    :raises ValueError: the pattern is not well-formed; says why, and names the place of the registration.
    """
    try:
        _compile(route, {**CONVERTERS, **converters})
    except TypeError as error:
        raise TypeError(f"{error} (registered at {route.place})") from None
    except ValueError as error:
        raise ValueError(f"{error} (registered at {route.place})") from None


def _compile(route: Route, converters: dict[str, Converter]) -> None:
    params = {name: converters[kind] for name, kind in parameters(route.pattern or "/", converters, route.host).items()}
    function, what, given = route.handler, "handler", frozenset[str]()
    if route.kind == "mount":
        function = route.answer = mounted(route)
        given = frozenset(("route", "request"))
        params = {}
    elif route.settings is not None:
        route.answer = open_websocket
        what = "WebSocket handler"
    signature = route.signature = Signature(function, what, route.pattern)
    if route.settings is not None:
        route.socket_name = _socket_parameter(signature, params)
        given = frozenset((route.socket_name,))
    route.binding = compile_binding(signature, route.pattern, params, route.app, given=given)
    if route.settings is not None and (route.binding.wants_body or route.binding.wants_form):
        raise TypeError(f"{signature.where}: a WebSocket's request has no content")
    route.is_async = is_coroutine_function(function)
    route.is_blocking = is_blocking(function)
    route.uses_threads = route.is_blocking or any(one.how is How.BLOCKING for one in route.binding.dependencies)
    wrong = None if route.answer is not None else check_result(signature.returns)
    if wrong is not None:
        shown = f"{name_of(wrong)} ({place_of(wrong)})" if isinstance(wrong, type) else str(wrong)
        raise TypeError(f"{signature.where} returns {shown}, which cannot be sent")
    route.encode = encoder_for(None if route.answer is not None else signature.returns, route.options.status)


def _socket_parameter(signature: Signature, params: Mapping[str, Converter]) -> str:
    """The name of the parameter that is the WebSocket."""
    if not is_coroutine_function(signature.function):
        raise TypeError(f"{signature.where} must be a coroutine function")
    for parameter in signature.parameters:
        if isinstance(parameter.kind, type) and issubclass(parameter.kind, WebSocket):
            return parameter.name
    first = signature.parameters[0] if signature.parameters else None
    if first is None or first.name in params or first.kind not in (MISSING, Any):
        wanted = "".join(f", {name}" for name in params)
        raise TypeError(f"{signature.where} must be like async def handler(ws: WebSocket{wanted})")
    return first.name
