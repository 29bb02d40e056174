"""The threads in which files are read and written: the disk may be slow, and the loop may not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

from forebay.engine.executor import Executor
from forebay.engine.loop import Ticker, ticker
from forebay.engine.tasks import Future, Task, Tasks

__all__ = ["FileThreads"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_THREADS = 4  # per loop, as long as there is a file under way


class FileThreads:
    """Threads for files: those of a loop, from the first file to the last, which is ``threads = FileThreads.enter()``,
    calls with :meth:`run`, and in the end ``threads.leave()``. Or ``FileThreads()``: one thread for one user, who
    leaves in the end as well, for what may block for as long as it likes: a pipe.

    A call whose caller gives up runs on, and what it comes to is dropped: it must own what it works on, or have a lock,
    as Python's buffered files do.
    """

    __slots__ = ("_count", "_executor", "_tasks", "_users")

    def __init__(self) -> None:
        self._count = 1
        self._executor: Executor | None = None
        self._users = 1
        self._tasks = Tasks()

    @staticmethod
    def enter() -> FileThreads:
        """Those of the running loop, with one more user, who calls :meth:`leave`."""
        loop = ticker()
        found = _of_loops.get(loop)
        if found is None:
            found = _of_loops[loop] = FileThreads()
            found._count = _THREADS
            found._users = 0
        found._users += 1
        return found

    async def run(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """``call(*args)`` in a thread; what it raises is raised."""
        outcome: Future[T] = Future()
        self._tasks.spawn(self._run(outcome, call, args), name="files: call")
        return await outcome

    async def _run(self, outcome: Future[T], call: Callable[..., T], args: tuple[Any, ...]) -> None:
        executor = self._executor
        if executor is None:
            # One file has one call under way, so that no more wait than there are files.
            executor = self._executor = Executor("files", concurrency=self._count, when_full="wait")
            await executor.start()
        try:
            result = await executor.run(call, *args, kind="thread")
        except Exception as error:  # it is for who waits; of one who does not, nobody wants to know
            if not outcome.done():
                outcome.set_exception(error)
                outcome.exception()  # asyncio need not say so if who waits is cancelled just now
        else:
            if not outcome.done():
                outcome.set_result(result)

    def leave(self, *last: Callable[[], object]) -> Task[None]:
        """One user less.

        :param last: what is left to be done in a thread, such as closing a file; what it raises is logged.
        :returns: the task that does that, which needs not be awaited.
        """
        return self._tasks.spawn(self._leave(last), name="files: close")

    async def _leave(self, last: tuple[Callable[[], object], ...]) -> None:
        try:
            for call in last:
                await self.run(call)
        finally:
            self._users -= 1
            if not self._users and self._executor is not None:
                executor, self._executor = self._executor, None
                await executor.drain()
                await executor.stop()


_of_loops: WeakKeyDictionary[Ticker, FileThreads] = WeakKeyDictionary()
