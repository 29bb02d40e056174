"""Work that is ended when its time is over."""

from __future__ import annotations

import asyncio
from math import inf
from types import TracebackType
from typing import Any

from forebay.engine.loop import now
from forebay.engine.tasks import task_of
from forebay.errors import DeadlineExceeded
from forebay.policy.deadline import CURRENT

__all__ = ["TimeLimits", "fail_after"]

_EARLY = 0.002
"""Seconds by which timers may be early: they are in milliseconds."""


class fail_after:  # noqa: N801 - a word that reads as one in a with statement, as asyncio.timeout does
    """Interrupts what is within when its time is over: an ``async with`` around a :class:`forebay.policy.deadline`.

    ::

        async with fail_after(2.0):
            await client.get("http://orders/7")

    What waits there is cancelled, and the block ends with ``DeadlineExceeded``. Where there is an earlier deadline
    around it, that one counts. A cancellation from elsewhere stays one. Precise to the timers of the loop, about a
    millisecond. Each is used once; and not around the ``yield`` of a generator, where it would be the deadline of
    whoever iterates over that.

    :param seconds: at least 0; ``inf``: only a deadline that is around it counts.
    :ivar at: when the time is over, once it has begun.
    :ivar inherited: that is the deadline around it.
    :ivar over: the time is over.
    :raises DeadlineExceeded: at the end of the block.
    :raises ValueError: ``seconds`` is negative or not a number.
    :raises RuntimeError: it was entered already.
    """

    __slots__ = ("_before", "_cancelling", "_handle", "_limits", "_seconds", "_task", "at", "inherited", "over")

    def __init__(self, seconds: float, _limits: TimeLimits | None = None) -> None:
        if not seconds >= 0:
            raise ValueError(f"fail_after {seconds} seconds: must be at least 0")
        self._seconds = seconds
        self._limits = _limits
        self._task: asyncio.Task[Any] | None = None
        self._handle: asyncio.TimerHandle | None = None
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
        if (self.leave() and kind is asyncio.CancelledError) or self.owns(error):
            raise self.error() from error

    def enter(self, at: float | None = None) -> None:
        """Begin, in the current task. What ``async with`` does without the cost of its coroutines.

        :param at: the time; None: it is looked at.
        """
        loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] | None = task_of(loop)
        if task is None:
            raise RuntimeError("fail_after outside of a task: there is nothing that could be interrupted")
        if self._task is not None:
            raise RuntimeError(f"{self!r} was entered already")
        if at is None:
            at = now()
        self._task = task
        self._cancelling = task.cancelling()
        end = at + self._seconds
        outer = CURRENT.get()
        if outer < end:
            self.inherited = True
            end = outer
        self.at = end
        if end != inf and (self.inherited or self._limits is None or not self._limits.add(self, loop)):
            self._handle = loop.call_later(max(0.0, end - at), self.expire)
        self._before = CURRENT.set(end)

    def leave(self) -> bool:
        """End. True when the time was over, and no one else wants the task cancelled: a ``CancelledError`` that comes
        out of the block is ours then, and is to become :meth:`error`."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        elif self._limits is not None:
            self._limits.discard(self)
        try:  # noqa: SIM105 - suppress() would cost as much as all the rest
            CURRENT.reset(self._before)
        except ValueError:
            pass  # a generator, or a coroutine, that is closed from elsewhere: the context it began in is out of reach
        if not self.over or self._task is None:
            return False
        return self._task.uncancel() <= self._cancelling

    def owns(self, error: BaseException | None) -> bool:
        """Whether ``error``, which came out of the block, speaks of the deadline of the caller, and that is this one:
        what is within may look at it a little earlier than we do."""
        return (
            isinstance(error, DeadlineExceeded) and error.inherited and not self.inherited and now() >= self.at - _EARLY
        )

    def error(self) -> DeadlineExceeded:
        """What the block ends with when the time is over."""
        if self.inherited:
            return DeadlineExceeded("not done by the deadline of the caller", inherited=True)
        return DeadlineExceeded(f"not done within {self._seconds:g} s")

    def expire(self) -> None:
        """The time is over."""
        self.over = True
        if self._task is not None:
            self._task.cancel()


class TimeLimits:
    """Makes limits of one length, which share one timer: those that begin later end later, so that only the first has
    to be waited for. A timer of its own for each costs more than all else about it. They are those of one loop, until
    it is closed; in other loops that run meanwhile, each limit has its own timer.

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

    def add(self, limit: fail_after, loop: asyncio.AbstractEventLoop) -> bool:
        """Called by ``limit`` when it begins, on ``loop``. False: it needs a timer of its own."""
        if loop is not self._loop:
            if self._loop is not None and not self._loop.is_closed():
                return False
            self._active.clear()
            self._loop, self._timer = loop, None
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._expired)
        self._active[limit] = None
        return True

    def discard(self, limit: fail_after) -> None:
        """Called by ``limit`` when it ends."""
        self._active.pop(limit, None)

    def _expired(self) -> None:
        at = now()
        self._timer = None
        due: list[fail_after] = []
        for limit in self._active:
            left = limit.at - at
            if left > 0.0005:  # timers are in milliseconds
                self._timer = asyncio.get_running_loop().call_later(left, self._expired)
                break
            due.append(limit)
        for limit in due:  # to ask a dict for its first again and again takes quadratic time
            del self._active[limit]
            limit.expire()
