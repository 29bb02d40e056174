"""Messages on their way from a connection to the coroutine that handles it."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Any, Final

from forebay.errors import ForebayError

__all__ = ["EAGER", "MESSAGE", "Inbox", "Nap"]

_MAXIMUM_BYTES = 256 * 1024

EAGER: Final = sys.version_info >= (3, 12)
"""Whether a handler may start tasks that run at once, within its own step."""

MESSAGE: Final = object()
"""What a stepped handler yields when it waits for its connection's next message; see ``stepping.Stepping``."""


class Inbox:
    """A queue with one reader. It does not refuse messages; it says when reading from the peer should pause.

    :param limit: messages from which on it is full. 256 KiB of bytes or characters make it full as well.
    """

    __slots__ = (
        "_limit",
        "ended",
        "error",
        "messages",
        "nap",
        "queued",
        "resting",
        "size",
        "stepping",
        "task",
        "waiter",
    )

    def __init__(self, limit: int) -> None:
        self.messages: deque[Any] = deque()
        self.queued = 0  # how many they are
        self.size = 0  # bytes and characters in them
        self.ended = False  # nothing more comes; what is queued still does
        self.error: ForebayError | None = None  # why it ended, when that was not the peer's or our decision
        self.waiter: asyncio.Future[None] | None = None  # who waits for a message, or for the end
        self.nap: Nap | None = None  # what the handler's Task waits for meanwhile, where it is stepped
        self.stepping = False  # whether the handler's own code runs right now; see stepping.Stepping
        self.resting = False  # whether it waits for the next message, and for nothing else
        self.task: asyncio.Task[Any] | None = None  # the handler's, where it is stepped
        self._limit = limit

    @property
    def awaited(self) -> bool:
        """Whether the reader waits for a message right now."""
        return self.waiter is not None or self.resting

    @property
    def low(self) -> bool:
        """Whether reading from the peer should go on."""
        return self.queued <= self._limit // 2 and self.size <= _MAXIMUM_BYTES // 2

    def put(self, message: Any) -> bool:
        """Append ``message``, unless the inbox has ended. True: it is full, reading from the peer should pause."""
        if self.ended:
            return False
        self.messages.append(message)
        self.queued += 1
        if type(message) in _SIZED:
            self.size += len(message)
        if self.waiter is not None or self.resting:
            self.wake()
        return self.queued >= self._limit or self.size >= _MAXIMUM_BYTES

    def end(self, error: ForebayError | None = None) -> None:
        """Nothing more comes. The first call counts."""
        if not self.ended:
            self.ended = True
            self.error = error
            self.wake()

    def take(self) -> Any:
        """The oldest message; there must be one."""
        message = self.messages.popleft()
        self.queued -= 1
        if type(message) in _SIZED:
            self.size -= len(message)
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
            self.claim()
            waiter = self.waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                if self.waiter is waiter:
                    self.waiter = None
        return True

    def claim(self) -> None:
        """Make sure that nobody else waits for a message.

        :raises RuntimeError: somebody does.
        """
        waiting = self.waiter is not None and not self.waiter.done()  # one that was cancelled is as good as gone
        if waiting or (self.resting and not self.stepping):
            raise RuntimeError("two tasks receive from one connection at once")

    def is_reader(self) -> bool:
        """Whether whoever asks is the handler's own Task, where it is stepped."""
        return self.task is not None and asyncio.current_task() is self.task

    def is_stepped(self) -> bool:
        """Whether whoever asks is the handler itself, and may wait by yielding :data:`MESSAGE`."""
        return self.stepping and self.waiter is None and asyncio.current_task() is self.task

    def wake(self) -> None:
        """Have whoever waits look again."""
        self.resting = False
        for waiter in (self.waiter, self.nap):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)


class Nap(asyncio.Future[None]):
    """What the Task of a stepped handler waits for. From the moment it is cancelled, the handler is not stepped."""

    __slots__ = ("_inbox",)

    def __init__(self, inbox: Inbox) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._inbox = inbox

    def cancel(self, msg: Any | None = None) -> bool:
        """Called by the Task's own ``cancel``. False: the Task is to be cancelled where it waits next."""
        if self._inbox.stepping:  # the handler cancels itself
            self._inbox.wake()
            return False
        self._inbox.resting = False
        return super().cancel(msg)


_SIZED = frozenset({bytes, str, bytearray})
