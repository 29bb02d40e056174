"""The two styles of handlers: coroutine style is made of event style here."""

from __future__ import annotations

import asyncio
import inspect
from asyncio.tasks import _enter_task, _leave_task  # for those who step tasks: "Extending asyncio" in Python's manual
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from types import coroutine
from typing import Any, cast

from forebay.engine.connection import Connection
from forebay.engine.framed import LAST_WORDS
from forebay.engine.handler import CloseReason, ConnectionHandler
from forebay.engine.inbox import MESSAGE, Inbox, Nap
from forebay.engine.tasks import Task, Tasks
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


_NOTHING = object()


class _Coroutine(ConnectionHandler):
    """Runs a coroutine handler as a Task that mostly sleeps: while the handler waits for its connection's next message,
    and for nothing else, :meth:`on_message` runs it up to its next wait, right where the message arrives.

    That saves what a Task costs for each message (a callback, a turn of the loop, a wake-up), and no message is lost to
    a cancellation on the way. To everything else it is a Task like any other: it is the current task while the handler
    runs, it can be cancelled, and what else the handler waits for, the Task waits for.
    """

    __slots__ = (
        "_context",
        "_ended",
        "_found",
        "_loop",
        "_send",
        "draining",
        "function",
        "inbox",
        "task",
        "tasks",
    )

    def __init__(self, function: CoroutineHandler, inbox: Inbox, tasks: Tasks) -> None:
        self.tasks = tasks
        self.function = function
        self.inbox = inbox
        self.draining = False
        self.task: Task[None] | None = None
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()
        self._found: Any = _NOTHING  # what the last step left for the Task to wait for ...
        self._ended: BaseException | None = None  # ... or how the handler ended in it

    # What the connection calls

    def on_open(self, conn: Connection) -> None:
        self.task = self.tasks.spawn(self._run(conn), name=f"connection {conn.peer}", context=self._context)

    def on_message(self, conn: Connection, data: Any) -> None:
        inbox = self.inbox
        if not inbox.resting:
            self._keep(conn, data)
            return
        try:
            _enter_task(self._loop, self.task)  # type: ignore[arg-type]  # it is set: the handler has run before
        except RuntimeError:  # some other task delivers the message
            self._keep(conn, data)
            return
        # The handler waits for this message, and for nothing else: run it to its next wait.
        inbox.stepping = True
        try:
            found = self._context.run(self._send, data)
            if found is MESSAGE:
                return
            self._found = found
        except BaseException as error:  # the end of the handler, good or bad: the Task's to deal with
            self._ended = error
        finally:
            inbox.stepping = False
            _leave_task(self._loop, self.task)  # type: ignore[arg-type]
        inbox.wake()

    def _keep(self, conn: Connection, data: Any) -> None:
        if self.inbox.put(data):
            conn.pause_reading()

    def on_eof(self, conn: Connection) -> bool:
        self.inbox.end()
        return True

    def on_drain(self, conn: Connection) -> None:
        self.draining = not self.inbox.ended
        self.inbox.end()
        conn.pause_reading()

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        inbox = self.inbox
        # Its Task may still sleep although a step has just left something else to wait for
        told = conn.told() or inbox.waiter is not None or (inbox.nap is not None and self._found is _NOTHING)
        inbox.end()
        if self.task is not None and not told and reason in _SUDDEN:
            self.task.cancel()  # it waits for something else, on behalf of a peer that is gone

    # The handler

    async def _run(self, conn: Connection) -> None:
        try:
            await self._drive(self.function(conn), conn)
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

    @coroutine
    def _drive(self, handler: Coroutine[Any, Any, None], conn: Connection) -> Generator[Any, Any, None]:
        """Run the handler to its end."""
        inbox = self.inbox
        inbox.task = asyncio.current_task()
        self._send = handler.send
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            inbox.stepping = True
            try:
                found = handler.send(sent) if thrown is None else handler.throw(thrown)
            except StopIteration:
                return
            finally:
                inbox.stepping = False
                sent = thrown = None
            while found is MESSAGE:
                try:
                    yield from self._rest()  # on_message steps the handler meanwhile
                except BaseException as error:
                    thrown = error
                if self._ended is not None:
                    return self._finish()
                if self._found is not _NOTHING:
                    found, self._found = self._found, _NOTHING
                    if isinstance(thrown, asyncio.CancelledError) and found is not None and found.cancel(*thrown.args):
                        thrown = None  # what the handler awaits is cancelled, as Task.cancel does it, and tells it
                elif thrown is None and inbox.messages:
                    sent = conn.take(inbox)
                    break
                elif thrown is None and inbox.ended:
                    thrown = inbox.error or StopAsyncIteration()
                if thrown is not None:
                    break
            else:
                try:
                    yield found
                except BaseException as error:
                    thrown = error

    def _finish(self) -> None:
        """Return, or raise, as the handler did in its last step."""
        ended, self._ended = self._ended, None
        try:
            if ended is not None and not isinstance(ended, StopIteration):
                raise ended
        finally:
            del ended  # its traceback refers to us

    def _rest(self) -> Generator[Any, Any, None]:
        """Wait for more than a message that :meth:`on_message` can hand over."""
        inbox = self.inbox
        inbox.claim()
        nap = inbox.nap = Nap(inbox)
        inbox.resting = True
        try:
            yield from nap
        finally:
            inbox.resting = False
            inbox.nap = None
