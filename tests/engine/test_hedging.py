"""A second call beside a slow one: nothing is left of the loser, nor of a call that failed."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from forebay.engine.hedging import hedged
from forebay.engine.loop import now
from forebay.policy.hedge import Hedge, Hedger
from forebay.testing.virtual_clock import VirtualClock


def hedger(**rules: Any) -> Hedger:
    """One that hedges after a second, without a budget."""
    return Hedger(Hedge(**{"initial_delay": 1.0, **rules}), None)


class Broken(Exception):
    """What a call fails with."""


async def broken() -> None:
    """A call that fails at once."""
    raise Broken


async def test_an_error_leaves_no_garbage() -> None:
    """Neither its traceback nor the tasks lead back to themselves: all is gone without the collector."""

    async def fail() -> None:
        with pytest.raises(Broken):
            await hedged(hedger(), broken, idempotent=True)

    await fail()  # what is made once
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await fail()
        assert not [found for found in gc.get_objects() if type(found) is Broken]
    finally:
        gc.enable()


def test_errors_of_losers_are_nobodys() -> None:
    """Asyncio does not log them as never looked at, though the caller was cancelled once more while they ended."""
    logged: list[str] = []
    ended = 0

    async def fails_late() -> None:
        nonlocal ended
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)
            ended += 1
            raise Broken

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["message"]))
        caller = asyncio.create_task(hedged(hedger(), fails_late, idempotent=True))
        await asyncio.sleep(2)
        caller.cancel()
        await asyncio.sleep(0.5)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await asyncio.sleep(2)
        gc.collect()
        await asyncio.sleep(0)

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(main())
    assert ended == 2
    assert logged == []


def test_the_third_try_and_the_first_answer() -> None:
    """Each goes a delay after the one before, those that fail leave it to the others, and the last is told of."""
    began: list[float] = []

    async def call() -> int:
        number = len(began)
        began.append(now())
        await asyncio.sleep((60, 0.5, 0.25)[number])
        if number == 1:
            raise Broken
        return number

    async def main() -> None:
        state = hedger(max_hedges=2)
        assert await hedged(state, call, idempotent=True) == 2
        assert [at - began[0] for at in began] == pytest.approx([0.0, 1.0, 2.0], abs=0.01)
        assert (state.sent, state.won) == (2, 1)

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(main())
