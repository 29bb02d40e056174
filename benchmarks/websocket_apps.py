"""The WebSockets that Forebay serves in the benchmarks: ``forebay run benchmarks.websocket_apps:echo``."""

from __future__ import annotations

from collections.abc import Callable

from forebay.engine.settings import Outbound, SlowConsumer
from forebay.engine.tasks import Tasks
from forebay.http import App, HTTPServer
from forebay.http.broadcaster import Broadcaster
from forebay.http.exchange import Exchange
from forebay.http.settings import ServerLimits
from forebay.http.websocket import WebSocket, WebSocketHandler, WebSocketSettings, accept, upgrade_refusal

MANY = 20_000  # connections, which the load's descriptors do not reach


class Upgrading:
    """An application that makes a WebSocket in event style of every request."""

    body_limit: int | None = 0

    def __init__(self, name: str, handler: Callable[[], WebSocketHandler], settings: WebSocketSettings) -> None:
        self.name = name
        self._handler = handler
        self._settings = settings
        self._tasks = Tasks()

    def on_request(self, exchange: Exchange) -> None:
        """Upgrade, or say why not."""
        refusal = upgrade_refusal(exchange, self._settings)
        if refusal is not None:
            exchange.respond(*refusal)
        else:
            accept(exchange, self._handler(), self._settings, tasks=self._tasks)


class Echo(WebSocketHandler):
    """Every message goes back."""

    __slots__ = ()

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        """Send it back."""
        ws.write(message)


class Member(WebSocketHandler):
    """Every message goes to everybody."""

    __slots__ = ()

    def on_open(self, ws: WebSocket) -> None:
        """Come in."""
        members.add(ws)

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        """Tell everybody."""
        members.publish(message)


def _server(name: str, handler: Callable[[], WebSocketHandler], settings: WebSocketSettings) -> HTTPServer:
    application = Upgrading(name, handler, settings)
    return HTTPServer(application, bind="http://127.0.0.1:9010", limits=ServerLimits(connections=MANY))


echo = _server("websocket-echo", Echo, WebSocketSettings())

echo_coroutine = App("websocket-echo-coroutine")


@echo_coroutine.websocket("/ws")
async def echo_each(socket: WebSocket) -> None:
    """Coroutine style: a Task for each WebSocket."""
    async for message in socket:
        await socket.send(message)


# A member that does not read is cut once this much waits for it: memory is bounded, and the others go on.
SLOW_LIMIT = 32 * 1024  # bytes

members = Broadcaster()
room = _server(
    "websocket-room",
    Member,
    WebSocketSettings(outbound=Outbound(high=16 * 1024, limit=SLOW_LIMIT, policy=SlowConsumer.CLOSE)),
)
