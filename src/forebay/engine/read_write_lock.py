"""A lock that many may hold to read, or one to write."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, TypeAlias

from forebay.engine.tasks import Task, current_task
from forebay.errors import DeadlineExceeded, Overloaded, RetryClass

__all__ = ["ReadWriteLock"]

_Owner: TypeAlias = "Task[Any] | None"
_Line: TypeAlias = "OrderedDict[asyncio.Future[bool], _Owner]"

_NAMED = 5  # holders at most in an error


class ReadWriteLock:
    """Any number of tasks hold it to read, or exactly one to write::

        async with lock.reading():
            ...
        async with lock.writing(timeout=2.0):
            ...

    It prefers writers (Courtois, Heymans and Parnas, 1971: the second problem): while one waits, readers that come have
    to wait too, so that a stream of readers does not keep it out for ever. Writers have their turns in the order in
    which they came. So that a stream of writers does not keep readers out for ever either, all readers that wait are
    let in together once ``patience`` writers were let in past them.

    Who is let in holds the lock from that moment on, not from when its task runs: nobody comes in between. A task that
    is cancelled in whatever moment, or whose time is over, neither holds the lock nor its place in the line.

    It is held by tasks. It is not reentrant: a task that holds it, either way, and asks for it again gets
    ``RuntimeError``, where it would wait for itself. There is no upgrade from reading to writing: two readers who want
    it would wait for each other. To be used from one loop.

    :param max_waiting: tasks that wait at most, readers and writers together.
    :param patience: writers let in past readers that wait, before it is their turn; at least 1. A turn of readers takes
        as long as the slowest of them, so that small numbers make it fair, and large ones quick to write.
    :param name: in errors and in ``repr()``.
    :raises ValueError: a parameter is out of range.
    """

    __slots__ = (
        "_passed",
        "_readers",
        "_readers_line",
        "_reading",
        "_writer",
        "_writers_line",
        "_writing",
        "cancelled",
        "max_waiting",
        "name",
        "patience",
        "reads",
        "refused",
        "timeouts",
        "waited",
        "writes",
    )

    def __init__(self, *, max_waiting: int = 10_000, patience: int = 16, name: str = "lock") -> None:
        if max_waiting < 0:
            raise ValueError(f"max_waiting {max_waiting} of {name}: must not be negative")
        if patience < 1:
            raise ValueError(f"patience {patience} of {name}: must be at least 1")
        self.max_waiting = max_waiting
        self.patience = patience
        self.name = name
        self._readers: set[_Owner] = set()
        self._writer: _Owner | _Free = _FREE
        self._readers_line: _Line = OrderedDict()
        self._writers_line: _Line = OrderedDict()
        self._passed = 0  # writers let in past the readers that wait
        self._reading = _Reading(self, None)
        self._writing = _Writing(self, None)
        self.reads = self.writes = self.waited = self.refused = self.timeouts = self.cancelled = 0

    def __repr__(self) -> str:
        state = "written" if self._writer is not _FREE else f"read by {len(self._readers)}" if self._readers else "free"
        return (
            f"<ReadWriteLock {self.name} {state} "
            f"waiting to read={len(self._readers_line)} to write={len(self._writers_line)}>"
        )

    # Holding it for a block

    def reading(self, timeout: float | None = None) -> _Reading:
        """To be used with ``async with``: hold it to read. See :meth:`acquire_read`."""
        return self._reading if timeout is None else _Reading(self, timeout)

    def writing(self, timeout: float | None = None) -> _Writing:
        """To be used with ``async with``: hold it to write. See :meth:`acquire_write`."""
        return self._writing if timeout is None else _Writing(self, timeout)

    # Holding it

    def try_read(self) -> bool:
        """Hold it to read, where that takes no waiting: nobody writes or waits to. Whether it does now.

        :raises RuntimeError: the calling task holds it already.
        """
        task = current_task()
        if self._writer is not _FREE or self._writers_line or task in self._readers:
            if task in self._readers or self._writer is task:
                raise self._held_already(task, "read")
            return False
        self._readers.add(task)
        self.reads += 1
        return True

    def try_write(self) -> bool:
        """Hold it to write, where that takes no waiting: nobody holds it. Whether it does now.

        :raises RuntimeError: the calling task holds it already.
        """
        task = current_task()
        if self._writer is not _FREE or self._readers:
            if task in self._readers or self._writer is task:
                raise self._held_already(task, "write")
            return False
        self._writer = task  # nobody waits: all that could were let in
        self.writes += 1
        return True

    async def acquire_read(self, timeout: float | None = None) -> None:
        """Hold it to read. Where nobody writes or waits to, that does not let other tasks run.

        :param timeout: seconds to wait at most; 0: not at all.
        :raises DeadlineExceeded: it was not to be had in time.
        :raises Overloaded: ``max_waiting`` tasks wait already.
        :raises RuntimeError: the calling task holds it already.
        """
        if not self.try_read():
            await self._wait(self._readers_line, current_task(), timeout)
            self.reads += 1

    async def acquire_write(self, timeout: float | None = None) -> None:
        """Hold it to write. Where nobody holds it, that does not let other tasks run.

        :param timeout: seconds to wait at most; 0: not at all.
        :raises DeadlineExceeded: it was not to be had in time.
        :raises Overloaded: ``max_waiting`` tasks wait already.
        :raises RuntimeError: the calling task holds it already.
        """
        if not self.try_write():
            await self._wait(self._writers_line, current_task(), timeout)
            self.writes += 1

    def release_read(self) -> None:
        """Hold it no longer.

        :raises RuntimeError: the calling task does not hold it to read.
        """
        task = current_task()
        try:
            self._readers.remove(task)
        except KeyError:
            raise RuntimeError(f"{_named(task)} does not hold {self.name} to read") from None
        if self._writers_line or self._readers_line:
            self._let_in()

    def release_write(self) -> None:
        """Hold it no longer.

        :raises RuntimeError: the calling task does not hold it to write.
        """
        task = current_task()
        if self._writer is not task:
            raise RuntimeError(f"{_named(task)} does not hold {self.name} to write")
        self._writer = _FREE
        if self._writers_line or self._readers_line:
            self._let_in()

    def statistics(self) -> dict[str, Any]:
        """Counts since it was made, and the state now.

        ``reads`` and ``writes`` got it, ``waited`` of these and of those who went: ``timeouts``, which also counts who
        did not want to wait at all, and ``cancelled``. ``refused`` did not get to wait.
        """
        return {
            "readers": len(self._readers),
            "writers": int(self._writer is not _FREE),
            "readers_waiting": len(self._readers_line),
            "writers_waiting": len(self._writers_line),
            "reads": self.reads,
            "writes": self.writes,
            "waited": self.waited,
            "refused": self.refused,
            "timeouts": self.timeouts,
            "cancelled": self.cancelled,
        }

    # Waiting

    async def _wait(self, line: _Line, task: _Owner, timeout: float | None) -> None:
        if timeout is not None and timeout <= 0:
            self.timeouts += 1
            raise self._not_in_time(line, timeout)
        if len(self._readers_line) + len(self._writers_line) >= self.max_waiting:
            self.refused += 1
            raise Overloaded("read_write_lock", f"{self.name}: {self.max_waiting} tasks wait for it already")
        self.waited += 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        line[future] = task
        timer = None if timeout is None else loop.call_later(timeout, self._expire, line, future)
        try:
            let_in = await future
        except BaseException:  # cancelled: leave no trace, whether let in meanwhile or not
            outcome = future.result() if future.done() and not future.cancelled() else None
            if outcome:
                self._leave(line, task)
            line.pop(future, None)
            self.cancelled += outcome is not False  # else its time was over before
            self._let_in()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not let_in:
            raise self._not_in_time(line, timeout or 0.0)

    def _leave(self, line: _Line, task: _Owner) -> None:
        if line is self._writers_line:
            self._writer = _FREE
        else:
            self._readers.discard(task)

    def _expire(self, line: _Line, future: asyncio.Future[bool]) -> None:
        if future.done():  # let in, or cancelled
            return
        del line[future]
        self.timeouts += 1
        future.set_result(False)
        self._let_in()  # readers may have waited for this writer only

    def _let_in(self) -> None:
        """After any change: let in who may come in now."""
        if self._writer is not _FREE:
            return
        writers, readers = self._writers_line, self._readers_line
        while writers and not (readers and self._passed >= self.patience):
            if self._readers:
                return
            future, task = writers.popitem(last=False)
            if future.done():  # cancelled, and its task has not run since
                continue
            self._writer = task
            self._passed = self._passed + 1 if readers else 0
            future.set_result(True)
            return
        self._passed = 0
        while readers:
            future, task = readers.popitem(last=False)
            if not future.done():
                self._readers.add(task)
                future.set_result(True)
        if writers and not self._readers:  # all these readers were cancelled: it is not free for who comes now
            self._let_in()

    # Errors

    def _held_already(self, task: _Owner, purpose: str) -> RuntimeError:
        held = "write" if self._writer is task else "read"
        return RuntimeError(
            f"{_named(task)} holds {self.name} to {held} already: to wait for it to {purpose} has no end"
        )

    def _not_in_time(self, line: _Line, timeout: float) -> DeadlineExceeded:
        purpose = "write" if line is self._writers_line else "read"
        if isinstance(self._writer, _Free):
            names = sorted(_named(task) for task in self._readers)
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            held = f"read by {', '.join(names[:_NAMED])}{more}" if names else "free"
        else:
            held = f"written by {_named(self._writer)}"
        error = DeadlineExceeded(f"{self.name} was not to be had to {purpose} within {timeout:g} s; it is {held}")
        error.retry = RetryClass.SAFE  # nothing was begun
        return error


class _Free:
    """Stands for the writer where there is none; None is one that runs outside of any task."""

    __slots__ = ()


_FREE = _Free()


class _Nothing:
    __slots__ = ()
    __await__ = staticmethod(().__iter__)  # an iterator that is at its end, without a frame of Python


_NOTHING: Any = _Nothing()
"""What is awaited where there is nothing to wait for: cheaper than a coroutine, and one for all."""


class _Reading:
    __slots__ = ("_lock", "_timeout")

    def __init__(self, lock: ReadWriteLock, timeout: float | None) -> None:
        self._lock = lock
        self._timeout = timeout

    def __aenter__(self) -> Awaitable[None]:
        lock = self._lock
        task = current_task()
        if lock._writer is _FREE and not lock._writers_line and task not in lock._readers:  # try_read, without its call
            lock._readers.add(task)
            lock.reads += 1
            return _NOTHING  # type: ignore[no-any-return]  # mypy takes none but a Generator for what __await__ returns
        return lock.acquire_read(self._timeout)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Awaitable[None]:
        self._lock.release_read()
        return _NOTHING  # type: ignore[no-any-return]  # as above


class _Writing:
    __slots__ = ("_lock", "_timeout")

    def __init__(self, lock: ReadWriteLock, timeout: float | None) -> None:
        self._lock = lock
        self._timeout = timeout

    def __aenter__(self) -> Awaitable[None]:
        lock = self._lock
        if lock._writer is _FREE and not lock._readers:  # try_write, without its call
            lock._writer = current_task()
            lock.writes += 1
            return _NOTHING  # type: ignore[no-any-return]  # as above
        return lock.acquire_write(self._timeout)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Awaitable[None]:
        self._lock.release_write()
        return _NOTHING  # type: ignore[no-any-return]  # as above


def _named(task: _Owner) -> str:
    return "code outside of any task" if task is None else f"task {task.get_name()}"
