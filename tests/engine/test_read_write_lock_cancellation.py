"""Cancellations and timeouts at every await of the lock, thousands of times, in an order that a seed decides.

``FOREBAY_SOAK_ROUNDS=100000 .venv/bin/pytest tests/engine/test_read_write_lock_cancellation.py`` does it that often.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from forebay.engine.read_write_lock import ReadWriteLock
from forebay.errors import DeadlineExceeded, Overloaded
from forebay.testing.virtual_clock import VirtualClock

ROUNDS = int(os.environ.get("FOREBAY_SOAK_ROUNDS", "3000"))
SEEDS = 3
TASKS = 12
PATIENCE = 3


class Crowd:
    """Tasks that come and go as they please, and note what they see."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lock = ReadWriteLock(patience=PATIENCE, max_waiting=TASKS - 3)
        self.left = ROUNDS // SEEDS
        self.inside: dict[int, bool] = {}
        self.asked = 0  # writers, in the order in which they asked ...
        self.last = 0  # ... of which this one was the last to get it
        self.passes: dict[int, int] = {}  # by reader that waits: writers that got it meanwhile
        self.outcomes = {"held": 0, "cancelled": 0, "late": 0, "refused": 0}

    async def visit(self, number: int) -> None:
        """Ask once, hold it for some turns of the loop or some time, or be cancelled anywhere in between."""
        write = self.random.random() < 0.4
        timeout = self.random.choice([None, None, 0, 0.001, 0.5, 2])
        if write:
            self.asked += 1
            turn = self.asked
        else:
            self.passes[number] = 0
        try:
            async with self.lock.writing(timeout) if write else self.lock.reading(timeout):
                assert not any(self.inside.values()), "with a writer inside"
                assert not (write and self.inside), "a writer beside readers"
                self.inside[number] = write
                self.passes.pop(number, None)
                if write:
                    assert turn > self.last, "past a writer that asked earlier"
                    self.last = turn
                    for reader in self.passes:
                        self.passes[reader] += 1
                        # One more: it was let in before the reader came, and its task has run since
                        assert self.passes[reader] <= PATIENCE + 1, "a reader starves"
                try:
                    await self.linger()
                finally:
                    del self.inside[number]
            self.outcomes["held"] += 1
        except DeadlineExceeded:
            self.outcomes["late"] += 1
        except Overloaded:
            self.outcomes["refused"] += 1
        finally:
            self.passes.pop(number, None)

    async def linger(self) -> None:
        for _ in range(self.random.choice([0, 0, 1, 2, 3])):
            await asyncio.sleep(0)
        if self.random.random() < 0.3:
            await asyncio.sleep(self.random.choice([0.001, 0.5, 1.5]))

    async def live(self, number: int) -> None:
        """Ask again and again. A cancellation ends one visit only."""
        task = asyncio.current_task()
        assert task is not None
        while self.left > 0:
            self.left -= 1
            try:
                await self.visit(number)
                await self.linger()
            except asyncio.CancelledError:
                task.uncancel()
                self.outcomes["cancelled"] += 1

    async def disturb(self, tasks: list[asyncio.Task[None]]) -> None:
        """Cancel somebody every few turns of the loop, at times several in one turn, at times one twice."""
        while not all(task.done() for task in tasks):
            for _ in range(self.random.choice([1, 1, 1, 3])):
                self.random.choice(tasks).cancel()
            for _ in range(self.random.randrange(12)):
                await asyncio.sleep(0)
            if self.random.random() < 0.3:
                await asyncio.sleep(self.random.choice([0.001, 0.5]))

    async def run(self) -> None:
        tasks = [asyncio.create_task(self.live(number), name=f"visitor {number}") for number in range(TASKS)]
        disturber = asyncio.create_task(self.disturb(tasks))
        try:
            while running := [task for task in tasks if not task.done()]:
                ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    if not task.cancelled():  # before its first step, or after its last
                        task.result()
        finally:
            disturber.cancel()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_left_behind(seed: int) -> None:
    """No two are in who must not be, writers keep their order, no reader starves, nobody waits for ever, and at the end
    nobody holds it or waits: all counters are at zero, and what was counted adds up."""
    crowd = Crowd(seed)
    with VirtualClock() as clock:
        clock.run(crowd.run())  # one who waited for ever would be a deadlock, which it tells
    counts = crowd.lock.statistics()
    assert [counts[name] for name in ("readers", "writers", "readers_waiting", "writers_waiting")] == [0] * 4
    assert crowd.inside == {}
    assert crowd.passes == {}
    assert counts["timeouts"] >= crowd.outcomes["late"] > 0
    assert counts["refused"] == crowd.outcomes["refused"]
    assert counts["reads"] + counts["writes"] >= crowd.outcomes["held"] > 0
    assert min(counts["cancelled"], counts["waited"], crowd.outcomes["cancelled"]) > ROUNDS / 200
