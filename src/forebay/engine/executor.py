"""An executor: runs jobs, a bounded number at once, the more urgent first."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, get_args

import structlog

from forebay.engine.job_process import JobProcess, pack
from forebay.engine.job_threads import JobThreads
from forebay.engine.jobs import Job, JobState, Kind, kind_of
from forebay.engine.loop import now
from forebay.engine.submitter import Submitter
from forebay.engine.tasks import Gate
from forebay.errors import DeadlineExceeded, ExecutorStopped, Overloaded, RetryClass
from forebay.observe.metrics import Family, Sample
from forebay.observe.sparing import Sparing
from forebay.policy.priority import Priority, PriorityQueue, WhenFull
from forebay.service import State

__all__ = ["Executor"]

log = structlog.get_logger("forebay.engine")

STOP_GRACE = 2.0
"""Seconds :meth:`Executor.stop` waits for what it cut to end: coroutines, threads, processes."""

_EXIT_GRACE = 1.0  # of them, for an idle process to exit before it is killed
_NAMED = 20  # jobs at most in a log line


class Executor(Submitter):
    """Runs functions, a bounded number at once, and keeps a bounded queue of the rest. A
    :class:`~forebay.service.Service`.

    A job is a function with its arguments, of one of three kinds. ``coroutine``: a coroutine function, run as a Task on
    the loop. ``thread``: any other function, run in a thread. ``process``: a function that another process can import,
    run there, in a fresh interpreter that serves one job after the other; its arguments and its result are pickled,
    which is done on the loop for the former and costs it that time. The first two are told apart by the function;
    ``process`` is said.

    Coroutines and threads see the context variables of their submitter. The bound is one for all kinds: work that must
    not take places from other work gets an executor of its own, and one for processes has as many as there are cores.

    Priorities, and what happens to a job for which the queue has no place, are those of
    :class:`~forebay.policy.priority.PriorityQueue`.

    A job's deadline, in seconds from its submission, is one for everything: the wait for a place, the queue, the run.
    When it is reached, whoever awaits the job gets :class:`DeadlineExceeded` at once. A job not started by then never
    is. A running coroutine is cancelled, the process of a job is killed (and replaced when it is needed), and a thread,
    which nothing can stop, is abandoned: its place stays taken until it ends, it is counted, and what it returns is
    lost. Cancelling a job, or the task that awaits it, does the same, but that a coroutine has the time to clean up
    before its awaiter goes on.

    Draining refuses new jobs, also from jobs, and finishes the others. To be used from one loop.

    :param name: in logs and metrics, and of its threads.
    :param concurrency: jobs that run at once, at least 1. As many threads and processes are started at most, when they
        are first needed; they are kept until the executor is stopped.
    :param queue: jobs queued at most, all priorities together.
    :param queues: jobs queued at most per priority, in addition.
    :param when_full: ``reject``, ``wait``, ``drop-lowest`` or ``drop-oldest``.
    :param patience: more urgent jobs that may be started past one that waits before its priority has a turn.
    """

    def __init__(
        self,
        name: str,
        *,
        concurrency: int = 16,
        queue: int = 1_000,
        queues: Mapping[Priority, int] | None = None,
        when_full: WhenFull = "reject",
        patience: int = 8,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"Executor: concurrency {concurrency}: must be at least 1")
        self.name = name
        self.concurrency = concurrency
        self.state = State.NEW
        self._queue: PriorityQueue[Job[Any]] = PriorityQueue(
            queue, limits=queues, when_full=when_full, patience=patience
        )
        self._running: dict[Job[Any], None] = {}
        self._threads: JobThreads | None = None
        self._idle_processes: list[JobProcess] = []
        self._nothing_left = Gate(is_open=True)
        self._ended = dict.fromkeys(_ENDS, 0)
        self._submitted = 0
        self._started = 0
        self._abandoned = 0
        self._sparing = Sparing()

    def __repr__(self) -> str:
        return (
            f"<Executor {self.name} {self.state} running={len(self._running)}/{self.concurrency} "
            f"queued={len(self._queue)}/{self._queue.limit}>"
        )

    @property
    def busy(self) -> int:
        """Places that are taken: by jobs that run, and by what is left of abandoned ones."""
        return len(self._running)

    # What its owner calls

    async def start(self) -> None:
        """Take jobs."""
        if self.state is not State.NEW:
            raise RuntimeError(f"executor {self.name} is {self.state}: it can be started once")
        self._threads = JobThreads(self.name)
        self.state = State.RUNNING

    async def drain(self) -> None:
        """Refuse new jobs; return when none is queued and none runs, abandoned threads included."""
        if self.state is State.RUNNING:
            self.state = State.DRAINING
        await self._nothing_left.wait()

    async def stop(self) -> None:
        """Cut everything; return when it has ended, or after :data:`STOP_GRACE`, which is logged with what still runs.

        Whoever awaits a job gets :class:`ExecutorStopped`.
        """
        self.state = State.STOPPED
        threads = self._threads
        if threads is None:
            return
        queued = self._queue.clear()
        running = [job for job in self._running if job.state is JobState.RUNNING]
        if queued or running:
            names = [job.name for job in running[:_NAMED]]
            log.warning("jobs cut", executor=self.name, queued=len(queued), running=len(running), jobs=names)
        for job in queued:
            self._settle(job, JobState.CANCELLED, error=self._stopped("before the job began"))
        current = asyncio.current_task()
        tasks = [job.task for job in self._running if job.task is not None and job.task is not current]
        for job in running:
            self._settle(job, JobState.CANCELLED, error=self._stopped("while it ran the job", RetryClass.MAYBE))
            if job.task is not current:
                self._cut(job)
        for process in self._idle_processes:
            threads.run(partial(process.close, _EXIT_GRACE), self._closed)
        self._idle_processes.clear()
        ends: list[Awaitable[Any]] = [threads.close(STOP_GRACE)]
        if tasks:
            ends.append(asyncio.wait(tasks, timeout=STOP_GRACE))
        await asyncio.gather(*ends)
        if still := [job.name for job in self._running if job.task is not current]:
            log.error("jobs still run after the executor was stopped", executor=self.name, jobs=still[:_NAMED])
        self._check_idle()

    # A job's way

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
        job: Job[Any] = Job(fn, args, kind or kind_of(fn), Priority(priority), self._cancel)
        if job.kind not in get_args(Kind):
            raise ValueError(f"kind {job.kind!r}: must be one of {', '.join(get_args(Kind))}")
        if job.kind == "process":
            if kind_of(fn) == "coroutine":
                raise TypeError(f"{job.name} is a coroutine function: it cannot run in another process")
            job.packed = pack(fn, args)
        else:
            job.context = contextvars.copy_context()
        if self.state is State.NEW:
            raise RuntimeError(f"executor {self.name} was not started")
        self._submitted += 1
        if self.state is not State.RUNNING:
            raise self._count(JobState.REJECTED, self._stopped("and takes no new jobs"))
        expires_at = float("inf")
        if deadline is not None:
            if not deadline > 0:
                raise self._count(JobState.EXPIRED, DeadlineExceeded(f"{job.name} was submitted past its deadline"))
            expires_at = now() + deadline
        if len(self._running) < self.concurrency:
            self._start(job)
        else:
            self._enqueue(job, expires_at, may_wait)
        if deadline is not None and not job.outcome.done():
            job.timer = asyncio.get_running_loop().call_later(deadline, self._expire, job)
        self._nothing_left.close()
        return job

    def _enqueue(self, job: Job[Any], expires_at: float, may_wait: bool) -> None:
        admission = self._queue.offer(job, job.priority, expires_at, may_wait=may_wait)
        if admission.outcome == "refused":
            raise self._count(JobState.REJECTED, self._overloaded(admission.limit, f"no place for {job.name}"))
        if admission.outcome == "waiting":
            job.state = JobState.WAITING
        if (victim := admission.victim) is not None:
            error = self._overloaded(admission.limit, f"{victim.name} gave its place to {job.name}")
            self._settle(victim, JobState.REJECTED, error=error)

    def _start(self, job: Job[Any]) -> None:
        assert self._threads is not None
        self._started += 1
        self._running[job] = None
        job.enter(JobState.RUNNING)
        fn, args, context = job.fn, job.args, job.context
        assert fn is not None
        try:
            if job.kind == "coroutine":
                loop = asyncio.get_running_loop()
                job.task = loop.create_task(_call_coroutine(fn, args), name=f"{self.name} {job.name}", context=context)
                job.task.add_done_callback(partial(self._task_ended, job))
            elif job.kind == "thread":
                assert context is not None
                self._threads.run(partial(context.run, _call, fn, args), partial(self._call_ended, job))
            else:
                job.process = self._idle_processes.pop() if self._idle_processes else JobProcess()
                self._threads.run(partial(job.process.call, job.packed), partial(self._call_ended, job))
        except RuntimeError as error:  # no thread to be had
            asyncio.get_running_loop().call_soon(self._call_ended, job, None, error)

    def _task_ended(self, job: Job[Any], task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if task.cancelled() and job.state is JobState.RUNNING:
            self._settle(job, JobState.CANCELLED)
            self._release(job)
        else:
            self._call_ended(job, None if task.cancelled() or error is not None else task.result(), error)

    def _call_ended(self, job: Job[Any], result: Any, error: BaseException | None) -> None:
        process = job.process
        if process is not None and not process.killed:
            self._idle_processes.append(process)
        if job.state is JobState.RUNNING:
            if error is None:
                self._settle(job, JobState.FINISHED, result)
            else:
                self._settle(job, JobState.FAILED, error=_raisable(job, error))
        elif error is not None and process is None:
            log.warning("job failed after it was given up", executor=self.name, job=job.name, exc_info=error)
        self._release(job)

    def _release(self, job: Job[Any]) -> None:
        del self._running[job]
        job.abandoned = False
        job.task = None
        self._fill()

    def _fill(self) -> None:
        """Start what there is a place for, and queue what waited for the place."""
        queue = self._queue
        while len(self._running) < self.concurrency and queue:
            job, late = queue.take(now())
            for other in late:
                self._settle(other, JobState.EXPIRED, error=_late(other))
            if job is not None:
                self._start(job)
        for job in queue.admit():
            job.enter(JobState.QUEUED)
        self._check_idle()

    def _check_idle(self) -> None:
        if not self._running and not self._queue:
            self._nothing_left.open()

    # Ends that are not its own

    def _expire(self, job: Job[Any]) -> None:
        began = job.state is JobState.RUNNING
        if not began:
            self._queue.discard(job)
        self._settle(job, JobState.EXPIRED, error=_late(job))
        if began:
            self._cut(job)
        else:
            self._fill()

    def _cancel(self, job: Job[Any]) -> bool:
        if job.outcome.done():
            return False
        if job.task is not None:  # it is cancelled when that has ended
            return job.task.cancel()
        if job.state is JobState.RUNNING:
            self._settle(job, JobState.CANCELLED)
            self._cut(job)
        else:
            self._queue.discard(job)
            self._settle(job, JobState.CANCELLED)
            self._fill()
        return True

    def _cut(self, job: Job[Any]) -> None:
        """End what runs of a job whose outcome is settled already, as far as it can be ended."""
        if job.task is not None:
            job.task.cancel()
        elif job.process is not None:
            job.process.kill()
        else:
            job.abandoned = True
            self._abandoned += 1
            if (left_out := self._sparing.due("abandoned", now())) is not None:
                log.warning(
                    "thread abandoned", executor=self.name, job=job.name, reason=str(job.state), left_out=left_out
                )

    def _settle(
        self, job: Job[Any], state: JobState, result: Any = None, *, error: BaseException | None = None
    ) -> None:
        self._ended[state] += 1
        job.settle(state, result, error)

    def _count(self, state: JobState, error: Exception) -> Exception:
        self._ended[state] += 1
        return error

    def _overloaded(self, limit: str, what: str) -> Overloaded:
        if (left_out := self._sparing.due(limit, now())) is not None:
            log.warning("jobs rejected", executor=self.name, limit=limit, left_out=left_out)
        return Overloaded(f"executor_{limit}", f"executor {self.name}: its {limit} is full: {what}")

    def _stopped(self, when: str, retry: RetryClass = RetryClass.SAFE) -> ExecutorStopped:
        return ExecutorStopped(f"executor {self.name} is {self.state} {when}", retry=retry)

    def _closed(self, result: Any, error: BaseException | None) -> None:
        if error is not None:
            log.error("job process not closed", executor=self.name, exc_info=error)

    # What can be seen

    def statistics(self) -> dict[str, Any]:
        """Counts since the start, and the state now.

        Every job submitted is in exactly one of: queued, waiting, running, and the five ends.
        """
        abandoned = sum(job.abandoned for job in self._running)
        return {
            "state": str(self.state),
            "concurrency": self.concurrency,
            "busy": self.busy,
            "queued": {str(priority): length for priority, length in self._queue.lengths().items()},
            "waiting": self._queue.waiting,
            "submitted": self._submitted,
            "started": self._started,
            **{str(state): count for state, count in self._ended.items()},
            "abandoned": self._abandoned,
            "abandoned_running": abandoned,
            "threads": len(self._threads) if self._threads is not None else 0,
            "processes": sum(process.pid != 0 for process in self._processes()),
        }

    def collect(self) -> list[Family]:
        """As metrics, labelled with the executor's name."""
        label = (("executor", self.name),)
        stats = self.statistics()

        def counter(name: str, help_text: str) -> Family:
            return Family(f"forebay_executor_{name}", "counter", help_text, [Sample("_total", label, stats[name])])

        def gauge(name: str, help_text: str) -> Family:
            return Family(f"forebay_executor_{name}", "gauge", help_text, [Sample("", label, stats[name])])

        ended = [Sample("_total", (*label, ("end", str(end))), count) for end, count in self._ended.items()]
        queued = [Sample("", (*label, ("priority", name)), length) for name, length in stats["queued"].items()]
        return [
            counter("submitted", "Jobs submitted, those that were refused included."),
            counter("started", "Jobs started."),
            Family("forebay_executor_ended", "counter", "Jobs that came to an end, by which.", ended),
            counter("abandoned", "Jobs given up whose thread could not be stopped."),
            Family("forebay_executor_queued", "gauge", "Jobs in the queue, by priority.", queued),
            gauge("waiting", "Jobs whose submitters wait for a place in the queue."),
            gauge("busy", "Places taken: jobs that run, and threads of abandoned jobs."),
            gauge("abandoned_running", "Threads of abandoned jobs that still run."),
            gauge("concurrency", "Jobs that may run at once."),
            gauge("threads", "Threads started for jobs, at work or idle."),
            gauge("processes", "Processes started for jobs, at work or idle."),
        ]

    def _processes(self) -> list[JobProcess]:
        running = [job.process for job in self._running if job.process is not None]
        return [*self._idle_processes, *running]


_ENDS = (JobState.FINISHED, JobState.FAILED, JobState.REJECTED, JobState.EXPIRED, JobState.CANCELLED)


async def _call_coroutine(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    made = fn(*args)
    if not inspect.isawaitable(made):
        raise TypeError(f"{fn!r} was to run as a coroutine, but returned a {type(made).__qualname__}")
    return await made


def _call(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    result = fn(*args)
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(f"{fn!r} returned a coroutine: it needs kind='coroutine'")
    return result


def _late(job: Job[Any]) -> DeadlineExceeded:
    if job.state is JobState.RUNNING:
        return DeadlineExceeded(f"{job.name} was not finished by its deadline")
    return DeadlineExceeded(f"{job.name} was not started by its deadline", retry=RetryClass.SAFE)


def _raisable(job: Job[Any], error: BaseException) -> BaseException:
    """``error``, unless the loop, or whoever awaits the job, would take it for its own."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    replacement = RuntimeError(f"{job.name} raised {error!r}")
    replacement.__cause__ = error
    return replacement
