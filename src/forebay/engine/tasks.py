"""Tasks that have an owner, and a gate to wait at."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterable
from contextvars import Context
from typing import Any, TypeVar

import structlog

__all__ = [
    "Event",
    "Future",
    "Gate",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "Task",
    "Tasks",
    "current_task",
    "gather",
    "place_of_task",
    "start_task",
    "task_of",
    "unfinished",
]

log = structlog.get_logger("forebay.engine")

T = TypeVar("T")

if sys.version_info >= (3, 12):
    from asyncio import current_task

    task_of = current_task  # of a loop
else:  # there asyncio's is written in Python, and takes half of what a free lock costs
    from asyncio import get_running_loop
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]  # not public, which Python 3.11 keeps for good

    task_of: Any = _current_tasks.get

    def current_task(_of: Any = task_of, _loop: Any = get_running_loop) -> asyncio.Task[Any] | None:
        """The task that is running; None outside of tasks."""
        task: asyncio.Task[Any] | None = _of(_loop())
        return task


Task = asyncio.Task
Future = asyncio.Future
Event = asyncio.Event
Queue = asyncio.Queue
QueueEmpty = asyncio.QueueEmpty
QueueFull = asyncio.QueueFull
gather = asyncio.gather


def start_task(coro: Coroutine[Any, Any, T], name: str | None = None, context: Context | None = None) -> Task[T]:
    """Run ``coro`` as a Task, from the loop's next turn on. It is not started eagerly where Python can (3.12), so that
    the order of things is the same everywhere; what gains from that has :class:`~forebay.engine.eager.EagerTasks`.

    The caller keeps the Task and looks at its outcome. Whoever cannot, spawns it on a :class:`Tasks`.

    :param context: the context it runs in; a copy of the current one when not given.
    """
    # the loop's create_task would ask its task factory, and costs a fifth more
    return asyncio.Task(coro, loop=asyncio.get_running_loop(), name=name, context=context)


async def unfinished(tasks: Iterable[Task[Any]], seconds: float) -> set[Task[Any]]:
    """Wait until all of ``tasks`` have ended, but at most so long; those that have not. None is cancelled."""
    waiting = set(tasks)
    if not waiting:
        return waiting
    _, pending = await asyncio.wait(waiting, timeout=seconds)
    return pending


def place_of_task(task: Task[Any]) -> str:
    """Where a task waits, as ``file:line``: the innermost coroutine that is written in Python."""
    found = "unknown"
    coro: Any = task.get_coro()
    while coro is not None:
        frame = getattr(coro, "cr_frame", None)
        if frame is not None and not frame.f_code.co_filename.endswith(("asyncio/tasks.py", "asyncio/locks.py")):
            found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        coro = getattr(coro, "cr_await", None)
    return found


class Tasks:
    """Owns background tasks: keeps them alive, logs those that fail, and ends them together."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str, context: Context | None = None) -> Task[T]:
        """Run ``coro``. When it raises, that is logged with ``name``; nobody needs to await it."""
        task = start_task(coro, name, context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background task failed", task=task.get_name(), exc_info=error)

    async def cancel(self) -> None:
        """Cancel every task and return when all have ended. The calling task, if it is one of them, is left out."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def join(self) -> None:
        """Return when no task is left. The calling task, if it is one of them, is left out."""
        current = asyncio.current_task()
        while tasks := [task for task in self._tasks if task is not current]:
            await asyncio.wait(tasks)


class Gate:
    """Something to wait at that opens and closes again, any number of times."""

    __slots__ = ("_event",)

    def __init__(self, *, is_open: bool = False) -> None:
        self._event = asyncio.Event()
        if is_open:
            self._event.set()

    @property
    def is_open(self) -> bool:
        """Whether :meth:`wait` would return at once."""
        return self._event.is_set()

    def open(self) -> None:
        """Let everybody through, those who wait and those who come, until it is closed."""
        self._event.set()

    def close(self) -> None:
        """Let nobody through until it is opened."""
        self._event.clear()

    async def wait(self) -> None:
        """Return when the gate is open, at once when it is already.

        A gate that is closed again before a waiter ran keeps it waiting.
        """
        while not self._event.is_set():
            await self._event.wait()
