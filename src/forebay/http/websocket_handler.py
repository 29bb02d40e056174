"""The two styles of WebSocket handlers: coroutine style is made of event style here."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from forebay.engine.inbox import Inbox
from forebay.engine.loop import Cancelled
from forebay.engine.stepping import Stepping
from forebay.engine.tasks import Tasks
from forebay.errors import ConnectionClosed

if TYPE_CHECKING:
    from forebay.http.websocket import WebSocket

__all__ = ["CoroutineStyle", "Mailbox", "WebSocketFunction", "WebSocketHandler"]

log = structlog.get_logger("forebay.http")

WebSocketFunction = Callable[["WebSocket"], Coroutine[Any, Any, None]]

GOING_AWAY = 1001  # RFC 6455 section 7.4.1
_LEAVING = "the server is going away"


class WebSocketHandler:
    """Event style: what happens on a WebSocket. Every method may be left out.

    They are called on the loop and must not block. What one raises is logged, and closes the WebSocket with 1011. One
    handler may serve any number of WebSockets.
    """

    __slots__ = ()

    def on_open(self, ws: WebSocket) -> None:
        """The handshake is done. First of all calls."""

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        """A whole message: ``str`` for text, ``bytes`` for binary."""

    def on_writable(self, ws: WebSocket) -> None:
        """So much of what was written has gone out that more may be written (``ws.writable`` had been False)."""

    def on_pong(self, ws: WebSocket, payload: bytes) -> None:
        """A pong, asked for or not."""

    def on_drain(self, ws: WebSocket) -> None:
        """The server drains: finish, then close."""
        ws.close_nowait(GOING_AWAY, _LEAVING)

    def on_close(self, ws: WebSocket, code: int, reason: str) -> None:
        """The connection is gone. Called exactly once, and last. ``code`` and ``reason`` are those of the peer's close
        frame, or why we failed the connection; 1005 where the frame had none, and 1006 where there was no frame
        (RFC 6455 section 7.1.5): ``reason`` is then ours, such as ``reset`` or ``heartbeat``."""


class Mailbox(WebSocketHandler):
    """Keeps messages for whoever receives them."""

    __slots__ = ("_inbox",)

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        if self._inbox.put(message):
            ws.pause_reading()


class CoroutineStyle(Stepping, WebSocketHandler):
    """Runs a coroutine handler as a Task, and closes its WebSocket when it ends."""

    __slots__ = ("_function", "_tasks")

    def __init__(self, function: WebSocketFunction, inbox: Inbox, tasks: Tasks) -> None:
        super().__init__(inbox)
        self._function = function
        self._tasks = tasks

    def on_open(self, ws: WebSocket) -> None:
        self.task = self._tasks.spawn(self._run(ws), name=f"websocket {ws.conn.peer}", context=self.context)

    def on_drain(self, ws: WebSocket) -> None:
        ws.begin_close(GOING_AWAY, _LEAVING)  # the handler has not been told yet

    def on_close(self, ws: WebSocket, code: int, reason: str) -> None:
        if self.task is not None and not (ws.told or ws.sending or self.expects_message()):
            self.task.cancel()  # it waits for something else, on behalf of a peer that is gone

    async def _run(self, ws: WebSocket) -> None:
        try:
            await self.drive(self._function(ws), ws)
        except Exception as error:
            if ws.open:  # though it may be that another connection is closed
                ws.failed(error)
            elif not of_the_end(error):
                log.error("handler failed", peer=ws.conn.peer, exc_info=error)
        except Cancelled:
            ws.begin_close(GOING_AWAY, _LEAVING)
            raise
        finally:
            self.task = self.inbox.task = None  # it may keep an error, whose traceback refers to us
        ws.begin_close(1000, "")


def of_the_end(error: BaseException) -> bool:
    """Whether ``error`` says that a connection is closed, and nothing else: also one that a group of tasks raised."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(of_the_end, error.exceptions))
    return isinstance(error, ConnectionClosed)
