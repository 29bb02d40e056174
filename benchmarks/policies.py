"""What a decision costs: nanoseconds of one core per operation, beside the libraries that do the same work.

``python -m benchmarks.policies``; a part of ``make bench``. Everything runs on uvloop, in one process, pinned to one
core. Each operation is timed in rounds that take turns, and the median over the rounds counts, so that what disturbs
the machine disturbs all of them.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import click
import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from forebay.engine import run as run_loop
from forebay.engine.bulkheads import Slots
from forebay.engine.loop import now
from forebay.engine.pool import Pool
from forebay.engine.read_write_lock import ReadWriteLock
from forebay.engine.stack import stack
from forebay.engine.throttle import Throttle
from forebay.policy.balance import BALANCERS, Member
from forebay.policy.breaker import Breaker, Circuit
from forebay.policy.budget import RetryBudget
from forebay.policy.bulkhead import Bulkhead, Compartment
from forebay.policy.fallback import Fallback
from forebay.policy.hedge import Hedge, Hedger
from forebay.policy.limiters import SlidingWindow, TokenBucket, WarmUp
from forebay.policy.limits import RateLimit
from forebay.policy.outliers import Outliers
from forebay.policy.pool_settings import PoolSettings
from forebay.policy.retry import Retry

__all__ = ["HEAD", "NAME", "NUMBER", "TITLE", "WORDS", "Cost", "costs", "rows", "run"]

NAME = "policies"
TITLE = "What a decision costs"
HEAD = ("", "operation", "ns", "target", "")
NUMBER = 2  # the column that is one
WORDS = (
    "Nanoseconds for each operation, the loop around it included: medians of 25 rounds of 4,000, in which all take",
    "turns, in one process on one core, on uvloop. Those that do the same work are beside each other.",
)

SINGLE = 1500
"""Nanoseconds that a decision may take."""
FULL = 6000
"""Nanoseconds that a call may cost through all of them."""

Sync = Callable[[int], None]
Async = Callable[[int], Awaitable[None]]


class Cost(msgspec.Struct, frozen=True):
    """One operation."""

    name: str
    ns: float  # median over the rounds
    most: int | None  # what it may be; None: of a peer, or for comparison
    work: str  # those of one work are compared

    @property
    def words(self) -> tuple[str, str]:
        """The target, and whether it is met."""
        if self.most is None:
            return "", ""
        return f"at most {self.most:,}", "met" if self.ns <= self.most else "missed"


class Operation(msgspec.Struct):
    """What is timed: ``times`` repeats it so often."""

    work: str
    name: str
    times: Sync | Async
    most: int | None = None


async def nothing() -> None:
    """The call that is guarded."""


def decisions() -> list[Operation]:
    """The pure halves."""
    found = []

    def add(work: str, name: str, times: Sync) -> None:
        found.append(Operation(work, name, times, SINGLE))

    circuit = Circuit(Breaker())
    counted = Circuit(Breaker(calls=100))

    def of_circuit(circuit: Circuit) -> Sync:
        def times(count: int) -> None:
            for _ in range(count):
                at = now()
                circuit.admit(at)
                circuit.success(0.001, at)

        return times

    add("breaker", "time window: admit, success", of_circuit(circuit))
    add("breaker", "count window: admit, success", of_circuit(counted))

    bucket, sliding = TokenBucket(1e9, 1000), SlidingWindow(10**9, 60.0)
    warm, keyed = WarmUp(1e9, 1000, 10.0), RateLimit(1e9, 1000)

    def of_limiter(limiter: Any) -> Sync:
        def times(count: int) -> None:
            take = limiter.take
            for _ in range(count):
                take(now())

        return times

    add("limiter", "token bucket, GCRA: take", of_limiter(bucket))
    add("limiter", "sliding window: take", of_limiter(sliding))
    add("limiter", "warm-up: take", of_limiter(warm))

    def of_keyed(count: int) -> None:
        for _ in range(count):
            keyed.take("203.0.113.7", now())

    add("limiter", "by key: take", of_keyed)

    compartment: Compartment[object] = Compartment(Bulkhead(limit=10))

    def of_compartment(count: int) -> None:
        for _ in range(count):
            compartment.try_enter(now())
            compartment.leave(now())

    add("bulkhead", "enter, leave", of_compartment)

    budget = RetryBudget()

    def of_budget(count: int) -> None:
        for _ in range(count):
            budget.deposit(now())

    add("retry", "budget: deposit", of_budget)
    hedger = Hedger(Hedge(), budget)

    def of_hedger(count: int) -> None:
        for _ in range(count):
            at = now()
            hedger.delay(at, idempotent=True)
            hedger.answered(0.001, at)

    add("hedging", "delay, answered", of_hedger)
    outliers = Outliers()
    outliers.add("a", 0.0)

    def of_outliers(count: int) -> None:
        for _ in range(count):
            outliers.observe("a", False, 0.001, now())

    add("outliers", "observe", of_outliers)

    for name, make in BALANCERS.items():
        balancer = make()
        members = [Member(f"http://10.0.0.{number}:80", 1 + number % 3) for number in range(10)]

        def of_balancer(count: int, balancer: Any = balancer, members: Any = members) -> None:
            pick = balancer.pick
            for _ in range(count):
                pick(members, now(), "a client")

        add("balancer, 10 targets", f"{name}: pick", of_balancer)
    return found


async def doings() -> list[Operation]:
    """What is awaited."""
    found = []

    async def bare(count: int) -> None:
        for _ in range(count):
            await nothing()

    found.append(Operation("a guarded call", "the call alone", bare))

    async def dial(key: str) -> object:
        return object()

    pool: Pool[str, object] = Pool(dial, lambda resource: None, settings=PoolSettings(max_total=10))
    await pool.start()
    pool.release(await pool.acquire("a"))

    async def of_pool(count: int) -> None:
        for _ in range(count):
            pool.release(await pool.acquire("a"))

    found.append(Operation("pool", "acquire, release (idle available)", of_pool, SINGLE))

    slots = Slots(Bulkhead(limit=10))

    async def of_slots(count: int) -> None:
        for _ in range(count):
            async with slots:
                pass

    found.append(Operation("bulkhead", "async with", of_slots, SINGLE))
    throttle = Throttle(TokenBucket(1e9, 1000))

    async def of_throttle(count: int) -> None:
        for _ in range(count):
            async with throttle:
                pass

    found.append(Operation("a limiter that waits", "Throttle(TokenBucket)", of_throttle, SINGLE))
    lock = ReadWriteLock()

    async def of_lock(count: int) -> None:
        for _ in range(count):
            async with lock.reading():
                pass

    found.append(Operation("reader-writer lock", "reading", of_lock, SINGLE))

    def guarded(name: str, most: int | None, **policies: Any) -> None:
        call = stack(idempotent=True, **policies)(nothing)

        async def times(count: int) -> None:
            for _ in range(count):
                await call()

        found.append(Operation("a guarded call", name, times, most))

    limiter = TokenBucket(1e9, 1000)
    guarded("stack of a breaker", None, breaker=Breaker())
    guarded("stack of a retry", None, retry=Retry())
    guarded("stack of a timeout", None, timeout=5.0)
    guarded(
        "stack of all: fallback, timeout, retry, breaker, bulkhead, limiter",
        FULL,
        fallback=Fallback(value=None),
        timeout=5.0,
        retry=Retry(),
        breaker=Breaker(),
        bulkhead=Bulkhead(limit=10),
        limiter=limiter,
    )
    return found + peers()


def peers() -> list[Operation]:
    """The same work by others."""
    import aiolimiter
    import pybreaker
    import stamina
    import tenacity

    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)

    def work() -> None:
        pass

    def of_pybreaker(count: int) -> None:
        for _ in range(count):
            breaker.call(work)

    limiter = aiolimiter.AsyncLimiter(1e9, 1)

    async def of_aiolimiter(count: int) -> None:
        for _ in range(count):
            async with limiter:
                pass

    by_tenacity = tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_exponential_jitter(0.1))(
        nothing
    )
    by_stamina = stamina.retry(on=ConnectionError, attempts=3)(nothing)

    def awaited(call: Callable[[], Awaitable[None]]) -> Async:
        async def times(count: int) -> None:
            for _ in range(count):
                await call()

        return times

    return [
        Operation("breaker", "pybreaker: call of an empty function", of_pybreaker),
        Operation("a limiter that waits", "aiolimiter", of_aiolimiter),
        Operation("a guarded call", "tenacity: retry", awaited(by_tenacity)),
        Operation("a guarded call", "stamina: retry", awaited(by_stamina)),
    ]


async def costs(rounds: int) -> list[Cost]:
    """Every operation, timed."""
    operations = decisions() + await doings()
    found: dict[int, list[float]] = {index: [] for index in range(len(operations))}
    for number in range(rounds + 1):  # the first warms up
        for index, operation in enumerate(operations):
            count = 4000
            begin = time.perf_counter_ns()
            done: Any = operation.times(count)
            if done is not None:
                await done
            elapsed = time.perf_counter_ns() - begin
            if number:
                found[index].append(elapsed / count)
            await asyncio.sleep(0)
    return [
        Cost(operation.name, round(statistics.median(found[index])), operation.most, operation.work)
        for index, operation in enumerate(operations)
    ]


def run(core: int, rounds: int = 25) -> list[Cost]:
    """Measured in a process of its own, pinned to ``core``."""
    command = [sys.executable, "-m", "benchmarks.policies", "--rounds", str(rounds), "--core", str(core), "--json"]
    done = subprocess.run(command, capture_output=True, check=True)
    return msgspec.json.decode(done.stdout, type=list[Cost])


def rows(found: list[Cost]) -> list[tuple[str, ...]]:
    """A row for each, by what is done, the cheapest first."""
    order = sorted(found, key=lambda cost: (cost.work, cost.ns))
    return [(cost.work, cost.name, f"{cost.ns:,.0f}", *cost.words) for cost in order]


@click.command()
@click.option("--rounds", default=25, show_default=True, type=click.IntRange(1))
@click.option("--core", default=None, type=int, help="Run on this core.")
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, core: int | None, as_json: bool) -> None:
    """Time the policies."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    found = run_loop(costs(rounds))
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(found))
        return
    table = Table(title=TITLE, title_justify="left", box=SIMPLE)
    for number, column in enumerate(HEAD):
        table.add_column(column, justify="right" if number == NUMBER else "left")
    for row in rows(found):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    sys.exit(any(cost.most is not None and cost.ns > cost.most for cost in found))


if __name__ == "__main__":
    main()
