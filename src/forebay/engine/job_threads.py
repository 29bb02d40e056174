"""Threads that work for a loop, and report back to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["JobThreads"]

Done = Callable[[Any, BaseException | None], None]
_Call = tuple[Callable[[], Any], Done]


class JobThreads:
    """Runs calls, one per thread at a time. There are as many threads as calls were ever at work at once.

    They are daemons: one that is stuck in its call does not keep the interpreter from exiting. All methods are for the
    loop's thread.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._threads: set[_Thread] = set()
        self._idle: list[_Thread] = []
        self._started = 0
        self._closing = False
        self._none_left = asyncio.Event()

    def __len__(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    def run(self, call: Callable[[], Any], done: Done) -> None:
        """Run ``call`` in a thread; then call ``done`` on the loop with its result and None, or None and its error.

        :raises RuntimeError: there is no thread to be had.
        """
        if self._idle:
            thread = self._idle.pop()
        else:
            thread = _Thread(f"{self.name}-{self._started}", self._loop, self._returned, self._ended)
            thread.start()
            self._started += 1
            self._threads.add(thread)
        thread.calls.put((call, done))

    async def close(self, timeout: float) -> int:
        """Let every thread end; return how many have not after ``timeout`` seconds. Those end after their call."""
        self._closing = True
        while self._idle:
            self._idle.pop().calls.put(None)
        if self._threads:
            self._none_left.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._none_left.wait()
            except TimeoutError:
                pass
        return len(self._threads)

    def _returned(self, thread: _Thread, done: Done, result: Any, error: BaseException | None) -> None:
        if self._closing:
            thread.calls.put(None)
        else:
            self._idle.append(thread)
        done(result, error)

    def _ended(self, thread: _Thread) -> None:
        thread.join()  # it has nothing left to do
        self._threads.discard(thread)
        if not self._threads:
            self._none_left.set()


class _Thread(threading.Thread):
    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        returned: Callable[[_Thread, Done, Any, BaseException | None], None],
        ended: Callable[[_Thread], None],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._loop = loop
        self._on_return = returned
        self._on_end = ended

    def run(self) -> None:
        try:
            while (item := self.calls.get()) is not None:
                self._work(*item)
                del item
            self._loop.call_soon_threadsafe(self._on_end, self)
        except RuntimeError:
            return  # the loop is closed: nobody waits for us any more

    def _work(self, call: Callable[[], Any], done: Done) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = call()
        except BaseException as caught:
            error = caught
        try:
            self._loop.call_soon_threadsafe(self._on_return, self, done, result, error)
        finally:
            del call, done, result, error  # the error's traceback refers to this frame
