"""The threads in which a client reads and writes files: the disk may be slow, and the loop may not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

from forebay.engine.executor import Executor
from forebay.engine.loop import Ticker, ticker
from forebay.engine.tasks import Task, Tasks

__all__ = ["FileThreads"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_THREADS = 4  # per loop, as long as there is a file under way


class FileThreads:
    """The threads of one loop, from the first file to the last: ``threads = FileThreads.enter()``, calls with
    :meth:`run`, and in the end ``threads.leave()``.

    A call whose caller gives up runs on: it must own what it works on, or have a lock, as Python's buffered files do.
    """

    __slots__ = ("_closing", "_executor", "_users")

    def __init__(self) -> None:
        self._executor: Executor | None = None
        self._users = 0
        self._closing = Tasks()

    @staticmethod
    def enter() -> FileThreads:
        """Those of the running loop, with one more user, who calls :meth:`leave`."""
        loop = ticker()
        found = _of_loops.get(loop)
        if found is None:
            found = _of_loops[loop] = FileThreads()
        found._users += 1
        return found

    async def run(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """``call(*args)`` in a thread; what it raises is raised."""
        executor = self._executor
        if executor is None:
            # One file has one call under way, so that no more wait than there are files.
            executor = self._executor = Executor("client-files", concurrency=_THREADS, when_full="wait")
            await executor.start()
        return await executor.run(call, *args, kind="thread")

    def leave(self, *last: Callable[[], object]) -> Task[None]:
        """One user less.

        :param last: what is left to be done in a thread, such as closing a file; what it raises is logged.
        :returns: the task that does that, which needs not be awaited.
        """
        return self._closing.spawn(self._leave(last), name="client-files: close a file")

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
