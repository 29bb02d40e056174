"""Waiting for what a limiter lets through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from math import inf
from typing import Any

import pytest

from forebay.engine.loop import now
from forebay.engine.throttle import Throttle
from forebay.errors import DeadlineExceeded, Overloaded, RetryClass
from forebay.policy.deadline import deadline
from forebay.policy.limiters import SlidingWindow, TokenBucket, WarmUp
from forebay.testing.virtual_clock import VirtualClock


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """The time, which is the loop's and this module's."""
    with VirtualClock(packages=(__name__,)) as clock:
        yield clock


class Line:
    """Tasks that acquire, and when each of them came through, in seconds since the beginning."""

    def __init__(self, throttle: Throttle) -> None:
        self.throttle = throttle
        self.begin = now()
        self.passed: list[tuple[str, float]] = []
        self.refused: list[tuple[str, float]] = []
        self.errors: dict[str, Exception] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, name: str, count: int = 1, **more: float) -> asyncio.Task[None]:
        """One more comes."""
        self.tasks[name] = asyncio.create_task(self._one(name, count, **more), name=name)
        return self.tasks[name]

    async def _one(self, name: str, count: int, **more: float) -> None:
        try:
            await self.throttle.acquire(count, **more)
        except (Overloaded, DeadlineExceeded) as error:
            self.refused.append((name, round(now() - self.begin, 6)))
            self.errors[name] = error
        else:
            self.passed.append((name, round(now() - self.begin, 6)))

    async def ends(self) -> None:
        """All of them have ended."""
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


def idle(throttle: Throttle) -> bool:
    """Nothing is left of those who waited."""
    return (
        not len(throttle)
        and throttle._ahead == throttle._claimed == 0
        and throttle._timer is None
        and throttle._held == (throttle._closed or not throttle.enabled)
    )


Run = Callable[[Coroutine[Any, Any, None]], None]


# The line


def test_they_come_through_at_the_rate_and_in_order(clock: VirtualClock) -> None:
    """Two at once, then one each half second, in the order in which they came."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(2.0, 2), max_wait=10.0))
        for name in "abcdef":
            line.add(name)
        await line.ends()
        assert line.passed == [("a", 0.0), ("b", 0.0), ("c", 0.5), ("d", 1.0), ("e", 1.5), ("f", 2.0)]
        said = throttle.statistics()
        assert (said["acquired"], said["waited"], said["waiting"]) == (6, 4, 0)
        assert said["waited_seconds"] == pytest.approx(5.0)
        assert idle(throttle)

    clock.run(main())


def test_a_large_one_at_the_head_is_not_starved(clock: VirtualClock) -> None:
    """Five tokens are waited for; small ones that come meanwhile stay behind, though there are tokens for them."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(1.0, 5), max_wait=100.0))
        assert throttle.try_acquire(5)
        line.add("large", 5)
        for n in range(3):
            line.add(f"small {n}")
        await clock.elapse(4.5)
        assert line.passed == []
        assert not throttle.try_acquire()
        line.add("late")
        await line.ends()
        assert line.passed == [("large", 5.0), ("small 0", 6.0), ("small 1", 7.0), ("small 2", 8.0), ("late", 9.0)]

    clock.run(main())


def test_who_leaves_makes_place_at_once(clock: VirtualClock) -> None:
    """A large one at the head is cancelled: those behind it, for whom there is enough by then, go on in that moment."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(1.0, 5), max_wait=100.0))
        assert throttle.try_acquire(5)
        large = line.add("large", 5)
        for name in "abc":
            line.add(name)
        await clock.elapse(2.25)
        large.cancel()
        await line.ends()
        assert line.passed == [("a", 2.25), ("b", 2.25), ("c", 3.0)]
        assert throttle.statistics()["cancelled"] == 1
        assert idle(throttle)

    clock.run(main())


def test_many_are_let_in_at_once(clock: VirtualClock) -> None:
    """After the loop has stood still for a second there is enough for ten: they all go on in the same turn, in
    order."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(10.0, 10), max_wait=10.0))
        assert throttle.try_acquire(10)
        for n in range(12):
            line.add(str(n))
        await asyncio.sleep(0)
        clock.advance(1.0)
        for _ in range(3):
            await asyncio.sleep(0)
        assert line.passed == [(str(n), 1.0) for n in range(10)]
        await line.ends()
        assert line.passed[10:] == [("10", 1.1), ("11", 1.2)]

    clock.run(main())


def test_who_comes_between_waking_and_running_stays_behind(clock: VirtualClock) -> None:
    """A token is there for the head, which was told and did not run: one who comes just then does not take it."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(1.0, 2), max_wait=10.0))
        assert throttle.try_acquire(2)
        line.add("first")
        await asyncio.sleep(0)
        clock.advance(2.5)  # two tokens are there, and one is waited for
        line.add("second")  # runs before the first one does, which is told now
        throttle._on_timer()
        assert len(throttle._woken) == 1
        assert not throttle.try_acquire()
        await line.ends()
        assert line.passed == [("first", 2.5), ("second", 2.5)]

    clock.run(main())


def test_one_timer_for_all(clock: VirtualClock) -> None:
    """A hundred wait, and the loop has one timer of theirs."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        line = Line(Throttle(TokenBucket(1.0, 1), max_wait=1_000.0))
        before = len(loop._scheduled)
        for n in range(100):
            line.add(str(n))
        await asyncio.sleep(0)
        assert len(loop._scheduled) == before + 1
        await line.ends()
        assert line.passed[-1] == ("99", 99.0)

    clock.run(main())


@pytest.mark.parametrize("limiter", [SlidingWindow(3, 1.0), WarmUp(3.0, 3, 10.0)], ids=["window", "warm-up"])
def test_any_limiter_will_do(clock: VirtualClock, limiter: SlidingWindow | WarmUp) -> None:
    """Ten come through in order, at the times that the limiter foresaw for each of them."""

    async def main() -> None:
        foreseen = [limiter.wait(now(), 1, ahead) for ahead in range(10)]
        line = Line(throttle := Throttle(limiter, max_wait=60.0))
        for n in range(10):
            line.add(str(n))
        await line.ends()
        assert [name for name, _ in line.passed] == [str(n) for n in range(10)]
        assert [at for _, at in line.passed] == pytest.approx(foreseen, abs=1e-5)
        assert idle(throttle)

    clock.run(main())


# Bounds


def test_who_would_wait_too_long_is_refused_at_once(clock: VirtualClock) -> None:
    """Two seconds are allowed: the third in line would wait for three, and hears it now, with when to come again."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(1.0, 1), max_wait=2.0, name="mail"))
        for name in "abcd":
            line.add(name)
        await line.ends()
        assert line.passed == [("a", 0.0), ("b", 1.0), ("c", 2.0)]
        assert line.refused == [("d", 0.0)]
        error = line.errors["d"]
        assert isinstance(error, Overloaded)
        assert (error.limit, error.retry) == ("mail", RetryClass.SAFE)
        assert error.retry_after == pytest.approx(3.0)
        assert str(error) == "mail: 2 wait already, and it would take 3 s, which is past the max wait"
        assert throttle.statistics()["refused"] == {"max_wait": 1}

    clock.run(main())


def test_no_more_wait_than_may(clock: VirtualClock) -> None:
    """Two places: the next one is refused, and one who comes when a place is free again waits."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(1.0, 1), max_wait=60.0, max_waiting=2))
        for name in "abcd":
            line.add(name)
        await clock.elapse(1.0)
        assert line.refused == [("d", 0.0)]
        assert str(line.errors["d"]) == "limiter: 2 wait already"
        line.add("e")
        await line.ends()
        assert line.passed == [("a", 0.0), ("b", 1.0), ("c", 2.0), ("e", 3.0)]
        assert throttle.statistics()["refused"] == {"max_waiting": 1}

    clock.run(main())


@pytest.mark.parametrize("bound", ["max_wait", "max_waiting"])
def test_without_waiting(clock: VirtualClock, bound: str) -> None:
    """Zero seconds, or places: what is there is taken, and the rest refused."""
    bounds: dict[str, Any] = {bound: 0}

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(1.0, 2), **bounds))
        for name in "abc":
            line.add(name)
        await line.ends()
        assert (line.passed, line.refused) == ([("a", 0.0), ("b", 0.0)], [("c", 0.0)])
        assert throttle.statistics()["refused"] == {bound: 1}

    clock.run(main())


def test_more_than_the_burst_is_refused_for_good(clock: VirtualClock) -> None:
    """It will never be there, so nobody should try again, however long they may wait."""

    async def main() -> None:
        throttle = Throttle(TokenBucket(1.0, 3), max_wait=inf)
        line = Line(throttle)
        for _ in range(2):
            await throttle.acquire(3)
        line.add("waits for one")
        waits = line.add("waits for three", 3)
        await clock.elapse(0.5)
        throttle.set_rate(1.0, 2)
        await clock.settle()
        assert waits.done()
        await line.ends()
        assert line.passed == [("waits for one", 4.0)]
        assert "more than 2 at once" in str(line.errors["waits for three"])
        throttle.set_rate(1.0, 3)
        with pytest.raises(Overloaded, match="more than 3 at once are never let through") as caught:
            await throttle.acquire(4)
        assert (caught.value.retry, caught.value.retry_after) == (RetryClass.NEVER, None)
        for count in (0, -1):
            with pytest.raises(ValueError, match="must be at least 1"):
                await throttle.acquire(count)
        assert throttle.statistics()["refused"] == {"burst": 2}
        assert idle(throttle)

    clock.run(main())


def test_a_deadline_that_cannot_be_met(clock: VirtualClock) -> None:
    """In a second it is: who would wait for two is refused at once, who waits for one is not. One that has passed is an
    error of its own, though there are tokens."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(1.0, 1), max_wait=60.0))
        with pytest.raises(DeadlineExceeded):
            await throttle.acquire(deadline=now() - 0.1)
        for name in "abc":
            line.add(name, deadline=now() + 1.0)
        await line.ends()
        assert line.passed == [("a", 0.0), ("b", 1.0)]
        assert line.refused == [("c", 0.0)]
        assert "past the deadline" in str(line.errors["c"])
        assert throttle.statistics()["refused"] == {"deadline": 2}

    clock.run(main())


# What changes meanwhile


def test_a_faster_rate_helps_who_waits(clock: VirtualClock) -> None:
    """A line of minutes is one of seconds from the moment of the change."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(0.01, 1), max_wait=inf))
        for name in "abc":
            line.add(name)
        await clock.elapse(5.0)
        throttle.set_rate(1.0, 1)
        await line.ends()
        assert line.passed == [("a", 0.0), ("b", 5.95), ("c", 6.95)]

    clock.run(main())


def test_a_slower_rate_refuses_who_would_wait_in_vain(clock: VirtualClock) -> None:
    """At once, and not after they have waited; those who still come in time stay."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(1.0, 2), max_wait=5.0))
        assert throttle.try_acquire(2)
        for name in "ab":
            line.add(name)
        line.add("pressed", deadline=now() + 3.5)
        line.add("large", 2)
        await clock.elapse(0.5)
        throttle.set_rate(0.4, 1)
        await line.ends()
        assert line.passed == [("a", 1.75), ("b", 4.25)]
        assert line.refused == [("pressed", 0.5), ("large", 0.5)]
        assert throttle.statistics()["refused"] == {"deadline": 1, "burst": 1}
        assert idle(throttle)

    clock.run(main())


def test_another_taker_delays_nobody_in_vain(clock: VirtualClock) -> None:
    """Somebody else takes from the same limiter. Those in line wait longer, in their order; who by that would wait past
    their time are refused as soon as it shows, and nobody waits for more than a tenth above it."""

    async def main() -> None:
        bucket = TokenBucket(1.0, 2)
        line = Line(throttle := Throttle(bucket, max_wait=3.0))
        assert throttle.try_acquire(2)
        for name in "abc":
            line.add(name)
        await clock.elapse(0.9)
        bucket.set_rate(1.0, 10, now())  # behind the throttle's back
        clock.advance(0.2)
        assert bucket.take(now()) == 0.0
        await line.ends()
        assert line.passed == [("a", 2.0), ("b", 3.0)]
        assert line.refused == [("c", 1.1)]
        assert idle(throttle)

    clock.run(main())


def test_tokens_that_are_gone_when_those_who_were_let_in_run(clock: VirtualClock) -> None:
    """Three are told that it is their turn, and somebody else takes all before they run: they wait on, in order."""

    async def main() -> None:
        bucket = TokenBucket(1.0, 3)
        line = Line(throttle := Throttle(bucket, max_wait=60.0))
        assert throttle.try_acquire(3)
        for name in "abcde":
            line.add(name)
        await asyncio.sleep(0)
        clock.advance(3.0)
        throttle._on_timer()
        assert len(throttle._woken) == 3
        assert bucket.take(now(), 3) == 0.0
        await line.ends()
        assert line.passed == [("a", 4.0), ("b", 5.0), ("c", 6.0), ("d", 7.0), ("e", 8.0)]
        assert idle(throttle)

    clock.run(main())


def test_switched_off_it_lets_everybody_pass(clock: VirtualClock) -> None:
    """Those in line first and in order, and who comes then; switched on again it limits."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(0.1, 1), max_wait=inf))
        for name in "abc":
            line.add(name, 1)
        await clock.elapse(1.0)
        throttle.enabled = False
        line.add("d", 100)
        await line.ends()
        assert throttle.try_acquire(100)
        assert line.passed == [("a", 0.0), ("b", 1.0), ("c", 1.0), ("d", 1.0)]
        assert idle(throttle)
        throttle.enabled = True
        assert not throttle.try_acquire()
        await clock.elapse(9.0)
        assert throttle.try_acquire()
        assert throttle.statistics()["limiter"]["taken"] == 2

    clock.run(main())


def test_closing_refuses_all(clock: VirtualClock) -> None:
    """Those who wait, one who was let in and did not run, and those who come; closing again does nothing."""

    async def main() -> None:
        line = Line(throttle := Throttle(TokenBucket(1.0, 1), max_wait=60.0))
        for name in "abc":
            line.add(name)
        await asyncio.sleep(0)
        clock.advance(1.0)
        throttle._on_timer()
        assert len(throttle._woken) == 1
        throttle.close()
        throttle.close()
        line.add("d")
        await line.ends()
        assert [name for name, _ in line.refused] == ["b", "c", "d"]
        assert not throttle.try_acquire()
        with pytest.raises(Overloaded, match="limiter: closed"):
            await throttle.acquire()
        assert throttle.statistics()["refused"] == {"closed": 5}
        assert idle(throttle)
        assert "closed" in repr(throttle)

    clock.run(main())


# The rest


def test_as_a_block(clock: VirtualClock) -> None:
    """`async with` takes one token and gives none back; an error within is the caller's."""

    async def main() -> None:
        throttle = Throttle(TokenBucket(1.0, 1))
        begin = now()
        for _ in range(3):
            async with throttle:
                pass
        assert now() - begin == pytest.approx(2.0)
        with pytest.raises(KeyError):
            async with throttle:
                raise KeyError
        assert throttle
        assert len(throttle) == 0

    clock.run(main())


def test_what_it_says_of_itself(clock: VirtualClock) -> None:
    """As JSON, with the limiter's own."""

    async def main() -> None:
        throttle = Throttle(TokenBucket(1.0, 1))
        await throttle.acquire()
        said = throttle.statistics()
        assert json.loads(json.dumps(said)) == said
        assert said["limiter"]["level"] == 0.0
        assert repr(throttle) == (
            "<Throttle limiter open waiting=0 acquired=1 of <TokenBucket rate=1 burst=1 taken=1>>"
        )

    clock.run(main())


@pytest.mark.parametrize("bounds", [{"max_wait": -1.0}, {"max_wait": float("nan")}, {"max_waiting": -1}])
def test_nonsense_is_refused(bounds: dict[str, Any]) -> None:
    """Bounds below zero."""
    with pytest.raises(ValueError, match="must be at least 0"):
        Throttle(TokenBucket(1.0, 1), **bounds)


@pytest.mark.both_loops
async def test_on_real_loops() -> None:
    """Timers that fire early or late only cost another look: the rate is kept, and nobody is forgotten."""
    bucket = TokenBucket(2_000.0, 1)
    throttle = Throttle(bucket)
    begin = now()
    await asyncio.gather(*(throttle.acquire() for _ in range(101)))
    assert now() - begin >= 100 / 2_000 - 1e-6
    assert bucket.taken == 101
    assert idle(throttle)


def test_the_current_deadline_counts() -> None:
    """Whoever has none in hand, has that of what it is done for."""

    async def main() -> None:
        throttle = Throttle(TokenBucket(1, 1), max_wait=10)
        await throttle.acquire()
        began = now()
        with deadline(0.5), pytest.raises(Overloaded):
            await throttle.acquire()
        assert now() == began  # that it would take too long is known
        with deadline(5):
            await throttle.acquire()

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(main())
