"""Handlers of datagram sessions in both styles: coroutine style is made of event style here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

from forebay.engine.handler import CloseReason
from forebay.engine.inbox import Inbox
from forebay.engine.styles import is_coroutine_style
from forebay.engine.tasks import Task, Tasks
from forebay.errors import ConnectionClosed

if TYPE_CHECKING:
    from forebay.engine.datagram_session import DatagramSession

__all__ = [
    "Backlog",
    "DatagramCoroutine",
    "DatagramHandler",
    "DatagramHandlerFactory",
    "Queueing",
    "datagram_handler_factory",
]


class Backlog:
    """How many bytes of datagrams wait for coroutine handlers, all sessions together.

    :param limit: bytes past which datagrams are dropped.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.used = 0


class DatagramHandler:
    """Event style: what happens in a session. Every method may be left out.

    They are called on the loop and must not block. What one raises is logged and closes the session.
    """

    __slots__ = ()

    def on_open(self, session: DatagramSession) -> None:
        """The peer's first datagram is there; :meth:`on_message` is given it next. First of all calls."""

    def on_message(self, session: DatagramSession, data: bytes) -> None:
        """A datagram, whole; it may be empty."""

    def on_timeout(self, session: DatagramSession) -> None:
        """The session timeout, or what was given to :meth:`DatagramSession.expire_in`, is over."""
        session.close(CloseReason.EXPIRED)

    def on_drain(self, session: DatagramSession) -> None:
        """The server drains: finish, then close the session."""
        session.close(CloseReason.DRAIN)

    def on_tick(self, session: DatagramSession) -> None:
        """Called for every session each ``tick`` seconds, where the server was given that."""

    def on_close(self, session: DatagramSession, reason: CloseReason) -> None:
        """The session is gone. Called exactly once, and last."""


DatagramCoroutine = Callable[["DatagramSession"], Coroutine[Any, Any, None]]
DatagramHandlerFactory = Callable[[], DatagramHandler]

_SUDDEN = frozenset({CloseReason.EXPIRED, CloseReason.RESET, CloseReason.STOPPED})


class Queueing(DatagramHandler):
    """Keeps datagrams for whoever receives them. Past its bounds the newest is dropped, as the kernel does: what was
    taken on first is answered first."""

    __slots__ = ("backlog", "inbox", "limit")

    def __init__(self, limit: int, backlog: Backlog) -> None:
        self.limit = limit
        self.backlog = backlog
        self.inbox = Inbox(limit)

    def on_message(self, session: DatagramSession, data: bytes) -> None:
        inbox, backlog = self.inbox, self.backlog
        if inbox.ended:
            session.drop("drain")
        elif len(inbox.messages) >= self.limit:
            session.drop("inbox")
        elif backlog.used + len(data) > backlog.limit:
            session.drop("memory")
        else:
            backlog.used += len(data)
            inbox.put(data)

    def on_timeout(self, session: DatagramSession) -> None:
        if not self.inbox.messages:  # else it is we who are late
            session.close(CloseReason.EXPIRED)

    def on_close(self, session: DatagramSession, reason: CloseReason) -> None:
        self.inbox.end()


class _Coroutine(Queueing):
    """Runs a coroutine handler: a Task that takes its datagrams from an inbox."""

    __slots__ = ("draining", "function", "task", "tasks")

    def __init__(self, function: DatagramCoroutine, tasks: Tasks, limit: int, backlog: Backlog) -> None:
        super().__init__(limit, backlog)
        self.function = function
        self.tasks = tasks
        self.draining = False
        self.task: Task[None] | None = None

    def on_open(self, session: DatagramSession) -> None:
        self.task = self.tasks.spawn(self._run(session), name=f"session {session.peer}")

    async def _run(self, session: DatagramSession) -> None:
        try:
            await self.function(session)
        except ConnectionClosed as error:
            if not (session.closing or self.inbox.ended):  # it is another session's
                session.failed(error)
        except Exception as error:
            session.failed(error)
        except asyncio.CancelledError:
            session.close(CloseReason.STOPPED)
            raise
        finally:
            self.inbox.end()
            session.forget_queued()
        session.close(CloseReason.DRAIN if self.draining else CloseReason.APP)

    def on_drain(self, session: DatagramSession) -> None:
        self.draining = True
        self.inbox.end()

    def on_close(self, session: DatagramSession, reason: CloseReason) -> None:
        told = session.told() or self.inbox.awaited
        self.inbox.end()
        if self.task is not None and not told and reason in _SUDDEN:
            self.task.cancel()  # it waits for something else, on behalf of a peer that is gone
            session.forget_queued()


def datagram_handler_factory(
    handler: DatagramCoroutine | DatagramHandlerFactory, tasks: Tasks, inbound_limit: int, backlog: Backlog
) -> Callable[[], tuple[DatagramHandler, Inbox | None]]:
    """What makes the handler of a new session, and the inbox a coroutine handler has.

    :raises ValueError: ``handler`` is neither a coroutine function nor something to call.
    """
    if is_coroutine_style(handler):
        function = cast("DatagramCoroutine", handler)

        def coroutine_style() -> tuple[DatagramHandler, Inbox]:
            made = _Coroutine(function, tasks, inbound_limit, backlog)
            return made, made.inbox

        return coroutine_style
    if not callable(handler):
        raise ValueError(f"handler {handler!r} must be a coroutine function, or make a DatagramHandler")
    make = cast("DatagramHandlerFactory", handler)

    def event_style() -> tuple[DatagramHandler, None]:
        return make(), None

    return event_style
