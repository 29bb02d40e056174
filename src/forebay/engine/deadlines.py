"""Work that is ended when its time is over."""

from __future__ import annotations

import asyncio
from math import inf
from types import TracebackType

from forebay.engine.loop import now
from forebay.engine.tasks import current_task
from forebay.errors import DeadlineExceeded
from forebay.policy.deadline import deadline

__all__ = ["TimeLimits", "fail_after"]


class fail_after:  # noqa: N801 - a word that reads as one in a with statement, as asyncio.timeout does
    """Interrupts what is within when its time is over: an ``async with`` around a :class:`forebay.policy.deadline`.

    ::

        async with fail_after(2.0):
            await client.get("http://orders/7")

    What waits there is cancelled, and the block ends with ``DeadlineExceeded``. Where there is an earlier deadline
    around it, that one counts. A cancellation from elsewhere stays one. Precise to the timers of the loop, about a
    millisecond.

    :param seconds: at least 0; ``inf``: only a deadline that is around it counts.
    :ivar at: when the time is over, once it has begun.
    :ivar inherited: that is the deadline around it.
    :ivar over: the time is over.
    :raises DeadlineExceeded: at the end of the block.
    :raises ValueError: ``seconds`` is negative or not a number.
    """

    __slots__ = ("_before", "_cancelling", "_handle", "_limits", "_seconds", "_task", "at", "inherited", "over")

    def __init__(self, seconds: float, _limits: TimeLimits | None = None) -> None:
        if not seconds >= 0:
            raise ValueError(f"fail_after {seconds} seconds: must be at least 0")
        self._seconds = seconds
        self._limits = _limits
        self._handle: asyncio.TimerHandle | None = None
        self.at = inf
        self.inherited = False
        self.over = False

    def __repr__(self) -> str:
        return f"<fail_after {self._seconds:g} s{' over' if self.over else ''}>"

    async def __aenter__(self) -> fail_after:
        self.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.leave() and kind is asyncio.CancelledError:
            raise self.error() from error

    def enter(self) -> None:
        """Begin, in the current task. What ``async with`` does without the cost of its coroutines."""
        task = current_task()
        if task is None:
            raise RuntimeError("fail_after outside of a task: there is nothing that could be interrupted")
        at = now()
        self._task = task
        self._cancelling = task.cancelling()
        end = at + self._seconds
        outer = deadline.current()
        if outer < end:
            self.inherited = True
            end = outer
        self.at = end
        if self._limits is not None and not self.inherited:
            self._limits.add(self)
        elif end != inf:
            self._handle = asyncio.get_running_loop().call_later(max(0.0, end - at), self.expire)
        self._before = deadline.begin(end)

    def leave(self) -> bool:
        """End. True when the time was over, and no one else wants the task cancelled: a ``CancelledError`` that comes
        out of the block is ours then, and is to become :meth:`error`."""
        deadline.end(self._before)
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        elif self._limits is not None:
            self._limits.discard(self)
        return self.over and self._task.uncancel() <= self._cancelling

    def error(self) -> DeadlineExceeded:
        """What the block ends with when the time is over."""
        if self.inherited:
            return DeadlineExceeded("not done by the deadline of the caller", inherited=True)
        return DeadlineExceeded(f"not done within {self._seconds:g} s")

    def expire(self) -> None:
        """The time is over."""
        self.over = True
        self._task.cancel()


class TimeLimits:
    """Makes limits of one length, which share one timer: those that begin later end later, so that only the first has
    to be waited for. A timer of its own for each costs more than all else about it.

    :param seconds: above 0, and finite.
    """

    __slots__ = ("_active", "_loop", "_timer", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._active: dict[fail_after, None] = {}  # in the order of their ends
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._active)

    def new(self) -> fail_after:
        """One that has not begun."""
        return fail_after(self.seconds, self)

    def add(self, limit: fail_after) -> None:
        """Called by ``limit`` when it begins."""
        loop = asyncio.get_running_loop()
        if self._timer is None or loop is not self._loop:
            if loop is not self._loop:  # the one before has ended
                self._active.clear()
                self._loop = loop
            self._timer = loop.call_later(self.seconds, self._expired)
        self._active[limit] = None

    def discard(self, limit: fail_after) -> None:
        """Called by ``limit`` when it ends."""
        self._active.pop(limit, None)

    def _expired(self) -> None:
        at = now()
        self._timer = None
        active = self._active
        while active:
            limit = next(iter(active))
            left = limit.at - at
            if left > 0.0005:  # timers are in milliseconds
                self._timer = asyncio.get_running_loop().call_later(left, self._expired)
                return
            del active[limit]
            limit.expire()
