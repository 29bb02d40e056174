"""Concurrent callers of one key share one call."""

from __future__ import annotations

import asyncio
import gc
import weakref
from math import inf

import pytest
from structlog.testing import capture_logs

from forebay.engine.single_flight import SingleFlight
from forebay.policy.deadline import deadline
from tests.support import eventually


class Work:
    """A function that waits to be let on, and counts."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return number


async def _waiting(flight: SingleFlight[int], work: Work, count: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(flight.run("a", work)) for _ in range(count)]
    await eventually(lambda: work.begun)
    return tasks


@pytest.mark.both_loops
async def test_callers_of_one_key_share_a_call() -> None:
    """A hundred get what one call returns; another key and a later call are calls of their own."""
    flight: SingleFlight[int] = SingleFlight()
    work, other = Work(), Work()
    tasks = await _waiting(flight, work, 100)
    apart = asyncio.create_task(flight.run("b", other))
    await eventually(lambda: other.begun)
    work.go.set()
    other.go.set()
    assert await asyncio.gather(*tasks) == [1] * 100
    assert await apart == 1
    assert (flight.started, flight.shared, len(flight)) == (2, 99, 0)
    assert await flight.run("a", work) == 2


@pytest.mark.both_loops
async def test_who_leaves_does_not_take_the_others_along() -> None:
    """The first caller is cancelled; the second still gets the result of the one call."""
    flight: SingleFlight[int] = SingleFlight()
    work = Work()
    first, second = await _waiting(flight, work, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.go.set()
    assert await second == 1
    assert (work.begun, work.cancelled) == (1, 0)


@pytest.mark.both_loops
async def test_the_last_one_to_leave_ends_the_call() -> None:
    """With both callers cancelled the call is too, and its end is awaited; the next caller begins anew."""
    flight: SingleFlight[int] = SingleFlight()
    work = Work()
    tasks = await _waiting(flight, work, 2)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    assert (work.cancelled, len(flight)) == (1, 0)
    work.go.set()
    assert await flight.run("a", work) == 2


async def test_an_error_is_for_all_and_not_remembered() -> None:
    """Everybody gets the same error, whose traceback does not grow with them; then the key is free."""
    flight: SingleFlight[int] = SingleFlight()
    go = asyncio.Event()

    async def fails() -> int:
        await go.wait()
        raise LookupError("no")

    tasks = [asyncio.create_task(flight.run("a", fails)) for _ in range(50)]
    await eventually(lambda: flight.shared == 49)
    go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {LookupError}
    assert len(set(map(id, outcomes))) == 1
    depth, frame = 0, outcomes[0].__traceback__ if isinstance(outcomes[0], BaseException) else None
    while frame is not None:
        depth, frame = depth + 1, frame.tb_next
    assert depth < 10
    assert len(flight) == 0


async def test_forgetting_a_key_lets_the_next_one_begin_anew() -> None:
    """Who waits keeps the old call, who comes later gets a new one, and the old one's end does not disturb it."""
    flight: SingleFlight[int] = SingleFlight()
    work, later = Work(), Work()
    (old,) = await _waiting(flight, work, 1)
    flight.forget("a")
    new = asyncio.create_task(flight.run("a", later))
    await eventually(lambda: later.begun)
    work.go.set()
    assert await old == 1
    assert len(flight) == 1
    later.go.set()
    assert await new == 1


async def test_a_call_that_fails_when_nobody_waits_is_logged() -> None:
    """Cancelled with its last caller, it fails on its way out: that is not lost."""
    flight: SingleFlight[int] = SingleFlight()
    begun = asyncio.Event()

    async def stumbles() -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("on the way out")

    task = asyncio.create_task(flight.run("a", stumbles))
    await begun.wait()
    with capture_logs() as logs:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: logs)
    assert [entry["event"] for entry in logs] == ["shared call failed after nobody waited for it any more"]


async def test_a_call_that_asks_for_itself() -> None:
    """It is told, instead of waiting for ever; the key is free afterwards."""
    flights: SingleFlight[int] = SingleFlight()

    async def call() -> int:
        return await flights.run("key", call)

    async def other() -> int:
        return 7

    with pytest.raises(RuntimeError, match="the call for 'key' waits for itself"):
        await asyncio.wait_for(flights.run("key", call), 5)
    assert await flights.run("key", other) == 7


async def test_the_deadline_of_the_first_is_not_that_of_all() -> None:
    """The call is for everybody who joins it, and somebody may have more time."""
    flights: SingleFlight[float] = SingleFlight()

    async def left() -> float:
        await asyncio.sleep(0)
        return deadline.remaining()

    async def first() -> float:
        with deadline(0.001):
            return await flights.run("k", left)

    one, other = await asyncio.gather(first(), flights.run("k", left))
    assert (one, other) == (inf, inf)


async def test_a_key_that_cannot_be_shown_leaves_nothing_behind() -> None:
    """Its error is the caller's, each time, and no call is under way."""

    class Key:
        def __repr__(self) -> str:
            raise LookupError("no name")

    flight: SingleFlight[int] = SingleFlight()
    key, work = Key(), Work()
    for _ in range(2):
        with pytest.raises(LookupError):
            await flight.run(key, work)
    assert (len(flight), flight.started) == (0, 0)


async def test_an_error_is_freed_with_its_last_user() -> None:
    """It is not part of a cycle, which would keep what its frames know until the garbage collector comes."""

    class Lost(LookupError):
        """Which takes weak references."""

    flight: SingleFlight[None] = SingleFlight()
    freed: list[weakref.ref[Lost]] = []

    async def fail() -> None:
        error = Lost()
        freed.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def caller() -> None:
        with pytest.raises(Lost):
            await flight.run("a", fail)

    gc.disable()
    try:
        await asyncio.gather(caller(), caller())
        await asyncio.sleep(0)
        assert [error() for error in freed] == [None]
    finally:
        gc.enable()
