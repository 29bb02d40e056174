"""The two styles of handlers: coroutine style is made of event style here."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, cast

from forebay.engine.connection import Connection
from forebay.engine.framed import LAST_WORDS
from forebay.engine.handler import CloseReason, ConnectionHandler
from forebay.engine.inbox import Inbox
from forebay.engine.stepping import Stepping
from forebay.engine.tasks import Tasks
from forebay.errors import ConnectionClosed, FramingError

__all__ = ["CoroutineHandler", "HandlerFactory", "handler_factory", "is_coroutine_style"]

CoroutineHandler = Callable[[Connection], Coroutine[Any, Any, None]]
HandlerFactory = Callable[[], ConnectionHandler]

_SUDDEN = frozenset(
    {
        CloseReason.RESET,
        CloseReason.WRITE_STALL,
        CloseReason.IDLE,
        CloseReason.HEARTBEAT,
        CloseReason.FIRST_BYTE,
        CloseReason.SLOW_MESSAGE,
        CloseReason.SLOW_CONSUMER,
        CloseReason.MEMORY,
    }
)


def is_coroutine_style(handler: object) -> bool:
    """Whether calling ``handler`` gives a coroutine."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004  (not whether it is callable, but how)


def handler_factory(
    handler: CoroutineHandler | HandlerFactory, tasks: Tasks, inbound_limit: int
) -> Callable[[], tuple[ConnectionHandler, Inbox | None]]:
    """What makes the handler of a new connection, and the inbox a coroutine handler has.

    :raises ValueError: ``handler`` is neither a coroutine function nor something to call.
    """
    if is_coroutine_style(handler):
        function = cast("CoroutineHandler", handler)

        def coroutine_style() -> tuple[ConnectionHandler, Inbox]:
            inbox = Inbox(inbound_limit)
            return _Coroutine(function, inbox, tasks), inbox

        return coroutine_style
    if not callable(handler):
        raise ValueError(f"handler {handler!r} must be a coroutine function, or make a ConnectionHandler")
    make = cast("HandlerFactory", handler)

    def event_style() -> tuple[ConnectionHandler, None]:
        return make(), None

    return event_style


class _Coroutine(Stepping, ConnectionHandler):
    """Runs a coroutine handler, and ends its connection with it."""

    __slots__ = ("draining", "function", "tasks")

    def __init__(self, function: CoroutineHandler, inbox: Inbox, tasks: Tasks) -> None:
        super().__init__(inbox)
        self.tasks = tasks
        self.function = function
        self.draining = False

    # What the connection calls

    def on_open(self, conn: Connection) -> None:
        self.task = self.tasks.spawn(self._run(conn), name=f"connection {conn.peer}", context=self.context)

    def on_eof(self, conn: Connection) -> bool:
        self.inbox.end()
        return True

    def on_drain(self, conn: Connection) -> None:
        self.draining = not self.inbox.ended
        self.inbox.end()
        conn.pause_reading()

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        told = conn.told() or self.expects_message()
        self.inbox.end()
        if self.task is not None and not told and reason in _SUDDEN:
            self.task.cancel()  # it waits for something else, on behalf of a peer that is gone

    # The handler

    async def _run(self, conn: Connection) -> None:
        try:
            await self.drive(self.function(conn), conn)
        except FramingError as error:
            if error is not self.inbox.error:
                conn.failed(error)
        except ConnectionClosed as error:
            if not (conn.closing or self.inbox.ended):  # it is another connection's
                conn.failed(error)
        except Exception as error:
            conn.failed(error)
        except asyncio.CancelledError:
            conn.abort(CloseReason.STOPPED)
            raise
        finally:
            self.task = self.inbox.task = None  # it may keep an error, whose traceback refers to us
        if self.inbox.error is not None:
            conn.close(CloseReason.FRAMING, linger=LAST_WORDS)
        elif self.draining:
            conn.close(CloseReason.DRAIN)
        else:
            conn.close(CloseReason.PEER if self.inbox.ended else CloseReason.APP)
