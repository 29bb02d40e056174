"""An event loop on which no time is waited for: it is moved to the next timer when nothing else can happen."""

from __future__ import annotations

import asyncio
import heapq
import math
import os
import selectors
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import Context
from itertools import count
from typing import Any, TypeVar, TypeVarTuple

from forebay.engine.tasks import place_of_task

__all__ = ["VirtualLoop"]

T = TypeVar("T")
_Ts = TypeVarTuple("_Ts")

_SHORT = 0.2
"""Seconds. Jumps up to here, such as the ticks of a timer wheel, do not wait again for sockets that were silent."""

_LOOKS = 3  # at the sockets before each jump, giving way to the kernel's own threads between them
_NAMED = 20  # tasks at most in an error


class _Timer(asyncio.TimerHandle):
    """Timers of one moment run in the order in which they were set: a heap alone does not keep it."""

    __slots__ = ("number",)
    _when: float  # asyncio's own
    _scheduled: bool

    def __init__(self, number: int, when: float, callback: Callable[..., Any], *rest: Any) -> None:
        super().__init__(when, callback, *rest)
        self.number = number

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, _Timer):
            return NotImplemented
        return (self._when, self.number) < (other._when, other.number)


class VirtualLoop(asyncio.SelectorEventLoop):
    """The standard library's loop, on a time that is only a number.

    :param read: the virtual time.
    :param move: set it.
    :param real: the real time.
    :param autojump: see :class:`~forebay.testing.virtual_clock.VirtualClock`.
    :param patience: likewise.
    """

    _scheduled: list[_Timer]  # the heap of timers, as the standard library has had it since Python 3.4
    _clock_resolution: float

    def __init__(
        self,
        read: Callable[[], float],
        move: Callable[[float], None],
        real: Callable[[], float],
        autojump: float,
        patience: float,
    ) -> None:
        self._read = read
        self._move = move
        self._numbers = count()
        self.held = 0  # by whom: work of other threads, whose end is awaited
        self._settling: list[asyncio.Future[None]] = []
        super().__init__(_Selector(self, real, autojump, patience))

    def time(self) -> float:
        return self._read()

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = _Timer(next(self._numbers), when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def waits_for_ever(self) -> bool:
        """There is no timer but those that never fire, such as a timeout of ``inf``."""
        return self._scheduled[0]._when == math.inf if self._scheduled else True

    def jump(self) -> None:
        """Move the time to the next timer, which there is."""
        self._move(max(self._read(), self._scheduled[0]._when))

    def see_what_is_due(self) -> None:
        """Before timers are looked at: what is due now has to be before the end of "now", also where floats are
        coarse."""
        self._clock_resolution = max(1e-9, 2 * math.ulp(self._read()))

    # Who must be waited for

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the time where it is."""
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    def run_in_executor(self, executor: Executor | None, func: Callable[[*_Ts], T], *args: *_Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self.held += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _future: object) -> None:
        self.held -= 1

    async def shutdown_default_executor(self, *args: Any, **more: Any) -> None:
        with self.hold():
            await super().shutdown_default_executor(*args, **more)

    # Settling

    async def settle(self) -> None:
        """Return when nothing more can run without that time passes."""
        future = self.create_future()
        self._settling.append(future)
        await future

    def settled(self) -> bool:
        """Nothing more can run: tell those who wait for it. Whether there was somebody."""
        told = False
        for future in self._settling:
            if not future.done():
                future.set_result(None)
                told = True
        self._settling.clear()
        return told

    def waiting(self) -> str:
        """The tasks that wait, and where; for an error."""
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        lines = [f"{task.get_name()} at {place_of_task(task)}" for task in tasks[:_NAMED]]
        if len(tasks) > _NAMED:
            lines.append(f"and {len(tasks) - _NAMED} more")
        return "; ".join(lines) or "no task at all"


class _Selector(selectors.DefaultSelector):
    """Looks at the sockets, and waits for nothing that is not outside of the loop's thread."""

    def __init__(self, loop: VirtualLoop, real: Callable[[], float], autojump: float, patience: float) -> None:
        super().__init__()
        self._loop = loop
        self._real = real
        self._autojump = autojump
        self._patience = patience
        self._noisy = False  # something was on the sockets since they were last waited for in vain

    def register(self, *args: Any, **more: Any) -> selectors.SelectorKey:
        self._noisy = True
        return super().register(*args, **more)

    def modify(self, *args: Any, **more: Any) -> selectors.SelectorKey:
        self._noisy = True
        return super().modify(*args, **more)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if timeout and self._loop.waits_for_ever():
            timeout = None
        if not found and (timeout is None or timeout > 0):
            found = self._outside(timeout)
        if found:
            self._noisy = True
        self._loop.see_what_is_due()
        return found

    def _outside(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing is ready on the loop. What comes from outside of it, else nothing: then the time was moved."""
        loop = self._loop
        if loop.held:
            return self._events(f"a thread that the loop waits for has worked for {self._patience} real seconds")
        if len(self.get_map()) > 1 and (found := self._sockets(timeout)):  # the first is the loop's own
            return found
        if loop.settled():
            return []
        if timeout is None:
            return self._events(
                f"nothing can happen any more: no timer is set, and no socket spoke for {self._patience} s"
            )
        loop.jump()
        return []

    def _sockets(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        for _ in range(_LOOKS):
            os.sched_yield()  # what was sent through the kernel may be on its way in one of its own threads
            if found := super().select(0):
                return found
        if self._autojump and (self._noisy or timeout is None or timeout > _SHORT):
            if found := super().select(self._autojump):
                return found
            self._noisy = False
        return []

    def _events(self, why: str) -> list[tuple[selectors.SelectorKey, int]]:
        """What comes within the real seconds that a test has patience for.

        :raises RuntimeError: nothing did.
        """
        end = self._real() + self._patience
        while (left := end - self._real()) > 0:
            if found := super().select(left):
                return found
        raise RuntimeError(f"{why}; waiting: {self._loop.waiting()}")
