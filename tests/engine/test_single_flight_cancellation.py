"""Cancellations at every await of a shared call, thousands of times, in an order that a seed decides.

``FOREBAY_SOAK_ROUNDS=100000 .venv/bin/pytest tests/engine/test_single_flight_cancellation.py`` does it that often.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from forebay.engine.once import Once
from forebay.engine.single_flight import SingleFlight
from forebay.testing.virtual_clock import VirtualClock

ROUNDS = int(os.environ.get("FOREBAY_SOAK_ROUNDS", "3000"))
SEEDS = 3
TASKS = 10


class Crowd:
    """Callers of a few keys, some of whom are cancelled."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.flight: SingleFlight[int] = SingleFlight()
        self.left = ROUNDS // SEEDS
        self.wanted: set[asyncio.Task[None]] = set()  # whom nobody has cancelled in this visit
        self.running: dict[int, int] = {}  # by call: its key
        self.begun = self.asked = self.got = self.failed = self.cancelled = 0

    async def work(self, key: int) -> int:
        """What is shared: takes some turns or some time, may fail, may be slow to end when it is cancelled."""
        self.begun += 1
        number = self.begun
        self.running[number] = key
        try:
            await self.linger()
            if self.random.random() < 0.2:
                raise LookupError(number)
            return number
        except asyncio.CancelledError:
            if self.random.random() < 0.3:
                await asyncio.sleep(0.2)
            raise
        finally:
            del self.running[number]

    async def linger(self) -> None:
        for _ in range(self.random.choice([0, 0, 1, 2, 3])):
            await asyncio.sleep(0)
        if self.random.random() < 0.3:
            await asyncio.sleep(self.random.choice([0.001, 0.5, 1.5]))

    async def visit(self, task: asyncio.Task[None]) -> None:
        key = self.random.randrange(3)
        before = {number for number, of in self.running.items() if of == key}
        last = self.begun
        self.asked += 1
        self.wanted.add(task)
        try:
            number = await self.flight.run(key, lambda: self.work(key))
            self.got += 1
        except LookupError as error:
            number = error.args[0]
            self.failed += 1
        except asyncio.CancelledError:
            assert task not in self.wanted, "cancelled with others"
            raise
        assert number > last or number in before, "an old result"

    async def live(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while self.left > 0:
            self.left -= 1
            try:
                await self.visit(task)
                await self.linger()
            except asyncio.CancelledError:
                task.uncancel()
                self.cancelled += 1

    async def run(self) -> None:
        tasks = {asyncio.create_task(self.live()) for _ in range(TASKS)}
        started = set(tasks)
        while tasks:
            for task in self.random.sample(sorted(tasks, key=id), min(len(tasks), self.random.choice([0, 1, 1, 4]))):
                self.wanted.discard(task)
                task.cancel()
            for _ in range(self.random.randrange(8)):
                await asyncio.sleep(0)
            if self.random.random() < 0.5:
                await asyncio.sleep(self.random.choice([0.001, 0.5]))
            tasks = {task for task in tasks if not task.done()}
        for task in started:
            if not task.cancelled():  # before its first step, or after its last
                task.result()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_only_those_who_are_cancelled_are(seed: int) -> None:
    """All others get what a call came to that ran while they waited; in the end no call is left, all are counted."""
    crowd = Crowd(seed)
    with VirtualClock() as clock:
        clock.run(crowd.run())
    assert (len(crowd.flight), crowd.running) == (0, {})
    assert crowd.flight.started + crowd.flight.shared == crowd.asked
    assert crowd.begun <= crowd.flight.started
    assert min(crowd.got, crowd.failed, crowd.cancelled, crowd.flight.shared) > ROUNDS / 100


@pytest.mark.timeout(600)
def test_once_is_done_once_whoever_is_cancelled() -> None:
    """Many times: several callers, of whom some are cancelled at some turn. The one result is for all who stay, and is
    kept; only where all leave too early there may be none."""
    chance = random.Random(0)
    done = 0

    async def main() -> None:
        nonlocal done
        for _ in range(ROUNDS // 10):
            succeeded = 0

            async def work() -> int:
                nonlocal succeeded
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                succeeded += 1
                return succeeded

            once = Once(work)
            callers = [asyncio.create_task(once()) for _ in range(chance.randrange(1, 5))]
            leaving = chance.sample(callers, chance.randrange(len(callers) + 1))
            for caller in leaving:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                caller.cancel()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            for caller, outcome in zip(callers, outcomes, strict=True):
                assert outcome == 1 or (caller in leaving and isinstance(outcome, asyncio.CancelledError))
            assert once.done == (succeeded == 1)
            done += once.done
            assert await once() == 1
            assert succeeded == 1

    with VirtualClock() as clock:
        clock.run(main())
    assert done > ROUNDS / 50
