"""Something that is done once, whoever asks for it, and whoever leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from forebay.engine.once import Once
from forebay.testing.virtual_clock import VirtualClock


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """The time."""
    with VirtualClock() as clock:
        yield clock


class Work:
    """Takes ten seconds, and counts."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        await asyncio.sleep(10)
        self.ended += 1
        if self.error is not None:
            raise self.error
        return number


def test_all_get_the_result_of_one_run(clock: VirtualClock) -> None:
    """Those who wait and those who come later, who do not wait at all."""

    async def main() -> None:
        work = Work()
        once = Once(work)
        assert (once.done, repr(once)) == (False, "<Once Work not done>")
        tasks = [asyncio.create_task(once()) for _ in range(20)]
        await clock.elapse(5)
        assert repr(once) == "<Once Work running>"
        assert await asyncio.gather(*tasks) == [1] * 20
        assert once.done
        begin = clock.now()
        assert await once() == 1
        assert clock.now() == begin == 1_010
        assert once.statistics() == {"done": True, "running": False, "runs": 1, "failures": 0}

    clock.run(main())


def test_none_is_a_result(clock: VirtualClock) -> None:
    """A function that returns nothing is not run again for it."""

    async def main() -> None:
        runs = []

        async def work() -> None:
            runs.append(1)

        once = Once(work)
        await asyncio.gather(once(), once())
        await once()
        assert runs == [1]

    clock.run(main())


def test_the_first_caller_may_leave(clock: VirtualClock) -> None:
    """The work goes on for the others."""

    async def main() -> None:
        work = Work()
        once = Once(work)
        first, second = asyncio.create_task(once()), asyncio.create_task(once())
        await clock.elapse(5)
        first.cancel()
        await clock.settle()
        assert first.cancelled()
        assert await second == 1
        assert (work.begun, clock.now()) == (1, 1_010)

    clock.run(main())


def test_when_all_leave_the_work_ends_and_is_begun_anew(clock: VirtualClock) -> None:
    """It is cancelled with its last caller, and counts as a failure."""

    async def main() -> None:
        work = Work()
        once = Once(work)
        tasks = [asyncio.create_task(once()) for _ in range(2)]
        await clock.elapse(5)
        for task in tasks:
            task.cancel()
        await clock.elapse(100)
        assert (work.begun, work.ended, once.done) == (1, 0, False)
        assert await once() == 2
        assert once.statistics() == {"done": True, "running": False, "runs": 2, "failures": 1}

    clock.run(main())


def test_a_result_is_kept_even_when_its_last_caller_is_cancelled_as_it_comes(clock: VirtualClock) -> None:
    """In the very moment in which the work has ended, and its caller has not run."""

    async def main() -> None:
        once = Once(Work())
        task = asyncio.create_task(once())
        await asyncio.sleep(9)
        while not once.done:
            await asyncio.sleep(0 if clock.now() >= 1_010 else 1)
        task.cancel()
        await clock.settle()
        assert task.cancelled()
        assert await once() == 1
        assert once.statistics()["runs"] == 1

    clock.run(main())


def test_a_failure_is_for_those_who_waited(clock: VirtualClock) -> None:
    """They get the same error; who comes next tries again."""

    async def main() -> None:
        work = Work()
        once = Once(work)
        work.error = LookupError("not yet")
        outcomes = await asyncio.gather(once(), once(), once(), return_exceptions=True)
        assert {id(outcome) for outcome in outcomes} == {id(work.error)}
        work.error = None
        assert await once() == 2
        assert once.statistics() == {"done": True, "running": False, "runs": 2, "failures": 1}

    clock.run(main())


def test_reset(clock: VirtualClock) -> None:
    """It is done again; a run under way gives its result to those who wait for it, and to nobody else."""

    async def main() -> None:
        once = Once(Work())
        assert await once() == 1
        once.reset()
        assert not once.done
        old = asyncio.create_task(once())
        await clock.elapse(5)
        once.reset()
        new = asyncio.create_task(once())
        assert await old == 2
        assert not once.done
        assert await new == 3
        assert await once() == 3

    clock.run(main())


def test_work_that_asks_for_itself_is_told(clock: VirtualClock) -> None:
    """Instead of waiting for ever."""

    async def main() -> None:
        async def work() -> int:
            return await once()

        once: Once[int] = Once(work)
        with pytest.raises(RuntimeError, match="waits for itself"):
            await once()
        assert not once.done

    clock.run(main())


def test_a_reset_before_the_work_has_begun(clock: VirtualClock) -> None:
    """The run that was under way counts as one, and is not the result, also where it ends last."""
    gates = [asyncio.Event(), asyncio.Event()]
    begun: list[int] = []

    async def work() -> int:
        number = len(begun)
        begun.append(number)
        await gates[number].wait()
        return number

    async def main() -> None:
        once = Once(work)
        first = asyncio.create_task(once())
        await asyncio.sleep(0)  # it has started the run, whose task has not run on every version of Python
        once.reset()
        second = asyncio.create_task(once())
        await clock.settle()
        gates[1].set()
        assert await second == 1
        gates[0].set()
        assert await first == 0
        assert await once() == 1

    clock.run(main())
