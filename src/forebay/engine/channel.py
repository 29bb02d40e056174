"""A channel between tasks: bounded, closable, and nothing in it is lost when a task is cancelled."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, get_args

from forebay.engine.tasks import QueueEmpty
from forebay.errors import ChannelClosed, ForebayError, Overloaded

__all__ = ["Channel", "ChannelPolicy"]

T = TypeVar("T")

ChannelPolicy = Literal["wait", "drop-oldest", "refuse"]
"""What happens to an item for which a channel has no place: see :class:`Channel`."""


class Channel(Generic[T]):
    """Carries items from any number of tasks to any number of tasks of one loop, each to one of them, in order::

        async for item in channel:
            ...

    Items come out in the order in which they went in. Those who wait, to send or to receive, are served first come
    first served; only the ``_nowait`` methods may take a place, or an item, past one who was let in and has not run
    since. A task that is cancelled while it sends has not sent; one that is cancelled while it receives has taken
    nothing: the item goes to the next in line, in its order. That is so in whatever moment the cancellation comes.

    When there is no place for an item:

    * ``wait``: :meth:`send` waits for one; :meth:`send_nowait` raises :class:`Overloaded`.
    * ``drop-oldest``: the item that would be received next is dropped, and counted.
    * ``refuse``: both raise :class:`Overloaded`, which is counted.

    There is no rendezvous (a maximum of 0): an item that is sent was not yet received, and whoever must know that it
    was needs an answer, through another channel.

    :param maximum: items at most, at least 1.
    :param when_full: ``wait``, ``drop-oldest`` or ``refuse``.
    :param name: in errors and in ``repr()``.
    """

    __slots__ = (
        "_closed",
        "_dropped",
        "_error",
        "_items",
        "_received",
        "_receivers",
        "_refused",
        "_senders",
        "_sent",
        "maximum",
        "name",
        "when_full",
    )

    def __init__(self, maximum: int = 64, *, when_full: ChannelPolicy = "wait", name: str = "channel") -> None:
        if maximum < 1:
            raise ValueError(f"maximum {maximum} of {name}: must be at least 1")
        if when_full not in get_args(ChannelPolicy):
            raise ValueError(f"when_full {when_full!r} of {name}: must be one of {', '.join(get_args(ChannelPolicy))}")
        self.maximum = maximum
        self.when_full = when_full
        self.name = name
        self._items: deque[T] = deque()
        self._senders = _Line(self._let_in)
        self._receivers = _Line(self._let_in)
        self._closed = False
        self._error: ForebayError | None = None
        self._sent = self._received = self._dropped = self._refused = 0

    def __len__(self) -> int:
        """How many items were sent and not yet received."""
        return len(self._items)

    def __bool__(self) -> bool:
        """True, also when it is empty: a channel is not a container."""
        return True

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return (
            f"<Channel {self.name} {state} {len(self._items)}/{self.maximum} {self.when_full} "
            f"senders={len(self._senders)} receivers={len(self._receivers)}>"
        )

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called. There may still be items to receive."""
        return self._closed

    # Sending

    async def send(self, item: T) -> None:
        """Send ``item``; with ``when_full="wait"`` that takes until there is a place for it.

        It does not let other tasks run while there is one.

        :raises ChannelClosed: the channel is closed, or was while this waited; the item was not sent.
        :raises Overloaded: there is no place, and ``when_full`` is ``refuse``.
        """
        if self.when_full != "wait" or self._closed or (not self._senders and len(self._items) < self.maximum):
            self.send_nowait(item)
            return
        if not await self._senders.turn() or self._closed:
            raise self._no_more()
        self._put(item)

    def send_nowait(self, item: T) -> None:
        """Send ``item`` without waiting.

        :raises ChannelClosed: the channel is closed.
        :raises Overloaded: there is no place, and ``when_full`` is not ``drop-oldest``.
        """
        if self._closed:
            raise self._no_more()
        if len(self._items) + self._senders.let_in >= self.maximum:
            if self.when_full != "drop-oldest":
                self._refused += 1
                raise Overloaded("channel", f"{self.name} is full: {self.maximum} items are waiting to be received")
            self._items.popleft()
            self._dropped += 1
        self._put(item)

    def close(self, error: ForebayError | None = None) -> None:
        """Send no more. What was sent can still be received; the first call counts.

        Those who wait to send get :class:`ChannelClosed`.

        :param error: what receivers get when nothing is left, instead of the end.
        """
        if self._closed:
            return
        self._closed = True
        self._error = error
        self._senders.dismiss()
        self._let_in()

    # Receiving

    async def receive(self) -> T:
        """The next item; waits until there is one. It does not let other tasks run while there is.

        :raises ChannelClosed: the channel is closed and nothing is left.
        :raises ForebayError: it was closed with this error and nothing is left.
        """
        if (self._receivers or not self._items) and (self._over or not await self._receivers.turn()):
            raise self._end()
        return self._take()

    def receive_nowait(self) -> T:
        """The next item.

        :raises QueueEmpty: there is none now, or each is about to be taken by one who waited for it.
        :raises ChannelClosed: the channel is closed and nothing is left.
        :raises ForebayError: it was closed with this error and nothing is left.
        """
        if self._over:
            raise self._end()
        if len(self._items) <= self._receivers.let_in:
            raise QueueEmpty(f"{self.name} is empty")
        return self._take()

    def __aiter__(self) -> Channel[T]:
        return self

    async def __anext__(self) -> T:
        if (self._receivers or not self._items) and (self._over or not await self._receivers.turn()):
            raise StopAsyncIteration if self._error is None else self._end()
        return self._take()

    def statistics(self) -> dict[str, Any]:
        """Counts since it was made, and the state now: ``sent = length + received + dropped``."""
        return {
            "length": len(self._items),
            "maximum": self.maximum,
            "sent": self._sent,
            "received": self._received,
            "dropped": self._dropped,
            "refused": self._refused,
            "senders_waiting": len(self._senders),
            "receivers_waiting": len(self._receivers),
            "closed": self._closed,
        }

    @property
    def _over(self) -> bool:
        """Nothing is left, and nothing comes. An item that somebody was let in for is left: they may be cancelled."""
        return self._closed and not self._items

    def _put(self, item: T) -> None:
        self._items.append(item)
        self._sent += 1
        if self._receivers:
            self._let_in()

    def _take(self) -> T:
        item = self._items.popleft()
        self._received += 1
        if self._senders or self._closed:
            self._let_in()
        return item

    def _let_in(self) -> None:
        """After any change: let in as many as there are items to receive and places to fill."""
        receivers, senders = self._receivers, self._senders
        while receivers.waiting and len(self._items) > receivers.let_in:
            receivers.admit()
        if self._over:
            receivers.dismiss()
        while senders.waiting and len(self._items) + senders.let_in < self.maximum:
            senders.admit()

    def _end(self) -> ForebayError:
        # Raised once per receiver: without this each would leave its traceback on it.
        return self._no_more() if self._error is None else self._error.with_traceback(None)

    def _no_more(self) -> ChannelClosed:
        closed = ChannelClosed(f"{self.name} is closed")
        closed.__cause__ = self._error
        return closed


class _Line:
    """Tasks that wait for their turn, first come first served.

    Who is let in has a claim, on an item or on a place, until they run; they take it then, and not before, so that one
    who is cancelled in between has nothing that would have to be put back.

    :param changed: called when somebody has joined or has left without taking.
    """

    __slots__ = ("_changed", "let_in", "waiting")

    def __init__(self, changed: Callable[[], None]) -> None:
        self.waiting: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self.let_in = 0  # how many have a claim and did not run since
        self._changed = changed

    def __len__(self) -> int:
        return len(self.waiting) + self.let_in

    async def turn(self) -> bool:
        """Wait. True: it is the caller's turn, who acts on it at once; False: dismissed."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiting[future] = None
        self._changed()
        try:
            if future.done():  # let in at once, but behind those who were let in before and did not run since
                await asyncio.sleep(0)
            has_claim = await future
        except BaseException:
            self.waiting.pop(future, None)
            if not future.cancelled() and future.done() and future.result():
                self.let_in -= 1
            self._changed()
            raise
        if has_claim:
            self.let_in -= 1
        return has_claim

    def admit(self) -> None:
        """Let the first in. One who was cancelled, and has not run since, leaves the line instead."""
        future, _ = self.waiting.popitem(last=False)
        if not future.done():
            future.set_result(True)
            self.let_in += 1

    def dismiss(self) -> None:
        """Let everybody go who waits."""
        while self.waiting:
            future, _ = self.waiting.popitem(last=False)
            if not future.done():
                future.set_result(False)
