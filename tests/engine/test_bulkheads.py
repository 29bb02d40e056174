"""Waiting for a place among tasks, on a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from forebay.engine.bulkheads import Slots
from forebay.engine.loop import now
from forebay.errors import Overloaded
from forebay.policy.adaptive import Adaptive
from forebay.policy.bulkhead import Bulkhead
from forebay.policy.deadline import deadline
from forebay.policy.priority import Priority
from forebay.testing.virtual_clock import VirtualClock

HIGH, NORMAL, LOW = Priority


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """Virtual time."""
    with VirtualClock(packages=(__name__,)) as clock:
        yield clock


def test_no_more_than_the_limit_at_once(clock: VirtualClock) -> None:
    """Ten calls of a second with three places take four seconds, and three at most are inside."""

    async def main() -> None:
        slots = Slots(Bulkhead(3, max_wait=60.0), "orders")
        most = 0
        began = now()

        async def call() -> None:
            nonlocal most
            async with slots:
                most = max(most, slots.statistics()["in_flight"])
                await asyncio.sleep(1.0)

        await asyncio.gather(*(call() for _ in range(10)))
        assert most == 3
        assert now() - began == pytest.approx(4.0)
        assert repr(slots) == "<Slots orders 0/3 waiting=0>"
        assert slots.statistics()["admitted"] == 10

    clock.run(main())


def test_the_urgent_go_first_and_nobody_overtakes(clock: VirtualClock) -> None:
    """Also not who asks in the very moment in which a place was given to one that waits."""

    async def main() -> None:
        slots = Slots(Bulkhead(1, max_wait=60.0))
        order: list[str] = []

        async def call(name: str, priority: Priority) -> None:
            began = await slots.acquire(priority)
            order.append(name)
            await asyncio.sleep(1.0)
            slots.release(began)

        held = await slots.acquire()
        names = [("l", LOW), ("n1", NORMAL), ("n2", NORMAL), ("h", HIGH)]
        tasks = [asyncio.create_task(call(*name)) for name in names]
        await asyncio.sleep(0)
        slots.release(held)
        tasks.append(asyncio.create_task(call("late", NORMAL)))
        await asyncio.gather(*tasks)
        assert order == ["h", "n1", "n2", "late", "l"]

    clock.run(main())


def test_waiting_ends(clock: VirtualClock) -> None:
    """At `max_wait`, or before when the deadline comes first, to the millisecond; with the reason in the error."""

    async def main() -> None:
        slots = Slots(Bulkhead(1, max_wait=0.3))
        await slots.acquire()
        began = now()
        with pytest.raises(Overloaded, match=r"waited 0\.300 s") as caught:
            await slots.acquire()
        assert now() - began == pytest.approx(0.3, abs=0.001)
        assert caught.value.limit == "bulkhead"
        with pytest.raises(Overloaded, match="deadline"):
            await slots.acquire(deadline=now() + 0.1)
        assert now() - began == pytest.approx(0.4, abs=0.001)
        found = slots.statistics()
        assert (found["refused"], found["waiting"], found["in_flight"]) == ({"max-wait": 1, "deadline": 1}, 0, 1)

    clock.run(main())


def test_who_is_pushed_out_is_told_at_once(clock: VirtualClock) -> None:
    """And who took its place waits on."""

    async def main() -> None:
        slots = Slots(Bulkhead(1, max_waiting=1))
        held = await slots.acquire()
        low = asyncio.create_task(slots.acquire(LOW))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 wait"):
            await slots.acquire(LOW)
        high = asyncio.create_task(slots.acquire(HIGH))
        began = now()
        with pytest.raises(Overloaded, match="gave its place"):
            await low
        assert now() == began
        slots.release(held)
        assert await high == began

    clock.run(main())


def test_a_place_of_one_that_is_cancelled_goes_on(clock: VirtualClock) -> None:
    """Before it was given the place, in the same moment, and after."""

    async def main(first: str) -> None:
        slots = Slots(Bulkhead(1))
        await slots.acquire()
        waiting, next_one = asyncio.create_task(slots.acquire()), asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        if first == "cancel":
            waiting.cancel()
            slots.release()
        else:
            slots.release()
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await next_one
        slots.release()
        found = slots.statistics()
        assert (found["in_flight"], found["waiting"], found["abandoned"]) == (0, 0, 1)

    clock.run(main("cancel"))
    clock.run(main("release"))


def test_retry_after(clock: VirtualClock) -> None:
    """It is about the time that one would have to wait, once calls were seen."""

    async def main() -> None:
        slots = Slots(Bulkhead(2, max_waiting=0))
        for _ in range(100):
            async with slots:
                await asyncio.sleep(0.5)
        await slots.acquire()
        await slots.acquire()
        with pytest.raises(Overloaded) as caught:
            await slots.acquire()
        assert caught.value.retry_after == pytest.approx(0.25, rel=0.01)

    clock.run(main())


def test_resize_and_close(clock: VirtualClock) -> None:
    """More places wake those who wait; closing sends them away, and whoever comes; who is inside may leave."""

    async def main() -> None:
        slots = Slots(Bulkhead(1, max_wait=60.0))
        await slots.acquire()
        tasks = [asyncio.create_task(slots.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        slots.resize(3)
        await asyncio.gather(*tasks[:2])
        assert not tasks[2].done()
        slots.close()
        slots.close()
        with pytest.raises(Overloaded, match="closed"):
            await tasks[2]
        with pytest.raises(Overloaded, match="closed"):
            async with slots:
                pass
        for _ in range(3):
            slots.release()
        with pytest.raises(RuntimeError, match="more often"):
            slots.release()

    clock.run(main())


def test_off(clock: VirtualClock) -> None:
    """Everyone has a place, and is counted."""

    async def main() -> None:
        slots = Slots(Bulkhead(1, max_waiting=0), enabled=False)
        assert not slots.enabled
        for _ in range(5):
            await slots.acquire()
        assert slots.statistics()["in_flight"] == 5
        slots.enabled = True
        with pytest.raises(Overloaded):
            await slots.acquire()

    clock.run(main())


def test_an_adaptive_limit_learns_from_the_calls(clock: VirtualClock) -> None:
    """A server of ten places, twenty seconds of more callers than that: the limit is about ten."""

    async def main() -> None:
        slots = Slots(Bulkhead(Adaptive(), max_waiting=1000, max_wait=60.0))
        server = asyncio.Semaphore(10)
        end = now() + 20.0

        async def caller() -> None:
            while now() < end:
                async with slots, server:
                    await asyncio.sleep(0.1)

        await asyncio.gather(*(caller() for _ in range(100)))
        found = slots.statistics()
        assert 8 <= found["limit"] <= 22
        assert found["adaptive"]["baseline"] == pytest.approx(0.1, rel=0.3)
        assert not slots._began  # nothing is kept of calls that have ended

    clock.run(main())


@pytest.mark.parametrize(
    ("error", "lower"), [(TimeoutError(), True), (Overloaded("x", "x"), True), (ValueError(), False)]
)
def test_what_errors_say_about_load(clock: VirtualClock, error: Exception, lower: bool) -> None:
    """Timeouts and refusals lower the limit; another error, however fast it comes, does not change it."""

    async def main() -> None:
        slots = Slots(Bulkhead(Adaptive(look_every=1e6), max_wait=60.0))

        async def caller(failing: bool) -> None:
            for _ in range(100):
                try:
                    async with slots:
                        await asyncio.sleep(0.01 if failing and not lower else 0.1)
                        if failing:
                            raise error
                except type(error):
                    pass

        await asyncio.gather(*(caller(False) for _ in range(5)))
        before = slots.statistics()["limit"]
        await asyncio.gather(*(caller(True) for _ in range(5)))
        assert before == 20
        assert (slots.statistics()["limit"] < before) is lower

    clock.run(main())


def test_thousands_who_are_cancelled_at_once(clock: VirtualClock) -> None:
    """The place that they hand on to each other before they have run comes to the one behind all of them."""

    async def main() -> None:
        slots = Slots(Bulkhead(1, max_waiting=5_000))
        began = await slots.acquire()
        tasks = [asyncio.create_task(slots.acquire()) for _ in range(5_000)]
        await clock.settle()
        for task in tasks[:-1]:
            task.cancel()
        slots.release(began)
        await tasks[-1]
        slots.release()
        await clock.settle()
        counts = slots.statistics()
        assert (counts["in_flight"], counts["waiting"], counts["abandoned"]) == (0, 0, 4_999)

    clock.run(main())


def test_a_block_that_ends_in_another_task_is_not_remembered(clock: VirtualClock) -> None:
    """When it began is forgotten with its end, and the task that began it."""

    async def main() -> None:
        slots = Slots(Bulkhead(Adaptive()))
        begun: list[object] = []
        for _ in range(3):
            await asyncio.create_task(slots.__aenter__())
            begun += slots._began
            await slots.__aexit__(None, None, None)
        assert len(begun) == 3
        assert not slots._began

    clock.run(main())


def test_the_current_deadline_counts() -> None:
    """Whoever has none in hand, has that of what it is done for."""

    async def main() -> None:
        slots = Slots(Bulkhead(limit=1, max_wait=10))
        await slots.acquire()
        began = now()
        with deadline(0.5), pytest.raises(Overloaded) as refused:
            await slots.acquire()
        assert refused.value.reason == "deadline"
        with deadline(0.5), pytest.raises(Overloaded):
            async with slots:
                pass
        assert now() - began <= 1.01

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(main())
