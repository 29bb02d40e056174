"""The executor: jobs on the loop and in threads. Those in processes are in test_job_process.py."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forebay.engine import executor as executor_module
from forebay.engine.executor import Executor
from forebay.engine.jobs import Handle, JobState
from forebay.errors import DeadlineExceeded, ExecutorStopped, Overloaded, RetryClass
from forebay.policy.priority import Priority
from forebay.service import Service
from tests.support import eventually, running

pytestmark = pytest.mark.both_loops

HIGH, NORMAL, LOW = Priority


@asynccontextmanager
async def executing(**options: Any) -> AsyncIterator[Executor]:
    """An executor that runs; at its end every job has come to one end, and nothing is left of it."""
    threads, tasks = threading.active_count(), len(asyncio.all_tasks())
    executor = Executor("test", **options)
    async with running(executor):
        yield executor
    stats = executor.statistics()
    assert stats["submitted"] == sum(stats[end] for end in ("finished", "failed", "rejected", "expired", "cancelled"))
    assert stats["busy"] == stats["waiting"] == sum(stats["queued"].values()) == 0
    assert (threading.active_count(), len(asyncio.all_tasks())) == (threads, tasks)


async def value_of(value: Any) -> Any:
    """The value, after a turn of the loop."""
    await asyncio.sleep(0)
    return value


async def forever() -> None:
    """Until it is cancelled."""
    await asyncio.Event().wait()


class Blocker:
    """A function for threads that runs until it is released."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self) -> str:
        self.started.set()
        assert self.release.wait(30)
        return "released"


@pytest.fixture
def blocker() -> Any:
    """A blocker that is released at the end at the latest."""
    made = Blocker()
    yield made
    made.release.set()


async def test_the_function_decides_where_it_runs() -> None:
    """A coroutine function on the loop, any other in a thread; what is wrapped or callable is looked into."""

    class Both:
        async def __call__(self) -> int:
            return threading.get_ident()

        def plain(self) -> int:
            return threading.get_ident()

    async def where(_: object = None) -> int:
        return threading.get_ident()

    async with executing() as executor:
        assert isinstance(executor, Service)
        here = threading.get_ident()
        for on_loop in (where, partial(where, 1), Both()):
            assert await executor.run(on_loop) == here
        for in_thread in (threading.get_ident, partial(threading.get_ident), Both().plain):
            assert await executor.run(in_thread) != here
        assert await executor.run(max, 3, 5) == 5
        made: Callable[[], Any] = lambda: value_of(7)  # noqa: E731 - not a coroutine function, but returns a coroutine
        assert await executor.run(made, kind="coroutine") == 7
        with pytest.raises(TypeError, match="needs kind='coroutine'"):
            await executor.run(made)
        with pytest.raises(TypeError, match="returned a int"):
            await executor.run(max, 1, 2, kind="coroutine")
        with pytest.raises(TypeError, match="takes 1 positional argument"):
            await executor.run(value_of, 1, 2)  # type: ignore[call-arg, arg-type]  # what is tested


async def test_exceptions_travel() -> None:
    """From both kinds, with their tracebacks; what the loop would take for its own comes as a RuntimeError."""

    def fail(error: BaseException) -> None:
        raise error

    async def fail_on_loop(error: BaseException) -> None:
        raise error

    async with executing() as executor:
        for function in (fail, fail_on_loop):
            with pytest.raises(KeyError) as caught:
                await executor.run(function, KeyError("k"))
            assert any(entry.name == function.__name__ for entry in caught.traceback)
        for error in (StopIteration(), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()):
            with pytest.raises(RuntimeError, match="raised"):
                await executor.run(fail, error)
        assert executor.statistics()["failed"] == 6


async def test_context_variables_are_the_submitters() -> None:
    """Those at the time of the submission, and what a job sets stays with it."""
    variable = contextvars.ContextVar("variable", default="none")

    def look() -> str:
        seen = variable.get()
        variable.set("job's")
        return seen

    async def look_on_loop() -> str:
        return look()

    async with executing(concurrency=1) as executor:
        variable.set("first")
        handles = [executor.submit_nowait(look_on_loop), executor.submit_nowait(look)]
        variable.set("second")
        handles += [executor.submit_nowait(look_on_loop), executor.submit_nowait(look)]
        assert [await handle for handle in handles] == ["first", "first", "second", "second"]
        assert variable.get() == "second"


async def test_concurrency_is_bounded_and_priorities_are_kept() -> None:
    """Two at once, the more urgent first."""
    order: list[str] = []
    at_once = most = 0

    async def work(name: str) -> None:
        nonlocal at_once, most
        order.append(name)
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    async with executing(concurrency=2) as executor:
        handles = [await executor.submit(work, f"{p}{n}", priority=p) for n in range(3) for p in (LOW, NORMAL, HIGH)]
        assert executor.statistics()["queued"] == {"high": 3, "normal": 2, "low": 2}
        assert repr(executor) == "<Executor test running running=2/2 queued=7/1000>"
        await asyncio.gather(*handles)
    assert most == 2
    assert order == ["low0", "normal0", "high0", "high1", "high2", "normal1", "normal2", "low1", "low2"]


async def test_low_is_not_starved() -> None:
    """While high jobs keep coming, each low one has its turn after `patience` of them."""
    order: list[Priority] = []
    enough = asyncio.Event()

    async def work(priority: Priority) -> None:
        order.append(priority)
        if len(order) == 40:
            enough.set()
        if priority is HIGH and not enough.is_set():
            executor.submit_nowait(work, HIGH, priority=HIGH)

    async with executing(concurrency=1, patience=4) as executor:
        executor.submit_nowait(work, HIGH, priority=HIGH)
        executor.submit_nowait(work, HIGH, priority=HIGH)
        for _ in range(5):
            executor.submit_nowait(work, LOW, priority=LOW)
        await asyncio.wait_for(enough.wait(), 10)
        await asyncio.wait_for(executor.drain(), 10)
    lows = [index for index, priority in enumerate(order) if priority is LOW]
    assert lows == [5, 10, 15, 20, 25]


async def test_ten_thousand_jobs() -> None:
    """Through the queue, on the loop and in threads, each with its own result."""
    async with executing(concurrency=8, queue=20_000) as executor:
        handles = [
            executor.submit_nowait(value_of if n % 4 else abs, n, priority=tuple(Priority)[n % 3], deadline=60.0)
            for n in range(10_000)
        ]
        assert await asyncio.gather(*handles) == list(range(10_000))
        stats = executor.statistics()
    assert (stats["submitted"], stats["started"], stats["finished"]) == (10_000, 10_000, 10_000)
    assert stats["threads"] <= 8


# At the bound


async def test_reject() -> None:
    """Past the queue's limits a job is refused, with the limit's name; counted, and logged once."""
    async with executing(concurrency=1, queue=2, queues={LOW: 1}) as executor:
        handles = [executor.submit_nowait(value_of, n) for n in range(2)]
        handles.append(executor.submit_nowait(value_of, 2, priority=LOW))
        with capture_logs() as logs:
            with pytest.raises(Overloaded, match="its queue_low is full: no place for value_of") as caught:
                executor.submit_nowait(value_of, 3, priority=LOW)
            assert (caught.value.limit, caught.value.retry) == ("executor_queue_low", RetryClass.SAFE)
            for _ in range(3):
                with pytest.raises(Overloaded) as caught:
                    await executor.run(value_of, 4, priority=HIGH)
                assert caught.value.limit == "executor_queue"
        assert [entry["limit"] for entry in logs] == ["queue_low", "queue"]
        assert await asyncio.gather(*handles) == [0, 1, 2]
        assert executor.statistics()["rejected"] == 4


@pytest.mark.parametrize(("when_full", "victim"), [("drop-lowest", 2), ("drop-oldest", 1)])
async def test_drop(when_full: str, victim: int) -> None:
    """A less urgent job gives its place, and who awaits it learns why."""
    async with executing(concurrency=1, queue=2, when_full=when_full) as executor:
        handles = [executor.submit_nowait(value_of, n, priority=LOW) for n in range(3)]
        handles.append(executor.submit_nowait(value_of, 3, priority=HIGH))
        results = await asyncio.gather(*handles, return_exceptions=True)
        error = results.pop(victim)
        assert isinstance(error, Overloaded)
        assert error.limit == "executor_queue"
        assert "gave its place" in str(error)
        assert handles[victim].state is JobState.REJECTED
        assert results == [n for n in range(4) if n != victim]


async def test_wait_for_a_place() -> None:
    """The submitter waits, the more urgent first; `submit_nowait` does not, and is refused."""
    async with executing(concurrency=1, queue=1, when_full="wait") as executor:
        gate = asyncio.Event()
        first, second = await executor.submit(gate.wait), await executor.submit(value_of, 2)
        low, high = (
            asyncio.create_task(executor.submit(value_of, str(priority), priority=priority)) for priority in (LOW, HIGH)
        )
        running = asyncio.create_task(executor.run(value_of, "run"))
        await asyncio.sleep(0)
        assert executor.statistics()["waiting"] == 3
        with pytest.raises(Overloaded):
            executor.submit_nowait(value_of, 5)
        gate.set()
        handles = await asyncio.wait_for(asyncio.gather(low, high), 5)
        assert [await handle for handle in handles] == ["low", "high"]
        assert (await first, await second, await running) == (True, 2, "run")


async def test_waiting_for_a_place_ends_with_the_deadline_or_the_submitter() -> None:
    """Either way the job is gone."""
    async with executing(concurrency=1, queue=0, when_full="wait") as executor:
        blocking = executor.submit_nowait(forever)
        with pytest.raises(DeadlineExceeded, match="not started") as caught:
            await asyncio.wait_for(executor.submit(value_of, 1, deadline=0.02), 5)
        assert caught.value.retry is RetryClass.SAFE
        submitting = asyncio.create_task(executor.submit(value_of, 2))
        running = asyncio.create_task(executor.run(value_of, 3))
        await asyncio.sleep(0)
        submitting.cancel()
        running.cancel()
        await asyncio.wait([submitting, running])
        assert executor.statistics()["waiting"] == 0
        stopped = asyncio.create_task(executor.submit(value_of, 4))
        await asyncio.sleep(0)
        await executor.stop()
        with pytest.raises(ExecutorStopped):
            await stopped
        with pytest.raises(ExecutorStopped):
            await blocking


# Deadlines


async def test_a_job_not_started_by_its_deadline_never_is() -> None:
    """Its awaiter learns it at once, and its place in the queue is free."""
    called: list[int] = []
    async with executing(concurrency=1, queue=1) as executor:
        gate = asyncio.Event()
        first = executor.submit_nowait(gate.wait)
        with pytest.raises(DeadlineExceeded, match="was not started by its deadline"):
            await executor.run(called.append, 1, deadline=0.02)
        second = executor.submit_nowait(called.append, 2, deadline=30.0)
        gate.set()
        await asyncio.gather(first, second)
        with pytest.raises(DeadlineExceeded, match="past its deadline"):
            await executor.run(called.append, 3, deadline=-1.0)
        assert executor.statistics()["expired"] == 2
    assert called == [2]


async def test_a_deadline_passed_while_the_loop_was_stuck() -> None:
    """The place comes free before the timer has run: the job is not started all the same."""
    called: list[int] = []

    async def block_the_loop() -> None:
        time.sleep(0.05)

    async with executing(concurrency=1) as executor:
        blocking = executor.submit_nowait(block_the_loop)
        late = executor.submit_nowait(called.append, 1, deadline=0.02)
        fine = executor.submit_nowait(called.append, 2)
        await asyncio.gather(blocking, fine)
        assert late.state is JobState.EXPIRED
        with pytest.raises(DeadlineExceeded):
            await late
    assert called == [2]


async def test_a_running_coroutine_is_cancelled_at_its_deadline() -> None:
    """Its awaiter does not wait for its cleaning up, but its place does; what that raises is logged."""
    cleaning, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await forever()
        finally:
            cleaning.set()
            await cleaned.wait()
            raise ValueError("while cleaning up")

    async with executing(concurrency=1) as executor:
        with pytest.raises(DeadlineExceeded, match="was not finished by its deadline") as caught:
            await executor.run(work, deadline=0.02)
        assert caught.value.retry is RetryClass.MAYBE
        await asyncio.wait_for(cleaning.wait(), 5)
        next_one = executor.submit_nowait(value_of, 1)
        assert (next_one.state, executor.busy) == (JobState.QUEUED, 1)
        with capture_logs() as logs:
            cleaned.set()
            assert await next_one == 1
        assert [(entry["event"], entry["job"].rpartition(".")[2]) for entry in logs] == [
            ("job failed after it was given up", "work")
        ]


async def test_a_thread_past_its_deadline_is_abandoned(blocker: Blocker) -> None:
    """Its place stays taken until it ends; then the next job has it, and the thread."""
    async with executing(concurrency=1) as executor:
        with capture_logs() as logs, pytest.raises(DeadlineExceeded):
            await executor.run(blocker, deadline=0.02)
        assert [(entry["event"], entry["job"], entry["reason"]) for entry in logs] == [
            ("thread abandoned", "Blocker", "expired")
        ]
        stats = executor.statistics()
        assert (stats["abandoned"], stats["abandoned_running"], stats["busy"], stats["threads"]) == (1, 1, 1, 1)
        next_one = executor.submit_nowait(threading.get_ident)
        assert next_one.state is JobState.QUEUED
        blocker.release.set()
        await asyncio.wait_for(next_one, 5)
        stats = executor.statistics()
        assert (stats["abandoned"], stats["abandoned_running"], stats["busy"], stats["threads"]) == (1, 0, 0, 1)
        assert (stats["expired"], stats["finished"]) == (1, 1)


async def test_a_deadline_and_an_end_at_once() -> None:
    """Many races between the two: each job has one outcome, and the counters agree with what was seen."""
    async with executing(concurrency=50, queue=1000) as executor:
        handles = [executor.submit_nowait(asyncio.sleep, 0.01, n, deadline=0.008 + n * 1e-5) for n in range(400)]
        results = await asyncio.gather(*handles, return_exceptions=True)
        late = sum(isinstance(result, DeadlineExceeded) for result in results)
        await asyncio.wait_for(executor.drain(), 5)
        stats = executor.statistics()
        assert stats["expired"] == late
        assert stats["finished"] == 400 - late == sum(isinstance(result, int) for result in results)


# Cancellation


async def test_cancelling_a_queued_job() -> None:
    """It never runs; its handle says so, and only the first cancellation counts."""
    async with executing(concurrency=1) as executor:
        gate = asyncio.Event()
        first, second = executor.submit_nowait(gate.wait), executor.submit_nowait(value_of, 2)
        assert second.cancel()
        assert not second.cancel()
        assert (second.state, second.done) == (JobState.CANCELLED, True)
        assert executor.statistics()["queued"]["normal"] == 0
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.set()
        assert await first
        assert not first.cancel()
        assert executor.statistics()["started"] == 1


async def test_cancelling_the_awaiter_cancels_the_job() -> None:
    """A coroutine has cleaned up by the time its awaiter goes on; a queued job is gone."""
    steps = []
    started = asyncio.Event()

    async def work() -> None:
        try:
            started.set()
            await forever()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            steps.append("cleaned")

    async def wait_for(number: int) -> None:
        try:
            await executor.run(work)
        finally:
            steps.append(f"awaiter {number}")

    async with executing(concurrency=1) as executor:
        awaiters = [asyncio.create_task(wait_for(number)) for number in range(2)]
        await started.wait()
        awaiters[1].cancel()
        await asyncio.wait(awaiters[1:])
        awaiters[0].cancel()
        await asyncio.wait(awaiters)
        assert steps == ["awaiter 1", "cleaned", "awaiter 0"]
        assert executor.busy == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await executor.run(work)
        assert executor.statistics()["cancelled"] == 3


async def test_cancelling_a_thread_abandons_it(blocker: Blocker) -> None:
    """The awaiter goes on at once."""
    async with executing(concurrency=1) as executor:
        handle = executor.submit_nowait(blocker)
        awaiting = asyncio.create_task(handle.result())
        await eventually(blocker.started.is_set)
        awaiting.cancel()
        await asyncio.wait([awaiting], timeout=5)
        assert awaiting.cancelled()
        assert executor.statistics()["abandoned_running"] == 1
        blocker.release.set()
        await asyncio.wait_for(executor.drain(), 5)


# The end


async def test_drain_finishes_what_was_submitted() -> None:
    """Queued and running jobs, not new ones."""
    async with executing(concurrency=1) as executor:
        gate = asyncio.Event()
        handles = [executor.submit_nowait(gate.wait), executor.submit_nowait(value_of, 2)]
        draining = asyncio.create_task(executor.drain())
        await asyncio.sleep(0)
        with pytest.raises(ExecutorStopped, match="takes no new jobs") as caught:
            await executor.run(value_of, 3)
        assert caught.value.retry is RetryClass.SAFE
        assert not draining.done()
        gate.set()
        await asyncio.wait_for(draining, 5)
        assert [handle.state for handle in handles] == [JobState.FINISHED] * 2


async def test_stop_cuts_everything() -> None:
    """The queue, coroutines and their awaiters; safe to try again is only what had not begun."""
    cleaned = []

    async def work() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            cleaned.append(1)

    async with executing(concurrency=2) as executor:
        handles = [executor.submit_nowait(work) for _ in range(4)]
        waiting = asyncio.gather(*handles, return_exceptions=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await executor.stop()
        errors = await waiting
        assert [type(error) for error in errors] == [ExecutorStopped] * 4
        assert [cast(ExecutorStopped, error).retry for error in errors] == [RetryClass.MAYBE] * 2 + [
            RetryClass.SAFE
        ] * 2
        assert cleaned == [1, 1]
        await executor.stop()


async def test_a_thread_that_outlives_stop_is_named(blocker: Blocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can end it, but it does not go unnoticed; when it does end, its thread does."""
    monkeypatch.setattr(executor_module, "STOP_GRACE", 0.05)
    threads = threading.active_count()
    executor = Executor("test")
    await executor.start()
    handle = executor.submit_nowait(blocker)
    with capture_logs() as logs:
        await executor.stop()
    with pytest.raises(ExecutorStopped):
        await handle
    assert [(entry["event"], entry.get("jobs")) for entry in logs] == [
        ("jobs cut", ["Blocker"]),
        ("thread abandoned", None),
        ("jobs still run after the executor was stopped", ["Blocker"]),
    ]
    assert executor.statistics()["threads"] == 1
    blocker.release.set()
    await eventually(lambda: threading.active_count() == threads and executor.busy == 0)


async def test_a_loop_that_is_gone_does_not_hurt_a_thread(blocker: Blocker) -> None:
    """An abandoned job that ends after its loop was closed ends in silence."""
    seen: list[Any] = []

    def own_loop() -> None:
        async def main() -> None:
            executor = Executor("test")
            await executor.start()
            executor.submit_nowait(blocker)
            await eventually(blocker.started.is_set)

        asyncio.run(main())

    before = set(threading.enumerate())
    hook, threading.excepthook = threading.excepthook, seen.append
    try:
        await asyncio.to_thread(own_loop)
        (left,) = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("test-")]
        blocker.release.set()
        await eventually(lambda: not left.is_alive())
    finally:
        threading.excepthook = hook
    assert seen == []


async def test_a_job_may_stop_its_executor() -> None:
    """It does not wait for itself."""
    async with executing() as executor:
        other = executor.submit_nowait(forever)
        handle = executor.submit_nowait(executor.stop)
        with pytest.raises(ExecutorStopped):
            await asyncio.wait_for(handle.result(), 5)
        with pytest.raises(ExecutorStopped):
            await other
        await eventually(lambda: executor.busy == 0)


async def test_not_started_or_twice() -> None:
    """Mistakes of the program, and said so."""
    executor = Executor("test")
    with pytest.raises(RuntimeError, match="was not started"):
        executor.submit_nowait(value_of, 1)
    await executor.stop()
    executor = Executor("test")
    await executor.start()
    with pytest.raises(RuntimeError, match="can be started once"):
        await executor.start()
    await executor.drain()
    await executor.stop()
    async with executing() as executor:
        with pytest.raises(ValueError, match="kind 'fiber': must be one of coroutine, thread, process"):
            await executor.run(value_of, 1, kind=cast(Any, "fiber"))
        with pytest.raises(ValueError, match="urgent"):
            await executor.run(value_of, 1, priority=cast(Any, "urgent"))
    with pytest.raises(ValueError, match="concurrency 0"):
        Executor("test", concurrency=0)


# What nobody awaits


async def test_a_failure_that_nobody_awaits_is_logged() -> None:
    """Whether the handle was let go before or after; not when it was awaited."""

    async def fail() -> None:
        raise ValueError("nobody looks")

    with capture_logs() as logs:
        async with executing() as executor:
            executor.submit_nowait(fail)  # let go at once
            kept: Handle[None] | None = executor.submit_nowait(fail)
            awaited = executor.submit_nowait(fail)
            with pytest.raises(ValueError, match="nobody looks"):
                await awaited
            await executor.drain()
            del awaited
            assert len(logs) == 1
            assert kept is not None
            assert kept.state is JobState.FAILED
            kept = None
            gc.collect()
            assert len(logs) == 2
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("job failed, and nobody awaited it", "error")
    ] * 2


async def test_one_that_was_too_late_and_nobody_awaits_is_logged() -> None:
    """As a warning; and asyncio has nothing to complain about."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    with capture_logs() as logs:
        async with executing(concurrency=1) as executor:
            executor.submit_nowait(asyncio.sleep, 30, deadline=0.01)
            await eventually(lambda: logs)
    gc.collect()
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("job not done, and nobody awaited it", "warning")
    ]
    assert complaints == []


async def test_metrics() -> None:
    """Every counter of the statistics, labelled with the executor's name."""
    async with executing(queue=3) as executor:
        await executor.run(value_of, 1)
        families = {family.name: family for family in executor.collect()}
    assert {name.removeprefix("forebay_executor_") for name in families} == {
        *("submitted", "started", "ended", "abandoned", "queued", "waiting", "busy"),
        *("abandoned_running", "concurrency", "threads", "processes"),
    }
    ended = families["forebay_executor_ended"].samples
    assert [(dict(sample.labels)["end"], sample.value) for sample in ended] == [
        *(("finished", 1), ("failed", 0), ("rejected", 0), ("expired", 0), ("cancelled", 0)),
    ]
    assert all(("executor", "test") in sample.labels for family in families.values() for sample in family.samples)


_ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["sleep", "thread", "fail", "cancel", "turn", "wait"]),
        st.sampled_from(list(Priority)),
        st.sampled_from([None, 0.001, 5.0]),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(_ACTIONS, st.sampled_from(["reject", "wait", "drop-lowest", "drop-oldest"]), st.integers(0, 3), st.booleans())
def test_any_mixture_comes_to_an_end(actions: list[Any], when_full: Any, queue: int, drain: bool) -> None:
    """Jobs of all sorts, cancelled and late: each has one outcome, and nothing is left (asyncio's loop)."""

    async def main() -> None:
        async with executing(concurrency=2, queue=queue, when_full=when_full) as executor:
            awaiting: list[asyncio.Task[Any]] = []
            for action, priority, deadline in actions:
                if action in ("sleep", "thread", "fail"):
                    function: Any = {"sleep": asyncio.sleep, "thread": time.sleep, "fail": divmod}[action]
                    run = executor.run(
                        partial(function, *((1, 0) if action == "fail" else (0.002,))),
                        priority=priority,
                        deadline=deadline,
                    )
                    awaiting.append(asyncio.create_task(run))
                elif action == "cancel" and awaiting:
                    awaiting[len(actions) % len(awaiting)].cancel()
                elif action == "wait":
                    await asyncio.sleep(0.001)
                else:
                    await asyncio.sleep(0)
            async with asyncio.timeout(10):
                await asyncio.sleep(0)
                await (executor.drain() if drain else executor.stop())
                await asyncio.gather(*awaiting, return_exceptions=True)
            assert executor.statistics()["submitted"] <= len(awaiting)

    asyncio.run(main())
