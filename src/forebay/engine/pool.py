"""A pool of what is dialled: connections, sessions, clients."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from contextvars import copy_context
from math import inf
from types import CodeType
from typing import Any, Self, TypeVar

from forebay.engine.holders import PROGRAM_FILES, Taken, outside
from forebay.engine.loop import now, ticker
from forebay.engine.pool_borrowed import Borrowed
from forebay.engine.pool_work import PoolWaiter, PoolWork
from forebay.engine.tasks import current_task, task_of
from forebay.policy.deadline import deadline
from forebay.policy.pool_actions import (
    ClosedBecause,
    Place,
    PlaceState,
)
from forebay.policy.pool_settings import PoolSettings
from forebay.service import State

__all__ = ["Pool"]

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

_HELD = PlaceState.HELD

_getframe = sys._getframe


class Pool(PoolWork[K, R]):
    """Lends what is dialled, and uses it again. A :class:`~forebay.service.Service`; also ``async with Pool(...)``.

    Who is served when not all can be is told at :class:`~forebay.policy.pool.PoolPlan`, what the limits are at
    :class:`~forebay.policy.pool_settings.PoolSettings`. To be used on one loop, from its thread.

    A dial runs in a task of the pool, with the context variables of who started the pool: when who wanted it is
    cancelled, it goes on, and what it brings is for the next one, or idle. Who is cancelled never keeps anything.

    :param dial: makes a resource of a key. What it raises reaches the one that it dialled for.
    :param close: ends a resource, at once or in the background. It is called once for each, whoever has ended it; what
        it raises is logged.
    :param check: whether an idle resource still works; one that raises does not.
    :param is_open: whether a resource is still open, as far as this side knows: asked whenever one is borrowed or
        released, so it must be quick. One for which it raises is not; that is logged.
    :param keys: those of which idle ones are kept ready (``prewarm``, ``min_idle``); see also :meth:`keep`.
    """

    __slots__ = ("_first_keys", "state")

    def __init__(
        self,
        dial: Callable[[K], Awaitable[R]],
        close: Callable[[R], Awaitable[object] | None],
        check: Callable[[R], Awaitable[bool]] | None = None,
        settings: PoolSettings | None = None,
        *,
        name: str = "pool",
        is_open: Callable[[R], bool] | None = None,
        keys: Iterable[K] = (),
        enabled: bool = True,
    ) -> None:
        super().__init__(dial, close, check, settings or PoolSettings(), name, is_open, enabled)
        self.state = State.NEW
        self._first_keys = tuple(keys)

    def __repr__(self) -> str:
        plan = self._plan
        return f"<Pool {self.name} {self.state} total={plan.total} idle={plan.idle} waiting={plan.waiting}>"

    # Its life

    async def start(self) -> None:
        """Begin, and return when what is to be there from the start was dialled, or could not be.

        :raises RuntimeError: it was started before.
        """
        if self.state is not State.NEW:
            raise RuntimeError(f"pool {self.name} was started before")
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self.state = State.RUNNING
        self.keep(*self._first_keys)
        try:
            async with asyncio.timeout(self._plan.settings.dial_timeout):
                await self._tasks.join()
        except TimeoutError:
            pass  # what is to be idle is tried again and again, and who wants it need not wait for all of it
        except BaseException:
            await self.stop()
            raise

    async def drain(self) -> None:
        """Refuse who comes, close what is idle, and return when who waits was served and all has come back."""
        if self.state is State.RUNNING:
            self.state = State.DRAINING
            self._do(self._plan.drain(now()))
        if self.state is State.DRAINING:
            await self._quiet.wait()
            await self._closings.join()

    async def stop(self) -> None:
        """Refuse who waits and close everything, under its holders too; who releases something later does no harm."""
        if self.state is not State.STOPPED:
            self.state = State.STOPPED
            self._do(self._plan.stop(now()))
        self._quiet.open()
        if self.due_at != inf:
            ticker().discard(self)
        await self._tasks.cancel()
        await self._closings.join()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Borrowing

    def acquire(self, key: K, timeout: float | None = None, deadline: float | None = None) -> Coroutine[Any, Any, R]:
        """A resource of ``key``, to be awaited, which is the caller's until :meth:`release`.

        The line that calls this is the one that is told of a resource that is held for too long.

        :param timeout: seconds to wait at most; None: ``wait_timeout`` of the settings.
        :param deadline: on the clock of :data:`~forebay.engine.loop.now`; what is idle is given after it, too. None:
            the current one (:class:`forebay.policy.deadline`), if there is any.
        :raises PoolExhausted: nothing came free in time, or too many wait already. It names the holders.
        :raises ConnectTimeout: one was being dialled, but did not come about in time.
        :raises DeadlineExceeded: nothing came free before the deadline.
        :raises Overloaded: the pool drains or is stopped.
        :raises Exception: whatever the dial raised.
        """
        frame = _getframe(1)
        code, offset = frame.f_code, frame.f_lasti
        if code.co_filename not in PROGRAM_FILES:
            code, offset = outside(frame)
        return self._acquire(key, timeout, deadline, code, offset)

    async def _acquire(self, key: K, timeout: float | None, deadline: float | None, code: CodeType, offset: int) -> R:
        place = self._plan.take(key, now())
        if place is None or (self._is_open is not None and not self._open(place)):
            place = await self._wait(key, timeout, deadline, code, offset, place)
        else:
            place.holder = (code, offset, task_of(self._loop))
        resource: R = place.resource
        return resource

    async def obtain(self, key: K, timeout: float | None, deadline: float | None, code: CodeType, offset: int) -> Place:
        """As :meth:`acquire`, for :class:`Borrowed`."""
        place = self._plan.take(key, now())
        if place is None or (self._is_open is not None and not self._open(place)):
            return await self._wait(key, timeout, deadline, code, offset, place)
        place.holder = (code, offset, task_of(self._loop))
        return place

    def try_acquire(self, key: K) -> R | None:
        """An idle resource of ``key`` that need not be checked first; None: there is none. It never waits, and
        nothing is dialled."""
        place = self._plan.take(key, now())
        if place is not None and self._is_open is not None:
            place = self._first_open(key, place)
        if place is None:
            return None
        frame = _getframe(1)
        code, offset = frame.f_code, frame.f_lasti
        if code.co_filename not in PROGRAM_FILES:
            code, offset = outside(frame)
        place.holder = (code, offset, task_of(self._loop))
        resource: R = place.resource
        return resource

    def borrow(self, key: K, timeout: float | None = None, deadline: float | None = None) -> Borrowed[K, R]:
        """A resource of ``key`` for the length of a block: ``async with pool.borrow(key) as resource:``.

        When the block is left by an exception, it is not used again: who knows what is left in it. Parameters and
        errors are those of :meth:`acquire`.
        """
        frame = _getframe(1)
        code, offset = frame.f_code, frame.f_lasti
        if code.co_filename not in PROGRAM_FILES:
            code, offset = outside(frame)
        return Borrowed(self, key, timeout, deadline, code, offset)

    def release(self, resource: R, reusable: bool = True) -> None:
        """Give ``resource`` back. One that was discarded, reclaimed, or closed by :meth:`stop` meanwhile is let be.

        :param reusable: False: it is closed.
        :raises RuntimeError: nobody holds it: it was released before, or is not of this pool.
        """
        place = self._places.get(id(resource))
        if place is None or place.state is not _HELD:
            if self._parted.pop(id(resource), None) is None:
                raise RuntimeError(self._not_held(resource, place))
            return
        if reusable and self._is_open is None:
            actions = self._plan.release(place, now())
            if actions:
                self._do(actions)
        else:
            self._release(place, reusable)

    def discard(self, resource: R) -> None:
        """``resource`` has ended by itself. It is closed, and its place is free at once, also while somebody holds it,
        who may release it later. Nothing happens when it is not of this pool any more."""
        place = self._places.get(id(resource))
        if place is not None:
            self._do(self._plan.discard(place, now()))

    def _not_held(self, resource: R, place: Place | None) -> str:
        if place is None:
            return f"{resource!r:.100} is not of pool {self.name}, or was released before and closed"
        return f"{resource!r:.100} of pool {self.name} was released before: it is {place.state}"

    # Waiting

    async def _wait(
        self, key: K, timeout: float | None, deadline: float | None, code: CodeType, offset: int, closed: Place | None
    ) -> Place:
        """A place of ``key`` that is held by now, after as long as it takes."""
        if self.state is State.NEW:
            raise RuntimeError(f"pool {self.name} is not started")
        taken: Taken = (code, offset, current_task())
        if self._is_open is not None:
            found = self._first_open(key, closed)
            if found is not None:
                found.holder = taken
                return found
            for one in self._plan.idle_of(key):  # they may still be given, once they are checked
                if not self._open(one):
                    self._do(self._plan.discard(one, now()))
        waiter, seconds = self._waiter(taken, timeout, deadline)
        self._do(self._plan.want(key, waiter, now()))
        if not waiter.outcome.done() and seconds < inf:
            waiter.timer = self._loop.call_later(seconds, self._expire, waiter)
        try:
            outcome = await waiter.outcome
        except BaseException:  # cancelled, or its coroutine is thrown away
            self._plan.leave(waiter)
            if waiter.outcome.done() and not waiter.outcome.cancelled():
                given = waiter.outcome.result()
                if isinstance(given, Place):  # both came in the same turn
                    self.put_back(given, reusable=True)
            raise
        finally:
            if waiter.timer is not None:
                waiter.timer.cancel()
        if isinstance(outcome, Place):
            return outcome
        try:
            raise outcome
        finally:  # its traceback has this frame: together they would stay until the garbage is collected
            del outcome, waiter

    def _waiter(self, taken: Taken, timeout: float | None, until: float | None) -> tuple[PoolWaiter, float]:
        """A waiter, and the seconds that it waits at most."""
        if until is None:
            until = deadline.current()
        seconds = self._plan.settings.wait_timeout if timeout is None else timeout
        if seconds is None:
            seconds = inf
        left = until - now()
        future = asyncio.get_running_loop().create_future()  # the pool itself has no loop if it never started
        return PoolWaiter(future, taken, left < seconds), max(0.0, min(left, seconds))

    def _expire(self, waiter: PoolWaiter) -> None:
        self._do(self._plan.expire(waiter, now()))

    def _first_open(self, key: K, place: Place | None) -> Place | None:
        """``place``, which was just taken, or else the first idle one that is still open."""
        while place is not None and not self._open(place):
            place.holder = None
            self._do(self._plan.release(place, now(), ClosedBecause.ENDED))
            place = self._plan.take(key, now())
        return place

    # At work

    def resize(self, settings: PoolSettings) -> None:
        """Go by ``settings`` from now on: see :meth:`PoolPlan.resize <forebay.policy.pool.PoolPlan.resize>`."""
        self._do(self._plan.resize(settings, now()))
        self._look_after(self._plan.due)

    def keep(self, *keys: K) -> None:
        """Have ``min_idle`` idle ones of each of ``keys`` from now on, and ``prewarm`` soon."""
        if self.state is State.NEW:
            self._first_keys += keys
            return
        self._do(self._plan.keep(keys, now()))
        self._look_after(self._plan.due)

    def forget(self, key: K) -> None:
        """Keep no idle ones of ``key`` any more; what is there falls to the idle timeout."""
        if self.state is State.NEW:
            self._first_keys = tuple(one for one in self._first_keys if one != key)
        self._do(self._plan.forget(key, now()))

    @property
    def settings(self) -> PoolSettings:
        """What it goes by; see :meth:`resize`."""
        return self._plan.settings

    @property
    def enabled(self) -> bool:
        """Whether the limits hold; with False nobody waits for a place."""
        return self._plan.enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._plan.enabled = value
        self.resize(self._plan.settings)

    # Telling

    def statistics(self) -> dict[str, Any]:
        """What there is now, of each key too, and counts since the start."""
        return {"name": self.name, "state": str(self.state)} | self._plan.statistics()
