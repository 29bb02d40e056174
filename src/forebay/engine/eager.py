"""Coroutines that are run at once, and get a Task of their own only when they wait."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task  # for those who step tasks: "Extending asyncio" in Python's manual
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from forebay.engine.tasks import Task, start_task

__all__ = ["EagerTasks"]

T = TypeVar("T")

_Steps = Coroutine[Any, Any, None]


class EagerTasks:
    """Runs coroutines up to their first wait, right where they are started; many have ended by then.

    Those that have not go on in a Task. A Task is made ahead for the next one: it is the current task during the first
    steps of every coroutine, so one that ends without a wait has shared it with others. Each has a context of its own.
    """

    __slots__ = ("_loop", "_parked")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parked: _Parked | None = None

    def start(self, steps: _Steps) -> Task[None] | None:
        """Run ``steps``, which returns nothing and deals with its errors itself.

        :return: the Task it goes on in; None when it has ended.
        """
        parked = self._parked
        loop = self._loop
        if parked is None or loop is None or not parked.ready or parked.task.done():
            self._park()
            return start_task(steps)
        try:
            _enter_task(loop, parked.task)
        except RuntimeError:  # some other task is at work, and has started this one
            return start_task(steps)
        context = copy_context()
        try:
            found = context.run(steps.send, None)
        except (StopIteration, asyncio.CancelledError):  # its own: nobody else could have cancelled it yet
            if parked.taken:  # it has cancelled the task that it shared with others
                self._parked = _Parked(loop)
            return None
        finally:
            _leave_task(loop, parked.task)
        self._parked = _Parked(loop)
        return parked.take(_Rest(steps, found, context))

    def step(self, steps: Coroutine[Any, Any, T], context: Context) -> tuple[bool, T | Awaitable[T]]:
        """Run ``steps`` up to its first wait: True and what it has returned, or False and the rest of it, to be awaited
        by what is started with :meth:`start` right after that: for its coroutine it is one and the same task.

        Raises what it raises.

        :param context: that which the caller runs in; ``steps`` has it to itself.
        """
        parked = self._parked
        loop = self._loop
        if parked is None or loop is None or not parked.ready or parked.task.done():
            self._park()
            return False, steps
        try:
            _enter_task(loop, parked.task)
        except RuntimeError:  # some other task is at work
            return False, steps
        waits = False
        try:
            found = steps.send(None)
            waits = True
            return False, _Rest(steps, found, context)
        except StopIteration as end:
            return True, end.value
        finally:
            _leave_task(loop, parked.task)
            if parked.taken and not waits:  # it has cancelled the task that it shared with others
                self._parked = _Parked(loop)

    def _park(self) -> None:
        """Have a Task for the next one, unless one is on its way."""
        parked = self._parked
        loop = asyncio.get_running_loop()
        if parked is None or parked.task.done() or loop is not self._loop:
            self._loop = loop
            self._parked = _Parked(loop)

    async def close(self) -> None:
        """End the Task that was made ahead."""
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.task.cancel()
            await asyncio.wait((parked.task,))


class _Rest(Generic[T]):
    """What is left of a coroutine, which waits for ``found``; it goes on in its own context. ``thrown`` is what came of
    the wait, where that is known before it is awaited."""

    __slots__ = ("_context", "_found", "_steps", "thrown")

    def __init__(self, steps: Coroutine[Any, Any, T], found: Any, context: Context) -> None:
        self._steps = steps
        self._found = found
        self._context = context
        self.thrown: BaseException | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        """Hand what the coroutine waits for to the Task, and what came of it back."""
        steps, run, found = self._steps, self._context.run, self._found
        thrown, self.thrown = self.thrown, None
        if thrown is not None and found is not None and found.cancel(*thrown.args):
            thrown = None  # what it waits for is cancelled, as Task.cancel does it, and tells it
        while True:
            sent = None
            if thrown is None:
                try:
                    sent = yield found
                except BaseException as error:
                    thrown = error
            injected, thrown = thrown, None
            try:
                found = run(steps.send, sent) if injected is None else run(steps.throw, injected)
            except StopIteration as end:
                value: T = end.value
                return value
            finally:
                del injected  # its traceback refers to us


class _Parked:
    """A Task that waits for a coroutine to go on with. It is ``ready`` once it has begun to: a Task that is cancelled
    before its first step never takes it."""

    __slots__ = ("_nap", "_rest", "ready", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._nap: asyncio.Future[None] = loop.create_future()
        self._rest: _Rest[None] | None = None
        self.ready = False
        # A context of its own: else it would keep that of the request at hand
        self.task: Task[None] = Task(self._run(), loop=loop, context=Context())

    @property
    def taken(self) -> bool:
        """Whether it has something to go on with, or was cancelled."""
        return self._nap.done()

    def take(self, rest: _Rest[None]) -> Task[None]:
        """Go on with ``rest``."""
        self._rest = rest
        if not self._nap.done():  # else it has cancelled itself
            self._nap.set_result(None)
        return self.task

    async def _run(self) -> None:
        self.ready = True
        try:
            await self._nap
        except asyncio.CancelledError as error:
            if self._rest is not None:
                self._rest.thrown = error
        rest, self._rest = self._rest, None
        if rest is not None:
            await rest
