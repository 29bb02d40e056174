"""WebSockets as routes of the framework."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from forebay.engine.tasks import Tasks
from forebay.http.binding import is_coroutine_function
from forebay.http.messages import MutableHeaders, Request, Response
from forebay.http.websocket import accept, upgrade_refusal
from forebay.http.websocket_settings import WebSocketSettings

__all__ = ["check_websocket_handler", "websocket_endpoint"]

_SWITCHED = 101


def check_websocket_handler(handler: Callable[..., Any], pattern: str, names: Iterable[str], place: str) -> None:
    """Whether ``handler`` can be called with a WebSocket and the path parameters ``names``.

    :raises TypeError: it cannot; says why, and where it is.
    """
    where = f"WebSocket handler {getattr(handler, '__qualname__', handler)} ({place}) of route {pattern!r}"
    if not is_coroutine_function(handler):
        raise TypeError(f"{where} must be a coroutine function")
    try:
        inspect.signature(handler).bind(None, **dict.fromkeys(names))
    except TypeError as error:
        wanted = "".join(f", {name}" for name in names)
        raise TypeError(f"{where} must be like async def handler(ws{wanted}): {error}") from None


class _WithUpgrade(MutableHeaders):
    """Those of an answer that has ``upgrade``, which ``connection`` must list (RFC 9110 section 7.8)."""

    __slots__ = ()

    def encode(self, without: frozenset[str] = frozenset()) -> bytes:
        return super().encode(without) + b"connection: upgrade\r\n"


def _refused(status: int, lines: bytes, body: bytes) -> Response:
    response = Response.encoded(status, lines, body)
    if "upgrade" in response.headers:
        response.headers = _WithUpgrade(response.headers)
    return response


def websocket_endpoint(
    handler: Callable[..., Any], settings: WebSocketSettings, tasks: Tasks
) -> Callable[..., Awaitable[Response]]:
    """What answers the handshake, as a handler of GET requests."""

    async def handshake(request: Request, **_: Any) -> Response:
        refusal = upgrade_refusal(request.exchange, settings)
        if refusal is not None:
            return _refused(*refusal)
        params = request.path_params
        accept(request.exchange, partial(handler, **params) if params else handler, settings, tasks=tasks)
        return Response.encoded(_SWITCHED, b"", b"")  # it is sent already

    return handshake
