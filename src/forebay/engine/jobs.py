"""Jobs of an executor: what is known of one, and the handle on it that its submitter has."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator
from contextvars import Context
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import structlog

from forebay.errors import ExecutorStopped, Overloaded
from forebay.policy.priority import Priority

if TYPE_CHECKING:
    from forebay.engine.job_process import JobProcess

__all__ = ["Handle", "Job", "JobState", "Kind", "kind_of"]

log = structlog.get_logger("forebay.engine")

T = TypeVar("T")

Kind = Literal["coroutine", "thread", "process"]
"""Where a job runs: on the loop, in a thread, or in another process."""


class JobState(StrEnum):
    """Where a job is: ``waiting -> queued -> running -> finished``.

    ``waiting`` and ``queued`` are left out by those that need not; the others are ends, each instead of ``finished``.
    """

    WAITING = "waiting"  # for a place in the queue
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"  # it raised, or its process died
    REJECTED = "rejected"  # there was no place, or a later one took its place
    EXPIRED = "expired"  # its deadline was reached, before its start or after
    CANCELLED = "cancelled"  # by its submitter, or because the executor was stopped


def kind_of(fn: Callable[..., Any]) -> Kind:
    """Where ``fn`` runs when nothing is said: a coroutine function on the loop, any other in a thread."""
    called = fn.__call__ if not inspect.isroutine(fn) and not isinstance(fn, partial) else fn  # type: ignore[operator]  # a callable object
    return "coroutine" if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(called) else "thread"


class Outcome(asyncio.Future[T]):
    """What a job comes to. Who awaits it and is cancelled cancels the job, as with an :class:`asyncio.Task`."""

    def __init__(self, job: Job[T]) -> None:
        super().__init__()
        self.job: Job[T] | None = job

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask the executor to cancel the job. True: it will, or has already."""
        return self.job is not None and self.job.cancel(self.job)

    def cancelled_now(self) -> None:
        """The job has been cancelled."""
        super().cancel()


class Job(Generic[T]):
    """One job, seen by its executor. Compared and hashed by identity.

    :param cancel: the executor's; called with the job.
    """

    __slots__ = (
        "abandoned",
        "args",
        "cancel",
        "context",
        "entered",
        "fn",
        "forgotten",
        "kind",
        "name",
        "observed",
        "outcome",
        "packed",
        "priority",
        "process",
        "state",
        "task",
        "timer",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kind: Kind,
        priority: Priority,
        cancel: Callable[[Job[Any]], bool],
    ) -> None:
        self.name = _name(fn)
        self.fn: Callable[..., Any] | None = fn
        self.args = args
        self.kind = kind
        self.priority = priority
        self.cancel = cancel
        self.state = JobState.QUEUED
        self.outcome: Outcome[T] = Outcome(self)
        self.context: Context | None = None
        self.packed = b""
        self.timer: asyncio.TimerHandle | None = None
        self.entered: asyncio.Future[None] | None = None  # done when it waits no more; only when somebody wants to know
        self.task: asyncio.Task[Any] | None = None
        self.process: JobProcess | None = None
        self.abandoned = False  # its awaiter has an answer, but its thread runs on
        self.observed = False  # somebody has awaited its outcome
        self.forgotten = False  # nobody can any more

    def __repr__(self) -> str:
        return f"<Job {self.name} {self.kind} {self.priority} {self.state}>"

    def enter(self, state: JobState) -> None:
        """It is in ``state`` now, and does not wait for a place any more."""
        self.state = state
        if self.entered is not None and not self.entered.done():
            self.entered.set_result(None)

    def settle(self, state: JobState, result: Any = None, error: BaseException | None = None) -> None:
        """It has come to its end. With neither result nor error it was cancelled, when ``state`` says so."""
        self.enter(state)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        outcome = self.outcome
        outcome.job = None
        if error is not None:
            outcome.set_exception(error)
            outcome.exception()  # asyncio need not say that nobody retrieved it: `_report` does
        elif state is JobState.CANCELLED:
            outcome.cancelled_now()
        else:
            outcome.set_result(cast(T, result))
        self.fn = self.context = None
        self.args, self.packed = (), b""
        if self.forgotten:
            self._report()

    def forget(self) -> None:
        """Nobody can await it any more: should it fail, or have failed, that is logged."""
        self.forgotten = True
        self._report()

    def _report(self) -> None:
        if self.observed or not self.outcome.done() or self.outcome.cancelled():
            return
        error = self.outcome.exception()
        if self.state is JobState.FAILED:
            log.error("job failed, and nobody awaited it", job=self.name, exc_info=error)
        elif error is not None and not isinstance(error, (Overloaded, ExecutorStopped)):
            log.warning("job not done, and nobody awaited it", job=self.name, reason=str(error))


class Handle(Generic[T]):
    """A submitted job. Await it, or :meth:`result`, for what it returns.

    A handle may be let go: the job runs all the same. When it fails and its handle was let go without being awaited,
    the failure is logged.
    """

    __slots__ = ("__weakref__", "_job")

    def __init__(self, job: Job[T]) -> None:
        self._job = job

    def __repr__(self) -> str:
        return f"<Handle {self._job.name} {self._job.kind} {self._job.priority} {self._job.state}>"

    def __await__(self) -> Generator[Any, None, T]:
        return self.result().__await__()

    @property
    def state(self) -> JobState:
        """Where the job is."""
        return self._job.state

    @property
    def done(self) -> bool:
        """Whether awaiting it would not wait."""
        return self._job.outcome.done()

    async def result(self) -> T:
        """What the job returns. Any number of tasks may wait for it; one that is cancelled cancels the job.

        :raises DeadlineExceeded: its deadline was reached.
        :raises Overloaded: another job took its place in the queue.
        :raises ExecutorStopped: the executor was stopped.
        :raises ProcessDied: the process that ran it ended, by a signal or on its own.
        :raises NotTransferable: its result or its error cannot be sent from another process.
        :raises asyncio.CancelledError: it was cancelled.
        :raises Exception: whatever it raised.
        """
        job = self._job
        job.observed = True
        try:
            return await job.outcome
        finally:
            del job, self

    def cancel(self) -> bool:
        """Cancel the job. True: that was done, or is under way; False: it was over.

        A job that was not started never is; a coroutine is cancelled as a Task is, and may take its time; a process is
        killed; a thread cannot be stopped, so it is abandoned.
        """
        return self._job.outcome.cancel()

    def __del__(self) -> None:
        self._job.forget()


def _name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    name: str = getattr(fn, "__qualname__", "") or type(fn).__qualname__
    return name
