"""Blocking functions of an application, run in threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from forebay.engine.executor import Executor

__all__ = ["BlockingCalls"]


class BlockingCalls:
    """An executor that is made when the application starts, and can be made again.

    :raises ValueError: ``threads`` or ``queue`` is below 1.
    """

    __slots__ = ("_executor", "_name", "_queue", "_threads")

    def __init__(self, name: str, threads: int, queue: int) -> None:
        if threads < 1 or queue < 1:
            raise ValueError(f"threads {threads}, threads_queue {queue}: must be at least 1")
        self._name = name
        self._threads = threads
        self._queue = queue
        self._executor: Executor | None = None

    async def start(self) -> None:
        """Take calls."""
        self._executor = Executor(self._name, concurrency=self._threads, queue=self._queue)
        await self._executor.start()

    async def stop(self) -> None:
        """Give up what still runs."""
        executor, self._executor = self._executor, None
        if executor is not None:
            await executor.stop()

    async def run(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """What ``function`` returns.

        :raises Overloaded: too many calls wait already.
        :raises RuntimeError: the application was not started.
        """
        if self._executor is None:
            raise RuntimeError(f"{self._name}: the application was not started")
        return await self._executor.run(partial(function, **arguments))
