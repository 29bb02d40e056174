"""Receiving by coroutine handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import coroutine
from typing import TYPE_CHECKING, Any, Self

from forebay.engine.handler import CloseReason
from forebay.engine.inbox import EAGER, MESSAGE, Inbox
from forebay.errors import ConnectionClosed, DeadlineExceeded

__all__ = ["Receives"]


class Receives:
    """The part of a :class:`~forebay.engine.connection.Connection` that hands messages to a coroutine handler."""

    __slots__ = ()

    if TYPE_CHECKING:
        close_reason: CloseReason | None
        _eof: bool
        _inbox: Inbox | None
        _paused: bool

        @property
        def peer(self) -> str:
            """See :class:`~forebay.engine.ends.Ends`."""

        def resume_reading(self) -> None:
            """See :class:`~forebay.engine.connection.Connection`."""

    async def receive(self, timeout: float | None = None) -> Any:
        """The next message. For coroutine handlers.

        :param timeout: seconds to wait for it; ``None``: only the owner's timeouts count.
        :raises ConnectionClosed: none will come: the peer has ended its side, or the server drains.
        :raises FramingError: the peer sent bytes that are not a message.
        :raises DeadlineExceeded: it did not come in time.
        """
        try:
            if timeout is None:
                return await self.__anext__()
            async with asyncio.timeout(timeout):
                return await self.__anext__()
        except TimeoutError:
            raise DeadlineExceeded(f"{self.peer} sent no message within {timeout} s") from None
        except StopAsyncIteration:
            raise self.closed_error() from None

    def __aiter__(self) -> Self:
        return self

    @coroutine
    def __anext__(self) -> Generator[Any, Any, Any]:
        inbox = self._inbox or self._no_inbox()
        if inbox.stepping and not inbox.queued and not inbox.ended and (not EAGER or inbox.is_stepped()):
            return (yield MESSAGE)
        if inbox.messages:
            return self.take(inbox)
        if inbox.ended and inbox.error is None:
            raise StopAsyncIteration
        if not (yield from inbox.wait().__await__()):
            raise StopAsyncIteration
        return self.take(inbox)

    def closed_error(self) -> ConnectionClosed:
        """What those are told who want to send or receive."""
        why = self.close_reason or (CloseReason.PEER if self._eof else CloseReason.DRAIN)
        return ConnectionClosed(f"the connection with {self.peer} is closed ({why})")

    def _no_inbox(self) -> Inbox:
        raise RuntimeError("only coroutine handlers receive; an event-style handler gets on_message")

    def take(self, inbox: Inbox) -> Any:
        """The oldest message of the inbox."""
        message = inbox.take()
        self.make_room(inbox)
        return message

    def make_room(self, inbox: Inbox) -> None:
        """Go on reading, if it was the full inbox that stopped us and it is low now."""
        if self._paused and inbox.low and not inbox.ended:
            self.resume_reading()
