"""How jobs are handed to an executor."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, overload

from forebay.engine.jobs import Handle, Job, JobState, Kind
from forebay.policy.priority import Priority

__all__ = ["Submitter"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Submitter(ABC):
    """The three ways to submit a job, each typed for functions of both sorts."""

    @overload
    async def run(
        self,
        fn: Callable[[*Ts], Coroutine[Any, Any, T]],
        *args: *Ts,
        kind: Kind | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> T: ...

    @overload
    async def run(
        self,
        fn: Callable[[*Ts], T],
        *args: *Ts,
        kind: Kind | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> T: ...

    async def run(
        self,
        fn: Callable[[*Ts], Any],
        *args: *Ts,
        kind: Kind | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> Any:
        """Run ``fn(*args)`` as a job and return its result. Keyword arguments are bound with :func:`functools.partial`.

        Cancelling it cancels the job. Raises what :meth:`submit` and :meth:`Handle.result` raise.
        """
        job: Job[Any] = self._offer(fn, args, kind, priority, deadline, may_wait=True)
        job.observed = True
        try:
            return await job.outcome
        finally:
            del job

    @overload
    async def submit(
        self,
        fn: Callable[[*Ts], Coroutine[Any, Any, T]],
        *args: *Ts,
        kind: Kind | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> Handle[T]: ...

    @overload
    async def submit(
        self,
        fn: Callable[[*Ts], T],
        *args: *Ts,
        kind: Kind | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> Handle[T]: ...

    async def submit(
        self,
        fn: Callable[[*Ts], Any],
        *args: *Ts,
        kind: Kind | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> Handle[Any]:
        """Submit ``fn(*args)`` as a job and return as soon as it has a place, in the queue or at once.

        With ``when_full="wait"`` that may take until ``deadline``; else it does not wait.

        :param kind: where it runs; by default that depends on the function.
        :param deadline: seconds from now.
        :raises Overloaded: there is no place for it; ``limit`` is ``executor_queue`` or that of its priority
            (``executor_queue_low``).
        :raises DeadlineExceeded: there was none in time.
        :raises ExecutorStopped: the executor drains or is stopped.
        :raises NotTransferable: the function or its arguments cannot be sent to another process.
        """
        job: Job[Any] = self._offer(fn, args, kind, priority, deadline, may_wait=True)
        if job.state is JobState.WAITING:
            job.entered = asyncio.get_running_loop().create_future()
            try:
                await job.entered
            except BaseException:
                job.cancel(job)
                raise
            if job.outcome.done():  # it got no place, or lost it at once
                job.outcome.result()
        return Handle(job)

    @overload
    def submit_nowait(
        self,
        fn: Callable[[*Ts], Coroutine[Any, Any, T]],
        *args: *Ts,
        kind: Kind | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> Handle[T]: ...

    @overload
    def submit_nowait(
        self,
        fn: Callable[[*Ts], T],
        *args: *Ts,
        kind: Kind | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> Handle[T]: ...

    def submit_nowait(
        self,
        fn: Callable[[*Ts], Any],
        *args: *Ts,
        kind: Kind | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> Handle[Any]:
        """As :meth:`submit`, without waiting: ``when_full="wait"`` refuses as ``reject`` does."""
        return Handle(self._offer(fn, args, kind, priority, deadline, may_wait=False))

    @abstractmethod
    def _offer(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kind: Kind | None,
        priority: Priority,
        deadline: float | None,
        *,
        may_wait: bool,
    ) -> Job[Any]:
        """A job that runs, is queued, or, if that is allowed, waits for a place; or raise why it is none of these."""
