"""Throttles under tasks that come, are cancelled and run out of time in every moment. FOREBAY_SOAK_ROUNDS: how many
do."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from forebay.engine.loop import now
from forebay.engine.throttle import Throttle
from forebay.errors import DeadlineExceeded, Overloaded
from forebay.policy.limiters import SlidingWindow, TokenBucket, WarmUp
from forebay.testing.virtual_clock import VirtualClock

ROUNDS = int(os.environ.get("FOREBAY_SOAK_ROUNDS", "3000"))
CROWD = 40  # tasks at once at most

LIMITERS: dict[str, Callable[[], Any]] = {
    "bucket": lambda: TokenBucket(50.0, 5),
    "spaced": lambda: TokenBucket(50.0, 1),
    "window": lambda: SlidingWindow(10, 0.2),
    "warm-up": lambda: WarmUp(50.0, 5, 2.0),
}


class Fuzz:
    """One run: its tasks, and what came of each."""

    def __init__(self, name: str, seed: int, clock: VirtualClock) -> None:
        self.random = random.Random(seed)
        self.clock = clock
        self.limiter = LIMITERS[name]()
        self.burst = self.limiter.burst
        self.throttle = Throttle(self.limiter, max_wait=2.0, max_waiting=30)
        self.foreseen = name != "window"  # where several are taken at once it cannot say exactly when, down the line
        self.tickets = 0
        self.last_passed = 0
        self.passed: list[tuple[float, int]] = []
        self.outcomes: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self.tasks: dict[asyncio.Task[None], None] = {}  # in the order in which they came
        self.slowed_at = -inf  # when something was done that makes waits longer than was foreseen

    async def acquire(self) -> None:
        """One comes, perhaps with a deadline or a timeout of its own."""
        self.tickets += 1
        ticket, begin = self.tickets, now()
        count = self.random.choice([1, 1, 1, 2, self.burst])
        deadline = begin + self.random.choice([0.0, 0.05, 0.5]) if self.random.random() < 0.2 else inf
        timeout = self.random.choice([0.0, 0.02, 0.1, 1.0]) if self.random.random() < 0.2 else None
        outcome = "cancelled"
        try:
            async with asyncio.timeout(timeout):
                await self.throttle.acquire(count, deadline=deadline)
                outcome = "passed"
                assert ticket > self.last_passed, "somebody was overtaken"
                self.last_passed = ticket
                self.passed.append((now(), count))
                assert now() <= min(begin + 2.2, deadline) + self.late(begin), "somebody has waited for too long"
        except (Overloaded, DeadlineExceeded):
            outcome = "refused"
            if now() != begin:
                assert self.slowed_at >= begin or not self.foreseen, "somebody has waited in vain"
        except TimeoutError:
            outcome = "passed" if outcome == "passed" else "cancelled"
        finally:
            self.outcomes[outcome] += 1

    def late(self, begin: float) -> float:
        """What a loop that stood still may add to a wait, or a look at the whole line that is not due yet."""
        return 0.06 if self.slowed_at >= begin or not self.foreseen else 1e-6

    async def run(self, rounds: int) -> None:
        """Let ``rounds`` of them come, and do things to them."""
        while self.tickets < rounds:
            self.spawn(self.random.randrange(1, 6))
            await self.turns()
            for _ in range(self.random.randrange(3)):
                self.cancel()
            await self.turns()
            await self.move()
            if self.random.random() < 0.02:
                self.disturb()
            self.check()
        await self.end()

    def spawn(self, count: int) -> None:
        """Some come at once."""
        for _ in range(min(count, CROWD - len(self.tasks))):
            task = asyncio.create_task(self.acquire())
            self.tasks[task] = None
            task.add_done_callback(self.ended)

    def ended(self, task: asyncio.Task[None]) -> None:
        """One is gone, whose claims have held."""
        self.tasks.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    def cancel(self) -> None:
        """One leaves, perhaps before it has run at all, or with those behind it."""
        if self.tasks:
            count = self.random.choice([1, 1, len(self.tasks) // 2])
            for task in self.random.sample(list(self.tasks), k=count):
                task.cancel()

    async def turns(self) -> None:
        """Let the loop have a few turns, or none, so that what follows hits tasks anywhere."""
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)

    async def move(self) -> None:
        """Time passes: until the timer of the line fires, so that those who are let in can be hit before they run; or
        at random; or while the loop stands still."""
        kind = self.random.random()
        throttle = self.throttle
        if kind < 0.4 and throttle._timer is not None:
            await asyncio.sleep(max(0.0, throttle._due - now()))
            if throttle._woken and self.random.random() < 0.7:
                self.cancel()
        elif kind < 0.8:
            await asyncio.sleep(self.random.choice([0.0, 0.01, 0.05, 0.2]))
        elif kind < 0.85:
            self.clock.advance(self.random.choice([0.001, 0.03]))
            self.slowed_at = now()

    def disturb(self) -> None:
        """Somebody takes from the limiter past the line, or its rate changes, or it is switched off and on."""
        kind = self.random.randrange(3)
        if kind == 0:
            if not self.limiter.take(now()):
                self.passed.append((now(), 1))
        elif kind == 1:
            self.throttle.set_rate(self.random.choice([30.0, 50.0]), self.burst)
        else:
            self.throttle.enabled = False
            self.throttle.enabled = True
        self.slowed_at = now()

    def check(self) -> None:
        """What is so in every moment."""
        if self.failures:
            raise self.failures[0]
        throttle = self.throttle
        assert throttle._claimed == sum(waiter.count for waiter in throttle._woken)
        assert throttle._ahead == throttle._claimed + sum(waiter.count for waiter in throttle._waiting)
        assert len(throttle) <= throttle.max_waiting
        alive = [waiter for waiter in throttle._waiting if not waiter.future.done()]
        assert not alive or throttle._timer is not None or throttle._woken, "somebody waits, and nothing will wake them"
        if alive and alive[0] is next(iter(throttle._waiting)) and not throttle._woken:
            assert throttle._due <= now() + self.limiter.wait(now(), alive[0].count) + 1e-5, "the head waits too long"
        assert throttle._held == bool(throttle._waiting or throttle._woken)

    async def end(self) -> None:
        """Nobody is disturbed any more: all come through, and nothing is left."""
        slowest = now() + 5.0
        while self.tasks:
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await asyncio.sleep(0)  # for what is to be called when they are done: gather need not wait for that
        self.check()
        assert now() < slowest
        throttle = self.throttle
        assert (len(throttle), throttle._ahead, throttle._claimed, throttle._timer) == (0, 0, 0, None)
        assert not throttle._held
        said = throttle.statistics()
        assert said["acquired"] == self.outcomes["passed"]
        await asyncio.sleep(10.0)
        assert throttle.try_acquire(self.burst), "tokens were lost"
        assert not throttle.try_acquire()


@pytest.mark.parametrize("name", LIMITERS)
@pytest.mark.timeout(1200)
def test_nothing_is_lost_and_nobody_overtaken(name: str) -> None:
    """Thousands of tasks: those who come through do so in the order in which they came; nobody waits past their time
    or in vain; nothing is left of those who are gone, and the limiter has let through no more than it may."""
    with VirtualClock(packages=(__name__,)) as clock:
        for seed in range(3):
            fuzz = Fuzz(name, seed, clock)
            clock.run(fuzz.run(ROUNDS // (3 * len(LIMITERS)) + 1))
            assert min(fuzz.outcomes.values()) > 10, fuzz.outcomes
            assert len(fuzz.outcomes) == 3
            bounded(fuzz.passed, 50.0, fuzz.burst)


def bounded(passed: list[tuple[float, int]], rate: float, burst: int) -> None:
    """In no interval more than the burst and its length times the rate."""
    level, at = float(burst), -inf
    for when, count in passed:
        level = min(float(burst), level + (when - at) * rate) - count
        at = when
        assert level >= -1e-3, "more was let through than may be"
