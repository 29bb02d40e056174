"""One call for all who want the same at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from math import inf
from types import TracebackType
from typing import Generic, TypeVar

import structlog

from forebay.engine.tasks import Task, start_task
from forebay.policy.deadline import deadline

__all__ = ["SingleFlight"]

log = structlog.get_logger("forebay.engine")

T = TypeVar("T")


class _Flight(Generic[T]):
    """A call under way, and how many wait for it."""

    __slots__ = ("abandoned", "task", "traceback", "waiting")

    def __init__(self) -> None:
        self.abandoned = False
        self.task: Task[T] | None = None
        self.waiting = 0
        self.traceback: TracebackType | None = None


class SingleFlight(Generic[T]):
    """Lets concurrent callers of one key share one call. To be used from one loop at a time.

    The call runs in a Task of its own, with the context variables of who came first, but for the deadline. It is kept
    only while it runs: nothing is remembered of a key once its call has ended. ``started`` counts the calls, ``shared``
    the callers that joined one.

    A call must not wait for the same key itself: it would wait for its own end. Where its own Task does, that raises
    ``RuntimeError``.
    """

    __slots__ = ("_flights", "shared", "started")

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}
        self.started = 0
        self.shared = 0

    def __len__(self) -> int:
        """How many calls are under way that can be joined."""
        return len(self._flights)

    def __repr__(self) -> str:
        return f"<SingleFlight under way={len(self)} started={self.started} shared={self.shared}>"

    async def run(self, key: Hashable, function: Callable[[], Awaitable[T]]) -> T:
        """What ``function()`` comes to; that of another caller where one of ``key`` is under way.

        A caller that is cancelled leaves the others alone. With the last one the call is cancelled too, and that caller
        goes on when it has ended, as if it had awaited it itself; who comes meanwhile begins anew.

        :raises Exception: whatever the call raised, the same error for all who wait.
        """
        flight = self._flights.get(key)
        if flight is None:
            name = f"single flight {key!r:.80}"  # before anything is kept: it may raise
            self.started += 1
            flight = self._flights[key] = _Flight()
            flight.task = start_task(self._call(key, flight, function), name=name)
            flight.task.add_done_callback(lambda task: self._ended(key, flight, task))
        else:
            self.shared += 1
        task = flight.task
        assert task is not None  # it has one until it has ended, and then it is not found any more
        if task is asyncio.current_task():
            raise RuntimeError(f"the call for {key!r:.80} waits for itself")
        flight.waiting += 1
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            if flight.waiting == 1 and not task.done():
                self._leave(key, flight)
                flight.abandoned = True
                task.cancel()
                await asyncio.wait((task,))
            raise
        finally:
            flight.waiting -= 1
            traceback = flight.traceback
            if not flight.waiting:
                flight.traceback = None  # its frames know the flight
        if not task.cancelled() and (error := task.exception()) is not None:
            try:
                raise error.with_traceback(traceback)  # else each of them would make it longer
            finally:
                del error, traceback, task, flight  # or the error would know itself, by this frame
        return task.result()

    def forget(self, key: Hashable) -> None:
        """Let whoever comes next begin anew. Who waits for the call under way still gets what it comes to."""
        self._flights.pop(key, None)

    async def _call(self, key: Hashable, flight: _Flight[T], function: Callable[[], Awaitable[T]]) -> T:
        deadline.begin(inf)  # that of who came first is not that of the others
        try:
            return await function()
        except BaseException as error:
            flight.traceback = error.__traceback__
            raise
        finally:
            self._leave(key, flight)

    def _ended(self, key: Hashable, flight: _Flight[T], task: Task[T]) -> None:
        flight.task = None  # which knows the error, whose frames know the flight
        self._leave(key, flight)  # it may have been cancelled before it began
        if not task.cancelled() and (error := task.exception()) is not None and flight.abandoned:
            log.warning("shared call failed after nobody waited for it any more", task=task.get_name(), exc_info=error)

    def _leave(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
