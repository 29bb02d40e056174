"""Users of a pool that are cancelled, out of time or refused at any of their await points leave nothing behind.

``FOREBAY_SOAK_ROUNDS`` says how often something is acquired.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter

import pytest

from forebay.engine.loop import now
from forebay.engine.pool import Pool
from forebay.errors import ConnectFailed, ConnectTimeout, Overloaded, PoolExhausted
from forebay.policy.pool_settings import PoolSettings
from forebay.testing.virtual_clock import VirtualClock
from tests.engine.pool_kit import Thing

ROUNDS = int(os.environ.get("FOREBAY_SOAK_ROUNDS", "3000"))
SEEDS = 6
AT_ONCE = 150  # users of one pool
PATIENT = 1e6  # seconds: they only ever end by what the pool does


class Ticket:
    """Somebody's turn: the numbers of one key are given in the order in which they came."""

    def __init__(self, number: int, key: str) -> None:
        self.number = number
        self.key = key
        self.cancelled = False


class Fuzz:
    """Users who do everything at any time, and a world that counts."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.alive: set[Thing] = set()
        self.dialled = self.under_way = self.numbers = 0
        self.line: dict[int, Ticket] = {}  # who has asked and has no answer
        self.holders: dict[Thing, Ticket] = {}
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest = 0.0
        self.failing = 0.2

    # What the pool is given

    async def pause(self) -> None:
        """Nothing, a few turns of the loop, or some time."""
        kind = self.random.random()
        if kind < 0.3:
            return
        if kind < 0.7:
            for _ in range(self.random.randrange(1, 4)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self.random.choice([0.01, 0.1, 1.0]))

    async def dial(self, key: str) -> Thing:
        """A thing, or an error, after a while."""
        self.under_way += 1
        try:
            await self.pause()
        finally:
            self.under_way -= 1
        if self.random.random() < self.failing:
            raise ConnectFailed("refused")
        self.dialled += 1
        thing = Thing(key, self.dialled)
        self.alive.add(thing)
        return thing

    async def close(self, thing: Thing) -> None:
        """The end of a thing: only one."""
        self.alive.remove(thing)
        await self.pause()

    async def check(self, thing: Thing) -> bool:
        """Whether a thing works: that takes time, too, and may fail in any way."""
        assert thing not in self.holders
        await self.pause()
        if self.random.random() < 0.1:
            raise ValueError("broken")
        return self.random.random() < 0.8

    # What users do

    async def use(self, pool: Pool[str, Thing], ticket: Ticket) -> None:
        """Acquire, hold, release: in one of the ways there are."""
        choice = self.random
        timeout = choice.choice([0.0, 0.01, 0.5, PATIENT, PATIENT, PATIENT])
        began = now()
        self.line[ticket.number] = ticket
        try:
            if choice.random() < 0.5:
                async with pool.borrow(ticket.key, timeout) as thing:
                    self.served(ticket, thing, began)
                    try:
                        await self.pause()
                    finally:
                        del self.holders[thing]
            else:
                thing = await pool.acquire(ticket.key, timeout)
                self.served(ticket, thing, began)
                try:
                    await self.pause()
                finally:
                    del self.holders[thing]
                    if choice.random() < 0.1:
                        pool.discard(thing)
                    pool.release(thing, reusable=choice.random() < 0.9)
        except PoolExhausted:
            assert timeout < PATIENT or "may wait" in self.last_refusal(pool)
            self.outcomes["refused"] += 1
        except ConnectTimeout:
            assert timeout < PATIENT
            self.outcomes["slow"] += 1
        except ConnectFailed:
            self.outcomes["failed"] += 1
        except Overloaded:
            assert pool.state != "running"
            self.outcomes["ended"] += 1
        except asyncio.CancelledError:
            self.outcomes["cancelled"] += 1
            raise
        finally:
            self.line.pop(ticket.number, None)

    def last_refusal(self, pool: Pool[str, Thing]) -> str:
        """Why the patient are refused: never for the time that it took."""
        return "may wait" if pool.statistics()["refused"].get("queue-full") else ""

    def served(self, ticket: Ticket, thing: Thing, began: float) -> None:
        """It is its own, it is alive, and nobody came before who still waits for the same."""
        self.outcomes["served"] += 1
        assert thing.key == ticket.key
        assert thing not in self.holders, "two have the same"
        self.holders[thing] = ticket
        del self.line[ticket.number]
        self.longest = max(self.longest, now() - began)
        for one in self.line.values():
            if one.key == ticket.key and one.number < ticket.number and not one.cancelled:
                asyncio.get_running_loop().call_soon(self.must_be_answered, one, ticket)

    def must_be_answered(self, one: Ticket, by: Ticket) -> None:
        """It came before: when it was not served in the same turn, before ``by``, it was overtaken."""
        if one.number in self.line and not one.cancelled:
            self.wrong.append(f"{by.number} overtook {one.number}")

    async def one(self, pool: Pool[str, Thing]) -> None:
        """One user, and whoever cancels it, maybe, in whatever turn."""
        self.numbers += 1
        ticket = Ticket(self.numbers, self.random.choice("aaabbc"))
        task = asyncio.ensure_future(self.use(pool, ticket))
        if self.random.random() < 0.4:
            await self.pause()
            ticket.cancelled = not task.done()
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await task

    async def run(self, rounds: int, end: str) -> None:
        """A pool at work. In the end nothing is left of it."""
        settings = PoolSettings(
            max_total=self.random.randrange(1, 6),
            max_per_key=self.random.randrange(1, 5),
            max_idle=self.random.randrange(1, 6),
            max_waiting=self.random.choice([10, 1000, 1000]),
            idle_timeout=self.random.choice([None, 0.5]),
            max_lifetime=self.random.choice([None, 2.0]),
            check_after=self.random.choice([None, 0.1]),
            check_interval=self.random.choice([None, 0.2]),
            min_idle=self.random.choice([0, 1]),
            reclaim_after=None,
        )
        pool = Pool(self.dial, self.close, self.check, settings, name="fuzz", keys=["a"])
        await pool.start()
        left = rounds
        while left:
            count = min(left, self.random.randrange(1, AT_ONCE))
            left -= count
            users = []
            for _ in range(count):
                users.append(asyncio.ensure_future(self.one(pool)))
                if self.random.random() < 0.2:
                    await self.pause()
                if self.random.random() < 0.02:
                    pool.resize(settings)
            if end == "under fire" and not left:
                await self.pause()
                await pool.stop()
            await asyncio.gather(*users)
            self.nothing_is_left(pool)
        if end == "drained":
            await pool.drain()
            assert not self.alive
        await pool.stop()
        assert not self.alive
        assert self.under_way == 0
        assert pool.statistics()["keys"] == {} or set(pool.statistics()["keys"]) == {"a"}

    def nothing_is_left(self, pool: Pool[str, Thing]) -> None:
        """Nobody waits, nobody holds, and the counts agree."""
        found = pool.statistics()
        assert not self.wrong
        assert not self.line
        assert not self.holders
        assert (found["in_use"], found["waiting"]) == (0, 0), found
        assert pool.holders() == []
        assert pool._plan.queued == 0
        coming = sum(one["coming"] for one in found["keys"].values())
        assert found["total"] == found["idle"] + coming
        for key, counts in found["keys"].items():
            assert counts["total"] >= 0, key


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("end", ["stopped", "drained", "under fire"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_left(seed: int, end: str) -> None:
    """Counters return to zero, no waiter starves, nobody is overtaken, and all that was dialled is closed, once."""
    fuzz = Fuzz(f"{seed} {end}")
    rounds = ROUNDS // (3 * SEEDS)
    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(fuzz.run(rounds, end))
    assert fuzz.numbers == rounds >= sum(fuzz.outcomes.values())  # some are cancelled before their first step
    print(f"seed {seed}, {end}: {rounds} rounds, {dict(fuzz.outcomes)}, longest wait {fuzz.longest:.1f} s (virtual)")
    for outcome in ("served", "cancelled", "failed"):
        assert fuzz.outcomes[outcome] or rounds < 100, f"nobody was {outcome}: the test is too kind"
    assert fuzz.longest < 30 + AT_ONCE * 2, "somebody starved"


def test_cancelled_at_each_step() -> None:
    """One user, cancelled after each possible number of turns, with another in line: nothing is left behind."""

    async def round_of(turns: int, how: str) -> bool:
        fuzz = Fuzz(how)

        async def slowly(key: str) -> Thing:
            for _ in range(3):
                await asyncio.sleep(0)
            thing = Thing(key, 0)
            fuzz.alive.add(thing)
            return thing

        async def works(thing: Thing) -> bool:
            for _ in range(3):
                await asyncio.sleep(0)
            return True

        def close(thing: Thing) -> None:
            fuzz.alive.remove(thing)

        settings = PoolSettings(max_total=1, check_after=0.5)
        async with Pool(slowly, close, works, settings) as pool:
            if how != "dialled":
                thing = await pool.acquire("k")
                if how == "checked":
                    pool.release(thing)
                    await asyncio.sleep(1)

            async def user() -> None:
                async with pool.borrow("k"):
                    for _ in range(3):
                        await asyncio.sleep(0)

            first, second = asyncio.ensure_future(user()), asyncio.ensure_future(user())
            for turn in range(turns):
                if how == "released" and turn == 3:
                    pool.release(thing)
                await asyncio.sleep(0)
            over = first.done()
            first.cancel()
            if how == "released" and turns <= 3:
                pool.release(thing)
            await asyncio.wait([first])
            await second
            found = pool.statistics()
            assert (found["in_use"], found["waiting"], found["total"]) in ((0, 0, 1), (0, 0, 0))
            assert len(fuzz.alive) == found["idle"] == found["total"]
        assert not fuzz.alive
        return over

    with VirtualClock() as clock:
        for how in ("dialled", "checked", "released"):
            turns = 0
            while not clock.run(round_of(turns, how)):
                turns += 1
            assert turns > 5
