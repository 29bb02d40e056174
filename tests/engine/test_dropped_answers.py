"""Answers that nobody gets are let go of: that of a hedge's loser, and the one that a retry replaces."""

from __future__ import annotations

import asyncio

import pytest

from forebay.engine.hedging import discard, hedged
from forebay.engine.stack import stack
from forebay.policy.backoff import Backoff
from forebay.policy.hedge import Hedge, Hedger
from forebay.policy.retry import Retry
from forebay.testing.virtual_clock import VirtualClock

AT_ONCE = Backoff(initial=0.001, cap=0.001, jitter="none")


class Answer:
    """A response that keeps a connection until it is let go of."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.discarded = 0
        self.headers: dict[str, str] = {}

    def discard(self) -> None:
        """It is not wanted."""
        self.discarded += 1


async def test_what_a_retry_replaces_is_let_go_of() -> None:
    """Once each, and the last one, which the caller gets, is not."""
    made: list[Answer] = []

    @stack(retry=Retry(backoff=AT_ONCE), idempotent=True)
    async def call() -> Answer:
        made.append(Answer(503))
        return made[-1]

    assert await call() is made[2]
    assert [answer.discarded for answer in made] == [1, 1, 0]


async def test_what_is_not_tried_again_is_the_callers() -> None:
    """Work that may not be done twice keeps its answer, whatever it says."""
    answer = Answer(503)

    @stack(retry=Retry(backoff=AT_ONCE), idempotent=False)
    async def call() -> Answer:
        return answer

    assert await call() is answer
    assert answer.discarded == 0


def test_a_loser_that_answers_all_the_same() -> None:
    """It was cancelled and answers nevertheless: nobody gets that, and the winner's is whole."""
    made = [Answer(), Answer()]
    calls = iter(made)

    async def call() -> Answer:
        answer = next(calls)
        if answer is made[0]:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return answer  # as one does that has come to its end in that very moment
        return answer

    async def main() -> None:
        assert await hedged(Hedger(Hedge(), None), call, idempotent=True) is made[1]
        assert [answer.discarded for answer in made] == [1, 0]

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(main())


def test_both_answer_in_the_same_moment() -> None:
    """One is chosen, the other let go of."""
    made: list[Answer] = []
    moment = asyncio.Event()

    async def call() -> Answer:
        answer = Answer()
        made.append(answer)
        await moment.wait()
        return answer

    async def main() -> None:
        asyncio.get_running_loop().call_later(2.0, moment.set)
        answer = await hedged(Hedger(Hedge(), None), call, idempotent=True)
        assert [other.discarded for other in made] == [0, 1]
        assert answer is made[0]

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(main())


@pytest.mark.parametrize("while_losers_end", [False, True], ids=["answered", "while the losers end"])
def test_a_caller_that_leaves_gets_no_answer(while_losers_end: bool) -> None:
    """Cancelled in the moment of the answer, or while the loser takes its time to end: all answers are let go of."""
    made: list[Answer] = []
    caller: asyncio.Task[Answer]

    async def call() -> Answer:
        answer = Answer()
        made.append(answer)
        if len(made) == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(1)
            return answer
        await asyncio.sleep(1)
        if not while_losers_end:
            caller.cancel()
        return answer

    async def main() -> None:
        nonlocal caller
        caller = asyncio.create_task(hedged(Hedger(Hedge(), None), call, idempotent=True))
        if while_losers_end:
            await asyncio.sleep(2.5)
            caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await asyncio.sleep(5)
        assert [answer.discarded for answer in made] == [1, 1]

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(main())


def test_what_is_no_response_is_left_alone() -> None:
    """A set has a ``discard`` as well, which wants to be told what."""
    discard({1, 2})
    discard(None)
    answer = Answer()
    discard(answer)
    assert answer.discarded == 1
