"""WebSockets as routes of the framework."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from contextvars import Context
from typing import Any, TypeVar

from forebay.engine.loop import Cancelled
from forebay.engine.tasks import Task, Tasks
from forebay.http.headers import SERVERS, MutableHeaders
from forebay.http.messages import Request, Response
from forebay.http.route import Route
from forebay.http.websocket import WebSocket, accept, upgrade_refusal
from forebay.http.websocket_handler import of_the_end
from forebay.http.websocket_settings import WebSocketSettings

__all__ = ["open_websocket"]

_SWITCHED = 101

T = TypeVar("T")


class _WithUpgrade(MutableHeaders):
    """Those of an answer that has ``upgrade``, which ``connection`` must list (RFC 9110 section 7.8)."""

    __slots__ = ()

    def encode(self, without: frozenset[str] = frozenset(), owned: frozenset[str] = SERVERS) -> bytes:
        return super().encode(without, owned) + b"connection: upgrade\r\n"


class _Followed(Tasks):
    """Calls ``then`` when a task has ended, also one that was cancelled before its first step and so never ran."""

    __slots__ = ("_owner", "_then")

    def __init__(self, owner: Tasks, then: Callable[[], None]) -> None:
        self._owner = owner
        self._then = then

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str, context: Context | None = None) -> Task[T]:
        task = self._owner.spawn(coro, name=name, context=context)
        task.add_done_callback(lambda _: self._then())
        return task


def _refused(status: int, lines: bytes, body: bytes) -> Response:
    response = Response.encoded(status, lines, body)
    if "upgrade" in response.headers:
        response.headers = _WithUpgrade(response.headers)
    return response


async def open_websocket(route: Route, request: Request) -> Response:
    """Answer a handshake. The handler's arguments are there before the WebSocket is; its dependencies are closed when
    it has ended."""
    settings = route.settings or WebSocketSettings()
    refusal = upgrade_refusal(request.exchange, settings)
    if refusal is not None:
        return _refused(*refusal)
    app, exchange = route.app, request.exchange
    stack = AsyncExitStack()
    begun = False

    async def handle(ws: WebSocket) -> None:
        nonlocal begun
        begun = True
        try:
            await route.handler(**{route.socket_name: ws}, **arguments)
        except BaseException as error:  # who swallows it does not make the handler succeed
            if app.on_error is not None and isinstance(error, Exception) and (ws.open or not of_the_end(error)):
                app.on_error(error, exchange)
            ws.told = True
            await stack.__aexit__(type(error), error, error.__traceback__)
            raise
        ws.told = True  # the peer may leave: that cancels nothing any more
        await stack.aclose()

    def close_unbegun() -> None:
        if not begun:
            app.socket_tasks.spawn(app.releases.close(app, exchange, [stack], Cancelled()), name="dependencies")

    try:
        arguments = await route.binding.resolve_all(request, stack)
        tasks = _Followed(app.socket_tasks, close_unbegun) if route.binding.holds else app.socket_tasks
        accept(exchange, handle, settings, tasks=tasks)
    except BaseException as error:
        await stack.__aexit__(type(error), error, error.__traceback__)
        raise
    return Response.encoded(_SWITCHED, b"", b"")  # it is sent already
