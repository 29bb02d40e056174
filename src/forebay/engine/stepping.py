"""Running a coroutine handler right where its messages arrive, instead of waking its Task for each of them."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task  # for those who step tasks: "Extending asyncio" in Python's manual
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from types import coroutine
from typing import Any, Protocol

from forebay.engine.inbox import MESSAGE, Inbox, Nap
from forebay.engine.tasks import Task

__all__ = ["Source", "Stepping"]

_NOTHING = object()


class Source(Protocol):
    """Where a handler's messages come from: a connection, or what is spoken on one."""

    def take(self, inbox: Inbox) -> Any:
        """The oldest message of the inbox, after which reading may go on."""

    def pause_reading(self) -> None:
        """The inbox is full."""


class Stepping:
    """Runs a coroutine handler as a Task that mostly sleeps: while the handler waits for its connection's next message,
    and for nothing else, :meth:`on_message` runs it up to its next wait, right where the message arrives.

    That saves what a Task costs for each message (a callback, a turn of the loop, a wake-up), and no message is lost to
    a cancellation on the way. To everything else it is a Task like any other: it is the current task while the handler
    runs, it can be cancelled, and what else the handler waits for, the Task waits for.

    Whoever derives from it spawns ``task``, in ``context``, which awaits :meth:`drive`.
    """

    __slots__ = ("_ended", "_found", "_loop", "_send", "context", "inbox", "task")

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.task: Task[None] | None = None
        self.context = copy_context()
        self._loop = asyncio.get_running_loop()
        self._found: Any = _NOTHING  # what the last step left for the Task to wait for ...
        self._ended: BaseException | None = None  # ... or how the handler ended in it

    def expects_message(self) -> bool:
        """Whether the handler waits for a message, so that it hears of the end by itself."""
        # Its Task may still sleep although a step has just left something else to wait for
        inbox = self.inbox
        return inbox.waiter is not None or (inbox.nap is not None and self._found is _NOTHING)

    def on_message(self, source: Source, data: Any) -> None:
        """A message has arrived."""
        inbox = self.inbox
        if not inbox.resting:
            self._keep(source, data)
            return
        try:
            _enter_task(self._loop, self.task)  # type: ignore[arg-type]  # it is set: the handler has run before
        except RuntimeError:  # some other task delivers the message
            self._keep(source, data)
            return
        # The handler waits for this message, and for nothing else: run it to its next wait.
        inbox.stepping = True
        try:
            found = self.context.run(self._send, data)
            if found is MESSAGE:
                return
            self._found = found
        except BaseException as error:  # the end of the handler, good or bad: the Task's to deal with
            self._ended = error
        finally:
            inbox.stepping = False
            _leave_task(self._loop, self.task)  # type: ignore[arg-type]
        inbox.wake()

    def _keep(self, source: Source, data: Any) -> None:
        if self.inbox.put(data):
            source.pause_reading()

    @coroutine
    def drive(self, handler: Coroutine[Any, Any, None], source: Source) -> Generator[Any, Any, None]:
        """Run the handler to its end. Awaited by :attr:`task`."""
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
                    sent = source.take(inbox)
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
