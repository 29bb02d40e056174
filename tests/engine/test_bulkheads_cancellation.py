"""Acquire, release, cancel and time out, in any order and at every point at which a task waits.

``FOREBAY_SOAK_ROUNDS=100000 .venv/bin/pytest tests/engine/test_bulkheads_cancellation.py`` does 100,000 calls, not
3,000; ``FOREBAY_SEED`` begins at another seed.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import defaultdict
from math import inf

import pytest

from forebay.engine.bulkheads import Slots
from forebay.engine.loop import now
from forebay.errors import Overloaded
from forebay.policy.adaptive import Adaptive
from forebay.policy.bulkhead import Bulkhead
from forebay.policy.priority import Priority
from forebay.testing.virtual_clock import VirtualClock

ROUNDS = int(os.environ.get("FOREBAY_SOAK_ROUNDS", "3000"))
SEED = int(os.environ.get("FOREBAY_SEED", "1"))
AT_ONCE = 50  # calls under way in one round of the fuzz

RULES = {
    "refuse": Bulkhead(3, max_waiting=8, max_wait=0.5, when_full="reject"),
    "push out": Bulkhead(2, max_waiting=6, max_wait=0.5, when_full="drop-lowest"),
    "oldest": Bulkhead(1, max_waiting=4, max_wait=0.2, when_full="drop-oldest"),
    "adaptive": Bulkhead(Adaptive(minimum=1, initial=2, maximum=4), max_waiting=20, max_wait=1.0),
}


class Fuzz:
    """Many calls, most of which end in another way than they wanted to."""

    def __init__(self, rules: Bulkhead, seed: int) -> None:
        self.slots = Slots(rules)
        self.random = random.Random(seed)
        self.inside = 0
        self.number = 0
        self.turn: dict[Priority, list[tuple[float, int]]] = defaultdict(list)  # who had a place, and when
        self.ends: dict[str, int] = defaultdict(int)

    async def call(self, number: int, priority: Priority, deadline: float, style: int, hold: float) -> None:
        """One call; its number is that of its coming."""
        try:
            if style:
                async with self.slots:
                    await self.held(number, Priority.NORMAL, hold)
            else:
                began = await self.slots.acquire(priority, deadline)
                try:
                    await self.held(number, priority, hold)
                finally:
                    self.slots.release(began)
        except Overloaded:
            self.ends["refused"] += 1
        except asyncio.CancelledError:
            self.ends["cancelled"] += 1
            raise
        else:
            self.ends["done"] += 1

    async def held(self, number: int, priority: Priority, hold: float) -> None:
        """What is done with a place."""
        self.inside += 1
        self.turn[priority].append((now(), number))
        try:
            assert self.inside <= self.slots.statistics()["in_flight"]
            if hold:
                await asyncio.sleep(hold)
        finally:
            self.inside -= 1

    async def run(self, calls: int) -> None:
        """One round: calls come, are cancelled now or later, once or twice, and the limit changes under them."""
        rng = self.random
        tasks: list[asyncio.Task[None]] = []
        for _ in range(calls):
            self.number += 1
            deadline = now() + rng.uniform(0.0, 0.6) if rng.random() < 0.3 else inf
            hold = rng.choice((0.0, 0.001, 0.05, 0.2))
            call = self.call(self.number, rng.choice(list(Priority)), deadline, rng.randrange(2), hold)
            tasks.append(asyncio.create_task(call))
            step = rng.random()
            if step < 0.4:
                rng.choice(tasks).cancel()  # perhaps one that has not begun, or was just given a place
            elif step < 0.6:
                await asyncio.sleep(0)
            elif step < 0.8:
                await asyncio.sleep(rng.choice((0.001, 0.05, 0.2, 0.5)))
            elif step < 0.83 and self.slots.compartment.adaptive is None:
                self.slots.resize(rng.randint(1, 4))
            if rng.random() < 0.2:
                await asyncio.sleep(0)
                rng.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                assert task.exception() is None

    def check(self) -> None:
        """Nothing is left of them."""
        found = self.slots.statistics()
        assert (self.inside, found["in_flight"], found["waiting"]) == (0, 0, 0)
        assert not self.slots._began
        assert not self.slots.compartment._since
        for priority, turns in self.turn.items():
            numbers = [number for _, number in sorted(turns)]  # of one moment all are equal
            assert numbers == sorted(numbers), f"{priority}: who came first did not go first"
        assert found["limit"] >= 1


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
@pytest.mark.timeout(3600 if ROUNDS > 10_000 else 60)
def test_nothing_is_left_behind(rules: Bulkhead) -> None:
    """All counters return to zero, each task comes to an end, and within a priority who came first goes first."""
    ends: dict[str, int] = defaultdict(int)
    with VirtualClock(packages=(__name__,)) as clock:
        for seed in range(SEED, SEED + max(1, ROUNDS // len(RULES) // AT_ONCE)):
            fuzz = Fuzz(rules, seed)

            async def main(fuzz: Fuzz = fuzz) -> None:
                await fuzz.run(AT_ONCE)
                fuzz.check()
                async with fuzz.slots:  # a place that was lost would be missed here
                    pass

            try:
                clock.run(main())
            except BaseException as error:
                error.add_note(f"FOREBAY_SEED={seed}")
                raise
            for end, count in fuzz.ends.items():
                ends[end] += count
    assert min(ends["done"], ends["refused"], ends["cancelled"]) > 10, "the fuzz does not reach all ends"


def test_nobody_starves() -> None:
    """Of a hundred that wait, with half of the others cancelled all the time, each has its turn, the low ones too."""

    async def main() -> None:
        rng = random.Random(SEED)
        slots = Slots(Bulkhead(2, max_waiting=10_000, max_wait=10_000.0))
        served: list[int] = []

        async def patient(number: int) -> None:
            await slots.acquire(Priority.LOW)
            served.append(number)
            await asyncio.sleep(0.01)
            slots.release()

        async def pushy() -> None:
            await slots.acquire(Priority.HIGH)
            try:
                await asyncio.sleep(0.01)
            finally:
                slots.release()

        first = [asyncio.create_task(pushy()) for _ in range(10)]
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(patient(number)) for number in range(100)]
        others: set[asyncio.Task[None]] = set(first)
        while len(served) < 100:
            others = {task for task in others if not task.done()}
            while len(others) < 30:
                others.add(asyncio.create_task(pushy()))
            await asyncio.sleep(0.01)
            for task in rng.sample(sorted(others, key=id), 5):
                task.cancel()
            assert now() < began + 60.0, f"only {len(served)} had their turn"
        await asyncio.gather(*tasks, *others, return_exceptions=True)
        assert served == list(range(100))
        assert slots.statistics()["in_flight"] == 0

    with VirtualClock(packages=(__name__,)) as clock:
        began = now()
        clock.run(main())
