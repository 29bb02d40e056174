"""Messages on their way from a connection to the coroutine that handles it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from forebay.errors import ForebayError

__all__ = ["Inbox"]

_MAXIMUM_BYTES = 256 * 1024


class Inbox:
    """A queue with one reader. It does not refuse messages; it says when reading from the peer should pause.

    :param limit: messages from which on it is full. Without framing, 256 KiB of chunks make it full as well.
    """

    __slots__ = ("_bytes", "_limit", "_waiter", "ended", "error", "messages")

    def __init__(self, limit: int) -> None:
        self.messages: deque[Any] = deque()
        self._limit = limit
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False  # nothing more comes; what is queued still does
        self.error: ForebayError | None = None  # why it ended, when that was not the peer's or our decision

    @property
    def awaited(self) -> bool:
        """Whether the reader waits for a message right now."""
        return self._waiter is not None

    @property
    def low(self) -> bool:
        """Whether reading from the peer should go on."""
        return len(self.messages) <= self._limit // 2 and self._bytes <= _MAXIMUM_BYTES // 2

    def put(self, message: Any) -> bool:
        """Append ``message``, unless the inbox has ended. True: it is full, reading from the peer should pause."""
        if self.ended:
            return False
        self.messages.append(message)
        if type(message) is bytes:
            self._bytes += len(message)
        if self._waiter is not None:
            self._wake()
        return len(self.messages) >= self._limit or self._bytes >= _MAXIMUM_BYTES

    def end(self, error: ForebayError | None = None) -> None:
        """Nothing more comes. The first call counts."""
        if not self.ended:
            self.ended = True
            self.error = error
            self._wake()

    def take(self) -> Any:
        """The oldest message; there must be one."""
        message = self.messages.popleft()
        if type(message) is bytes:
            self._bytes -= len(message)
        return message

    async def wait(self) -> bool:
        """Wait for a message. False: there is none, and none will come.

        :raises ForebayError: the inbox has ended with it.
        """
        while not self.messages:
            if self.ended:
                if self.error is not None:
                    raise self.error
                return False
            if self._waiter is not None:
                raise RuntimeError("two tasks receive from one connection at once")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
