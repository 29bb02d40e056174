"""``fail_after``: what is within ends when its time is over, and whose time that was is told apart."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from math import nan

import pytest

from forebay.engine.deadlines import TimeLimits, fail_after
from forebay.engine.loop import now
from forebay.errors import DeadlineExceeded, RetryClass
from forebay.policy.deadline import deadline
from forebay.testing.virtual_clock import VirtualClock


def run(main: Callable[[], Awaitable[None]]) -> None:
    """``main`` on a virtual clock."""

    async def whole() -> None:
        await main()

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(whole())


def test_it_ends_what_is_within() -> None:
    """At its time, with an error that names it; within, the deadline is known."""

    async def main() -> None:
        began = now()
        with pytest.raises(DeadlineExceeded, match=r"not done within 2 s") as caught:
            async with fail_after(2.0):
                assert deadline.remaining() == pytest.approx(2.0)
                await asyncio.sleep(60)
        assert now() - began == pytest.approx(2.0, abs=0.01)
        assert (caught.value.inherited, caught.value.retry) == (False, RetryClass.MAYBE)
        assert deadline.current() > 1e300

    run(main)


def test_what_is_done_in_time_is_left_alone() -> None:
    """Also afterwards, and when it fails by itself."""

    async def main() -> None:
        async with fail_after(2.0):
            await asyncio.sleep(1)
        with pytest.raises(KeyError):
            async with fail_after(2.0):
                raise KeyError
        await asyncio.sleep(10)

    run(main)


def test_nested_the_earliest_counts() -> None:
    """The inner one says that it was the caller's time, and the outer one that it was its own."""

    async def main() -> None:
        began = now()
        with pytest.raises(DeadlineExceeded, match="within 1 s") as outer:
            async with fail_after(1.0):
                with pytest.raises(DeadlineExceeded, match="of the caller") as inner:
                    async with fail_after(5.0):
                        await asyncio.sleep(60)
                assert (inner.value.inherited, inner.value.retry) == (True, RetryClass.NEVER)
                await asyncio.sleep(60)
        assert not outer.value.inherited
        assert now() - began == pytest.approx(1.0, abs=0.02)

    run(main)


def test_whose_time_it_was_does_not_depend_on_whose_timer_is_first() -> None:
    """Timers of one moment may fire in any order: what the inner one says is put right by the one whose time it was."""

    async def main() -> None:
        for late in (0.0, 0.001):

            async def inner(late: float = late) -> None:
                await asyncio.sleep(1.0 - late)
                raise DeadlineExceeded("the inner timer was first", inherited=True)

            with pytest.raises(DeadlineExceeded, match="within 1 s") as caught:
                async with fail_after(1.0):
                    await inner()
            assert not caught.value.inherited
        with pytest.raises(DeadlineExceeded, match="was first") as caught:  # that of a shorter one in between
            async with fail_after(2.0):
                await inner()
        assert caught.value.inherited
        with deadline(1.0), pytest.raises(DeadlineExceeded, match="was first") as caught:
            async with fail_after(5.0):
                await inner()
        assert caught.value.inherited

    run(main)


def test_a_plain_deadline_around_it_counts() -> None:
    """``with deadline`` interrupts nothing by itself, but ``fail_after`` within it keeps to it."""

    async def main() -> None:
        with deadline(1.0):
            began = now()
            with pytest.raises(DeadlineExceeded, match="of the caller"):
                async with fail_after(float("inf")):
                    await asyncio.sleep(60)
            assert now() - began == pytest.approx(1.0, abs=0.02)

    run(main)


def test_a_deadline_that_is_over() -> None:
    """What would wait is interrupted at once; what does not wait is done."""

    async def main() -> None:
        done = False
        with pytest.raises(DeadlineExceeded):
            async with fail_after(0):
                done = True
                await asyncio.sleep(60)
        assert done

    run(main)


def test_a_cancellation_from_elsewhere_stays_one() -> None:
    """Before its time, and in the very same moment."""

    async def main() -> None:
        async def work() -> None:
            async with fail_after(2.0):
                await asyncio.sleep(60)

        for seconds in (1.0, 2.0):
            task = asyncio.create_task(work())
            asyncio.get_running_loop().call_later(seconds, task.cancel)
            with pytest.raises((asyncio.CancelledError, DeadlineExceeded)):
                await task
            if seconds < 2:
                assert task.cancelled()

    run(main)


def test_both_at_once_is_a_cancellation() -> None:
    """Whoever cancels a task sees it cancelled, whatever else has come to its end in that turn."""

    async def main() -> None:
        limit = fail_after(1.0)

        async def work() -> None:
            async with limit:
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        limit.expire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_limits_of_one_length_share_a_timer() -> None:
    """Each ends at its own time, whatever became of those before it; nothing is kept of what has ended."""

    async def main() -> None:
        limits = TimeLimits(2.0)
        ends: dict[int, float] = {}
        began = now()

        async def work(number: int, seconds: float) -> None:
            limit = limits.new()
            try:
                async with limit:
                    await asyncio.sleep(seconds)
            except DeadlineExceeded:
                ends[number] = now() - began

        tasks = []
        for number in range(30):
            tasks.append(asyncio.create_task(work(number, 60 if number % 3 == 0 else 0.5)))
            await asyncio.sleep(0.1)
        await asyncio.gather(*tasks)
        assert list(ends) == list(range(0, 30, 3))
        for number, seconds in ends.items():
            assert seconds == pytest.approx(2.0 + number * 0.1, abs=0.01)
        assert len(limits) == 0
        await asyncio.sleep(10)
        with pytest.raises(DeadlineExceeded):  # also after a while without any
            async with limits.new():
                await asyncio.sleep(60)
        with deadline(0.5), pytest.raises(DeadlineExceeded, match="of the caller"):
            async with limits.new():
                await asyncio.sleep(60)
        assert len(limits) == 0

    run(main)


async def test_very_many_that_end_at_once() -> None:
    """Not a benchmark: it takes linear time, where quadratic would be ten seconds for which the loop stands still."""
    limits = TimeLimits(60.0)
    many = [limits.new() for _ in range(100_000)]
    for limit in many:
        limit.at = 0.0
        limits.add(limit, asyncio.get_running_loop())
    began = time.perf_counter()
    limits._expired()
    assert time.perf_counter() - began < 2.0
    assert all(limit.over for limit in many)
    assert len(limits) == 0


def test_limits_serve_several_loops_at_once() -> None:
    """Those of one do not end the limits of another, nor make them endless."""
    limits = TimeLimits(0.1)
    ready = threading.Barrier(3)
    outcomes: list[str] = []

    async def main() -> None:
        for _ in range(2):
            ready.wait(5)
            try:
                async with limits.new():
                    await asyncio.sleep(1.5)
            except DeadlineExceeded:
                outcomes.append("over")

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert outcomes == ["over"] * 6
    assert len(limits) == 0


def test_limits_serve_one_loop_after_the_other() -> None:
    """A function that was decorated for good is called by many programs' loops, in tests above all."""
    limits = TimeLimits(0.05)

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            async with limits.new():
                await asyncio.sleep(60)
        task = asyncio.create_task(left_over())
        await asyncio.sleep(0)
        task.cancel()

    async def left_over() -> None:
        async with limits.new():
            await asyncio.sleep(60)

    for _ in range(3):
        asyncio.run(main())
    assert len(limits) == 0


async def test_each_is_used_once() -> None:
    """A second time it would take the cancellation of others for its own."""
    limit = fail_after(60.0)
    async with limit:
        with pytest.raises(RuntimeError, match="entered already"):
            limit.enter()
    with pytest.raises(RuntimeError, match="entered already"):
        async with limit:
            pass


def test_closed_in_another_context() -> None:
    """As a generator is that was left alone: nobody is cancelled for it later."""

    async def pieces() -> AsyncGenerator[int, None]:
        async with fail_after(1.0):
            yield 1

    async def close(generator: AsyncGenerator[int, None]) -> None:
        await generator.aclose()

    async def main() -> None:
        generator = pieces()
        assert await anext(generator) == 1
        await asyncio.create_task(close(generator))
        await asyncio.sleep(5)

    run(main)


async def test_bad_times() -> None:
    """They are named."""
    for seconds in (-1.0, nan):
        with pytest.raises(ValueError, match="must be at least 0"):
            fail_after(seconds)


def test_outside_of_a_task() -> None:
    """There is nothing to interrupt, which is said."""
    with pytest.raises(RuntimeError):
        fail_after(1.0).enter()
