"""Work that is ended when its time is over."""

from __future__ import annotations

import asyncio
from math import inf
from types import TracebackType

from forebay.engine.loop import now
from forebay.errors import DeadlineExceeded
from forebay.policy.deadline import deadline

__all__ = ["fail_after"]


class fail_after:  # noqa: N801 - a word that reads as one in a with statement, as asyncio.timeout does
    """Interrupts what is within when its time is over: an ``async with`` around a :class:`forebay.policy.deadline`.

    ::

        async with fail_after(2.0):
            await client.get("http://orders/7")

    What waits there is cancelled, and the block ends with ``DeadlineExceeded``. Where there is an earlier deadline
    around it, that one counts. A cancellation from elsewhere stays one. Precise to the timers of the loop, about a
    millisecond.

    :param seconds: at least 0; ``inf``: only a deadline that is around it counts.
    :raises DeadlineExceeded: at the end of the block.
    :raises ValueError: ``seconds`` is negative or not a number.
    """

    __slots__ = ("_cancelling", "_handle", "_scope", "_seconds", "_task", "inherited", "over")

    def __init__(self, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError(f"fail_after {seconds} seconds: must be at least 0")
        self._seconds = seconds
        self._handle: asyncio.TimerHandle | None = None
        self.inherited = False  # the deadline around it is the earlier one
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
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("fail_after outside of a task: there is nothing that could be interrupted")
        at = now()
        self._scope = scope = deadline(self._seconds, now=at)
        self.inherited = scope.at < at + self._seconds
        scope.__enter__()
        self._task = task
        self._cancelling = task.cancelling()
        if scope.at != inf:
            self._handle = asyncio.get_running_loop().call_later(max(0.0, scope.at - at), self._expired)

    def leave(self) -> bool:
        """End. True when the time was over, and no one else wants the task cancelled: a ``CancelledError`` that comes
        out of the block is ours then, and is to become :meth:`error`."""
        self._scope.__exit__()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        return self.over and self._task.uncancel() <= self._cancelling

    def error(self) -> DeadlineExceeded:
        """What the block ends with when the time is over."""
        if self.inherited:
            return DeadlineExceeded("not done by the deadline of the caller", inherited=True)
        return DeadlineExceeded(f"not done within {self._seconds:g} s")

    def _expired(self) -> None:
        self.over = True
        self._task.cancel()
