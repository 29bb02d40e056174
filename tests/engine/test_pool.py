"""A pool at work, on a clock that only the tests move."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import Connection, TCPServer, dial
from forebay.engine.loop import now
from forebay.engine.pool import Pool
from forebay.errors import ConnectFailed, ConnectTimeout, DeadlineExceeded, Overloaded, PoolExhausted, RetryClass
from forebay.policy.deadline import deadline
from forebay.policy.pool_settings import PoolSettings
from forebay.service import Group, Service
from forebay.testing.virtual_clock import VirtualClock
from forebay.wire.framing import Lines
from tests.engine.pool_kit import Dialler, Thing, numbers
from tests.support import running


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """The time."""
    with VirtualClock(packages=(__name__,)) as clock:
        yield clock


def pooled(dialler: Dialler, *, name: str = "things", keys: Any = (), **settings: Any) -> Pool[str, Thing]:
    """A pool of things, with a few limits of its own."""
    return Pool(dialler.dial, dialler.close, None, PoolSettings(**settings), name=name, keys=keys)


def in_pool(
    clock: VirtualClock,
    main: Callable[[Pool[str, Thing], Dialler], Coroutine[Any, Any, None]],
    delay: float = 0.0,
    **settings: Any,
) -> None:
    """Run ``main`` with a pool that is started. In the end everything that was dialled is closed, once."""
    dialler = Dialler(delay)

    async def run() -> None:
        async with pooled(dialler, **settings) as pool:
            await main(pool, dialler)
        assert dialler.under_way == 0
        assert all(thing.closed == 1 for thing in dialler.things)

    clock.run(run())


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_it_is_a_service() -> None:
    """Whoever runs services can run it."""
    assert isinstance(pooled(Dialler()), Service)


def test_used_again(clock: VirtualClock) -> None:
    """What is released is what is acquired next; nothing is dialled for it."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        assert pool.try_acquire("k") is None
        thing = await pool.acquire("k")
        pool.release(thing)
        assert await pool.acquire("k") is thing
        pool.release(thing)
        assert pool.try_acquire("k") is thing
        pool.release(thing)
        async with pool.borrow("k") as again:
            assert again is thing
            assert await pool.acquire("other") is not thing
        assert numbers(pool.statistics(), "dials", "reused", "given", "in_use", "idle") == (2, 3, 2, 1, 1)

    in_pool(clock, main)


def test_not_started(clock: VirtualClock) -> None:
    """Nothing can be acquired then; to start twice is a mistake."""

    async def main() -> None:
        pool = pooled(Dialler())
        with pytest.raises(RuntimeError, match="pool things is not started"):
            await pool.acquire("k")
        async with pool:
            with pytest.raises(RuntimeError, match="was started before"):
                await pool.start()

    clock.run(main())


def test_waiting(clock: VirtualClock) -> None:
    """Who waits is served in the order in which they came, by what comes back."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        served: list[int] = []

        async def user(number: int) -> None:
            async with pool.borrow("k"):
                served.append(number)
                await asyncio.sleep(1)

        await asyncio.gather(*(user(number) for number in range(6)))
        assert served == [0, 1, 2, 3, 4, 5]
        assert clock.now() == clock.start + 3
        assert numbers(pool.statistics(), "waited", "wait_seconds", "wait_max") == (4, 6.0, 2.0)

    in_pool(clock, main, max_total=2)


def test_timeouts(clock: VirtualClock) -> None:
    """That of the settings, that of the call, and the caller's deadline: each at its exact time, with its error."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        await pool.acquire("k")
        began = now()
        with pytest.raises(PoolExhausted, match="nothing came free for k within 10 s: 1 of 1 are taken") as caught:
            await pool.acquire("k")
        assert caught.value.retry is RetryClass.SAFE
        assert now() - began == pytest.approx(10)
        with pytest.raises(PoolExhausted, match=r"within 0\.25 s"):
            await pool.acquire("k", timeout=0.25)
        assert now() - began == pytest.approx(10.25)
        with pytest.raises(DeadlineExceeded, match="within 2 s"):
            await pool.acquire("k", deadline=now() + 2)
        with pytest.raises(DeadlineExceeded):
            await pool.acquire("k", deadline=now() - 2)
        assert now() - began == pytest.approx(12.25)
        assert pool.statistics()["refused"] == {"timeout": 4}
        assert pool.statistics()["waiting"] == 0

    in_pool(clock, main, max_total=1)


def test_too_many_wait(clock: VirtualClock) -> None:
    """The next one is refused at once."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        thing = await pool.acquire("k")
        waits = asyncio.ensure_future(pool.acquire("k"))
        await settled()
        with pytest.raises(PoolExhausted, match=r"nothing is free for k, and 1 may wait, who do: 1 of 1 are taken"):
            await pool.acquire("k")
        pool.release(thing)
        pool.release(await waits)

    in_pool(clock, main, max_total=1, max_waiting=1)


def test_a_slow_dial(clock: VirtualClock) -> None:
    """Who does not want to wait for it is told so, and what it brings is for the next."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        with pytest.raises(ConnectTimeout, match="pool things: k was not dialled within 1 s"):
            await pool.acquire("k", timeout=1)
        thing = await pool.acquire("k")
        assert now() == clock.start + 3
        assert dialler.things == [thing]
        pool.release(thing)

    in_pool(clock, main, delay=3.0)


def test_a_dial_that_hangs(clock: VirtualClock) -> None:
    """It is given up after its timeout, and its place is free."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        with pytest.raises(ConnectTimeout, match="dialling k took more than 30 s"):
            await pool.acquire("k", timeout=1000)
        assert now() == clock.start + 30
        assert numbers(pool.statistics(), "total", "dial_failures") == (0, 1)

    in_pool(clock, main, delay=3600)


def test_a_dial_that_fails(clock: VirtualClock) -> None:
    """Its own error reaches whom it was for, and the next is dialled for."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        dialler.error = ConnectFailed("refused")
        found = await asyncio.gather(*(pool.acquire("k") for _ in range(3)), return_exceptions=True)
        assert [str(one) for one in found] == ["refused"] * 3
        assert numbers(pool.statistics(), "total", "waiting", "dial_failures") == (0, 0, 3)
        dialler.error = None
        pool.release(await pool.acquire("k"))

    in_pool(clock, main, max_total=1)


def test_a_dial_that_cancels_itself(clock: VirtualClock) -> None:
    """That is a failure, and nobody who waits is cancelled by it."""

    async def give_up(key: str) -> Thing:
        raise asyncio.CancelledError

    async def main() -> None:
        async with Pool(give_up, Dialler().close) as pool:
            with pytest.raises(ConnectFailed, match="dialling k was cancelled"):
                await pool.acquire("k")

    clock.run(main())


def test_a_dial_that_brings_the_same_twice(clock: VirtualClock) -> None:
    """A resource is in a pool once."""
    thing = Thing("k", 0)

    async def same(key: str) -> Thing:
        return thing

    async def main() -> None:
        async with Pool(same, Dialler().close) as pool:
            await pool.acquire("k")
            with pytest.raises(RuntimeError, match="which the pool has already"):
                await pool.acquire("k")

    clock.run(main())


def test_cancelled_while_it_is_dialled(clock: VirtualClock) -> None:
    """What was dialled for it is idle then."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        task = asyncio.ensure_future(pool.acquire("k"))
        await clock.elapse(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await clock.elapse(1)
        assert numbers(pool.statistics(), "idle", "in_use", "waiting") == (1, 0, 0)
        assert pool.try_acquire("k") is dialler.things[0]

    in_pool(clock, main, delay=2.0)


def test_cancelled_in_the_turn_in_which_it_is_served(clock: VirtualClock) -> None:
    """Whichever comes first: the next one gets what it cannot take."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        for cancel_first in (True, False):
            thing = await pool.acquire("k")
            one, two = (asyncio.ensure_future(pool.acquire("k")) for _ in range(2))
            await settled()
            if cancel_first:
                one.cancel()
                pool.release(thing)
            else:
                pool.release(thing)
                one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one
            assert await two is thing
            pool.release(thing)
        assert pool.statistics()["dials"] == 1

    in_pool(clock, main, max_total=1)


def test_wait_for(clock: VirtualClock) -> None:
    """A wait may be bounded from outside as well."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        await pool.acquire("k")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.acquire("k"), 1)
        assert pool.statistics()["waiting"] == 0

    in_pool(clock, main, max_total=1)


def test_idle_ones_are_closed(clock: VirtualClock) -> None:
    """After the idle timeout, though nobody comes; the pool rests when there is nothing left."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        for thing in [await pool.acquire("k") for _ in range(3)]:
            pool.release(thing)
        await clock.elapse(59.9)
        assert len(dialler.alive()) == 3
        await clock.elapse(0.4)
        assert dialler.alive() == []
        assert pool.statistics()["closed"] == {"idle": 3}
        assert pool.due_at == float("inf")

    in_pool(clock, main, idle_timeout=60.0)


def test_old_ones_are_closed(clock: VirtualClock) -> None:
    """Idle ones in time, one that is held when it comes back."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        keeps, thing = await pool.acquire("k"), await pool.acquire("k")
        pool.release(thing)
        await clock.elapse(100.2)
        assert dialler.alive() == [keeps]
        pool.release(keeps)
        assert dialler.alive() == []
        assert pool.statistics()["closed"] == {"lifetime": 2}

    in_pool(clock, main, idle_timeout=None, max_lifetime=100.0, lifetime_jitter=0.5)


def test_keys_that_are_kept(clock: VirtualClock) -> None:
    """Two are there when it has started; one is always made anew; what fails is tried again."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        assert len(dialler.things) == 2
        one, two = pool.try_acquire("k"), pool.try_acquire("k")
        assert one is not None
        assert two is not None
        dialler.error = ConnectFailed("refused")
        await clock.elapse(10)
        assert 3 <= pool.statistics()["dial_failures"] <= 5
        dialler.error = None
        await clock.elapse(10)
        assert pool.try_acquire("k") is not None
        pool.forget("k")
        pool.keep("j")
        await clock.elapse(5)
        assert len([thing for thing in dialler.alive() if thing.key == "j"]) == 2

    in_pool(clock, main, keys=["k"], prewarm=2, min_idle=1)


def test_a_start_whose_dials_fail(clock: VirtualClock) -> None:
    """The pool starts all the same: what is not there may come."""

    async def main() -> None:
        dialler = Dialler(0.1)
        dialler.error = ConnectFailed("refused")
        async with pooled(dialler, keys=["k"], prewarm=3) as pool:
            assert numbers(pool.statistics(), "total", "dial_failures") == (0, 3)

    clock.run(main())


def test_checks(clock: VirtualClock) -> None:
    """What was idle for some time is checked before it is borrowed; what fails, raises or hangs is closed."""

    async def main() -> None:
        dialler = Dialler()
        settings = PoolSettings(check_after=10.0, check_timeout=2.0, idle_timeout=None)
        async with Pool(dialler.dial, dialler.close, dialler.check, settings) as pool:
            thing = await pool.acquire("k")
            pool.release(thing)
            assert await pool.acquire("k") is thing
            pool.release(thing)
            assert dialler.checks == 0
            await clock.elapse(10.1)
            assert pool.try_acquire("k") is None
            assert await pool.acquire("k") is thing
            assert dialler.checks == 1
            pool.release(thing)
            await clock.elapse(10.1)
            dialler.works = False
            assert await pool.acquire("k") is not thing
            other = dialler.things[1]
            pool.release(other)
            await clock.elapse(10.1)
            dialler.works, dialler.delay = True, 100.0
            dialler.error = ConnectFailed("refused")
            began = now()
            dialling = asyncio.ensure_future(pool.acquire("k", timeout=50))
            await clock.elapse(2.1)
            assert other.closed
            dialling.cancel()
            assert now() - began < 3
            assert pool.statistics()["closed"] == {"check-failed": 2}

    clock.run(main())


def test_is_open(clock: VirtualClock) -> None:
    """What is seen to be closed is not given, and not kept."""

    async def main() -> None:
        dialler = Dialler()
        async with Pool(dialler.dial, dialler.close, is_open=lambda thing: thing.is_open) as pool:
            things = [await pool.acquire("k") for _ in range(5)]
            for thing in things:
                pool.release(thing)
            things[4].is_open = things[3].is_open = False
            assert await pool.acquire("k") is things[2]
            things[1].is_open = False
            assert pool.try_acquire("k") is things[0]
            assert pool.try_acquire("k") is None
            things[2].is_open = False
            pool.release(things[2])
            assert numbers(pool.statistics(), "total", "idle", "closed") == (1, 0, {"ended": 4})

    clock.run(main())


def test_is_open_before_it_is_checked(clock: VirtualClock) -> None:
    """What is seen to be closed needs no check any more, and is not given when there is none."""

    async def main() -> None:
        dialler = Dialler()
        settings = PoolSettings(check_after=10.0)
        async with Pool(dialler.dial, dialler.close, dialler.check, settings, is_open=lambda one: one.is_open) as pool:
            things = [await pool.acquire("k") for _ in range(3)]
            for thing in things:
                pool.release(thing)
            await clock.elapse(10.1)
            things[0].is_open = things[2].is_open = False
            assert await pool.acquire("k") is things[1]
            assert dialler.checks == 1
            assert numbers(pool.statistics(), "total", "closed") == (1, {"ended": 2})

    clock.run(main())


def test_a_start_that_is_cancelled(clock: VirtualClock) -> None:
    """It has cleaned up after itself."""

    async def main() -> None:
        dialler = Dialler(5.0)
        pool = pooled(dialler, keys=["k"], prewarm=2)
        task = asyncio.ensure_future(pool.start())
        await clock.elapse(1)
        assert dialler.under_way == 2
        task.cancel()
        await asyncio.wait([task])
        assert (dialler.under_way, str(pool.state)) == (0, "stopped")

    clock.run(main())


def test_released_wrongly(clock: VirtualClock) -> None:
    """Twice, or to a pool that does not know it: each has its error."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        thing = await pool.acquire("k")
        pool.release(thing)
        with pytest.raises(RuntimeError, match=r"<Thing k0> of pool things was released before: it is idle"):
            pool.release(thing)
        with pytest.raises(RuntimeError, match=r"<Thing x9> is not of pool things, or was released before and closed"):
            pool.release(Thing("x", 9))
        thing = await pool.acquire("k")
        pool.release(thing, reusable=False)
        with pytest.raises(RuntimeError, match="released before and closed"):
            pool.release(thing)
        with pytest.raises(RuntimeError, match="was released within its block"):
            async with pool.borrow("k") as thing:
                pool.release(thing)
                assert await pool.acquire("k") is thing
        assert pool.statistics()["in_use"] == 1, "who took it meanwhile keeps it"
        loan = pool.borrow("k")
        async with loan:
            with pytest.raises(RuntimeError, match="for one block"):
                await loan.__aenter__()

    in_pool(clock, main)


def test_a_block_that_fails(clock: VirtualClock) -> None:
    """Nobody knows what is left in the resource: it is closed."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        with pytest.raises(KeyError):
            async with pool.borrow("k"):
                raise KeyError
        assert numbers(pool.statistics(), "total", "closed") == (0, {"used-up": 1})

    in_pool(clock, main)


def test_discard(clock: VirtualClock) -> None:
    """What has ended by itself frees its place at once; who holds it may release it, once."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        thing = await pool.acquire("k")
        waits = asyncio.ensure_future(pool.acquire("k"))
        await settled()
        pool.discard(thing)
        other = await waits
        pool.release(thing)
        with pytest.raises(RuntimeError, match="is not of pool"):
            pool.release(thing)
        pool.release(other)
        pool.discard(other)
        pool.discard(other)
        async with pool.borrow("k") as third:
            pool.discard(third)
        assert numbers(pool.statistics(), "total", "closed") == (0, {"ended": 3})

    in_pool(clock, main, max_total=1)


def test_reclaimed(clock: VirtualClock) -> None:
    """A resource that is held for too long is closed under its holder, and somebody who waits has its place."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        thing = await pool.acquire("k")
        waits = asyncio.ensure_future(pool.acquire("k", timeout=100))
        with capture_logs() as logs:
            await clock.elapse(20.5)
        assert thing.closed
        pool.release(await waits)
        pool.release(thing)
        assert [line["event"] for line in logs] == ["resource held for long", "resource reclaimed"]
        assert "test_pool.py" in logs[1]["at"]
        assert pool.statistics()["closed"] == {"reclaimed": 1}

    in_pool(clock, main, max_total=1, reclaim_after=20.0)


def test_resize(clock: VirtualClock) -> None:
    """A larger pool serves who waits; a smaller one closes what is idle, and what comes back."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        tasks = [asyncio.ensure_future(pool.acquire("k")) for _ in range(4)]
        await settled()
        assert pool.statistics()["waiting"] == 3
        pool.resize(PoolSettings(max_total=4))
        things = [await task for task in tasks]
        pool.release(things[0])
        pool.resize(PoolSettings(max_total=2))
        assert len(dialler.alive()) == 3
        for thing in things[1:]:
            pool.release(thing)
        assert dialler.alive() == things[2:]

    in_pool(clock, main, max_total=1)


def test_switched_off(clock: VirtualClock) -> None:
    """Those who wait are served at once, whatever the limits."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        tasks = [asyncio.ensure_future(pool.acquire("k")) for _ in range(4)]
        await settled()
        pool.enabled = False
        assert len({await task for task in tasks}) == 4

    in_pool(clock, main, max_total=1)


def test_drain(clock: VirtualClock) -> None:
    """Who comes is refused, who waits is served, and it has ended when the last one is back."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        served: list[int] = []

        async def user(number: int) -> None:
            async with pool.borrow("k"):
                served.append(number)
                await asyncio.sleep(1)

        users = [asyncio.ensure_future(user(number)) for number in range(4)]
        await settled()
        draining = asyncio.ensure_future(pool.drain())
        await settled()
        with pytest.raises(Overloaded, match="pool things drains"):
            await pool.acquire("k")
        await draining
        assert now() == clock.start + 2
        assert served == [0, 1, 2, 3]
        assert dialler.alive() == []
        await asyncio.gather(*users)

    in_pool(clock, main, max_total=2)


def test_stop(clock: VirtualClock) -> None:
    """All is cut: who waits, what is dialled, what is idle and what is held. To release it later does no harm."""

    async def main() -> None:
        dialler = Dialler(1.0)
        pool = pooled(dialler, max_total=3)
        group = Group("all", [pool])
        await group.start()
        held, idle = await asyncio.gather(pool.acquire("k"), pool.acquire("k"))
        pool.release(idle)
        waits = asyncio.ensure_future(pool.acquire("j"))
        behind = [asyncio.ensure_future(pool.acquire("j")) for _ in range(3)]
        await settled()
        assert dialler.under_way == 2
        await group.stop()
        assert (dialler.under_way, dialler.alive()) == (0, [])
        for task in (waits, *behind):
            with pytest.raises(Overloaded, match="pool things is stopped"):
                await task
        with pytest.raises(Overloaded, match="is stopped"):
            await pool.acquire("k")
        pool.release(held)
        await pool.stop()
        assert numbers(pool.statistics(), "total", "waiting", "keys") == (0, 0, {})

    clock.run(main())


def test_stopped_before_it_was_started(clock: VirtualClock) -> None:
    """That is right in any state."""
    clock.run(pooled(Dialler()).stop())


@pytest.mark.parametrize("raises", [False, True])
def test_a_close_that_misbehaves(clock: VirtualClock, raises: bool) -> None:
    """One that raises is logged, one that hangs is cancelled in time; neither keeps a place."""

    def close(thing: Thing) -> Awaitable[None]:
        if raises:
            raise ValueError("broken")
        return asyncio.sleep(3600)

    async def main() -> None:
        async with Pool(Dialler().dial, close, settings=PoolSettings(max_total=1)) as pool:
            pool.release(await pool.acquire("k"), reusable=False)
            assert pool.statistics()["total"] == 0
            pool.release(await pool.acquire("k"), reusable=False)

    with capture_logs() as logs:
        clock.run(main())
    assert [line["event"] for line in logs] == ["close failed" if raises else "close took too long"] * 2
    assert clock.now() - clock.start < 6


VARIABLE: ContextVar[str] = ContextVar("variable", default="")


def test_dials_have_the_context_of_the_pool(clock: VirtualClock) -> None:
    """And not that of whoever happened to come first: what is dialled outlives it."""
    seen: list[str] = []

    async def look(key: str) -> Thing:
        seen.append(VARIABLE.get())
        return Thing(key, 0)

    async def main() -> None:
        VARIABLE.set("pool")
        async with Pool(look, Dialler().close) as pool:
            VARIABLE.set("request")
            await pool.acquire("k")

    clock.run(main())
    assert seen == ["pool"]


def test_is_open_that_raises(clock: VirtualClock) -> None:
    """The resource is not open, then: it is closed, its place is free, and who asked gets another. That is logged."""
    broken: list[Thing] = []

    def is_open(thing: Thing) -> bool:
        if thing in broken:
            raise ValueError("broken")
        return thing.is_open

    async def main() -> None:
        dialler = Dialler()
        async with Pool(dialler.dial, dialler.close, None, PoolSettings(max_total=1), is_open=is_open) as pool:
            one = await pool.acquire("k")
            pool.release(one)
            broken.append(one)
            assert pool.try_acquire("k") is None
            two = await pool.acquire("k")
            pool.release(two)
            broken.append(two)
            three = await pool.acquire("k")
            broken.append(three)
            pool.release(three)
            async with pool.borrow("k") as four:
                broken.append(four)
            assert numbers(pool.statistics(), "total", "in_use", "closed") == (0, 0, {"ended": 4})
            assert dialler.alive() == []

    with capture_logs() as logs:
        clock.run(main())
    assert {line["event"] for line in logs} == {"is_open failed"}


class Abort(BaseException):
    """What is no Exception."""


@pytest.mark.parametrize("error", [asyncio.CancelledError, Abort])
def test_a_close_that_lets_go_anything(clock: VirtualClock, error: type[BaseException]) -> None:
    """Who waits has the place all the same, in the same moment."""

    def close(thing: Thing) -> None:
        raise error

    async def main() -> None:
        pool = Pool(Dialler().dial, close, settings=PoolSettings(max_total=1))
        await pool.start()
        thing = await pool.acquire("k")
        waits = asyncio.ensure_future(pool.acquire("k"))
        await settled()
        try:
            pool.release(thing, reusable=False)
        except Abort:
            assert error is Abort
        await settled()
        assert waits.done()
        pool.discard(await waits) if error is not Abort else None
        assert pool.statistics()["waiting"] == 0

    with capture_logs() as logs:
        clock.run(main())
    assert [line["event"] for line in logs] == ["close failed"] * 2 * (error is not Abort)


def test_an_error_that_cannot_be_told(clock: VirtualClock) -> None:
    """A dial for nobody that fails frees its place, whatever its error does when it is logged."""

    class Untold(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        dialler.error = Untold()
        with pytest.raises(ConnectTimeout):
            await pool.acquire("k", timeout=1)
        await clock.elapse(2)
        assert numbers(pool.statistics(), "total", "dial_failures") == (0, 1)

    with capture_logs():
        in_pool(clock, main, delay=2.0, max_total=1)


def test_errors_leave_no_garbage(clock: VirtualClock) -> None:
    """Who is refused by the thousand does not need the garbage collector: errors go with who caught them."""

    class Refused(Exception):
        pass

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        errors: list[weakref.ref[BaseException]] = []
        thing = await pool.acquire("k")
        for _ in range(3):
            try:
                await pool.acquire("k", timeout=1)
            except PoolExhausted as error:
                errors.append(weakref.ref(error))
        pool.release(thing, reusable=False)

        async def fail(key: str) -> Thing:
            await asyncio.sleep(1)
            error = Refused()
            errors.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        async with Pool(fail, dialler.close) as other:
            for _ in range(3):
                with contextlib.suppress(Refused):
                    await other.acquire("k")
        await settled()
        assert len(errors) == 6
        assert [error() for error in errors] == [None] * 6

    gc.collect()
    gc.disable()
    try:
        in_pool(clock, main, max_total=1)
    finally:
        gc.enable()


def test_acquire_of_one_that_was_stopped_before_it_started(clock: VirtualClock) -> None:
    """It is refused like everybody: the services before it may have failed."""

    async def main() -> None:
        pool = pooled(Dialler(), min_idle=1)
        await pool.stop()
        with pytest.raises(Overloaded, match="pool things is stopped"):
            await pool.acquire("k")
        pool.keep("k")
        assert pool.statistics()["dials"] == 0

    clock.run(main())


def test_forgotten_before_the_start(clock: VirtualClock) -> None:
    """What is kept no more is not dialled then."""

    async def main() -> None:
        dialler = Dialler()
        pool = pooled(dialler, min_idle=1, keys=["a", "b"])
        pool.forget("a")
        async with pool:
            assert [thing.key for thing in dialler.things] == ["b"]

    clock.run(main())


def test_resized_while_it_is_empty(clock: VirtualClock) -> None:
    """What is dialled afterwards is looked after as before: who holds it is told, and when idle it is closed."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        pool.release(await pool.acquire("k"), reusable=False)
        pool.resize(PoolSettings())
        thing = await pool.acquire("k")
        await clock.elapse(6)
        assert pool.statistics()["held_warnings"] == 1
        pool.release(thing)
        await clock.elapse(66)
        assert dialler.alive() == []

    with capture_logs():
        in_pool(clock, main)


def test_a_loan_that_two_tasks_enter(clock: VirtualClock) -> None:
    """One has it; the other is told, and nothing is lost."""

    async def main(pool: Pool[str, Thing], dialler: Dialler) -> None:
        loan = pool.borrow("k")

        async def user() -> None:
            async with loan:
                await asyncio.sleep(1)

        one, two = await asyncio.gather(user(), user(), return_exceptions=True)
        assert one is None
        assert isinstance(two, RuntimeError)
        assert "for one block" in str(two)
        assert numbers(pool.statistics(), "in_use", "idle") == (0, 1)

    in_pool(clock, main)


async def echo(conn: Connection) -> None:
    """Answer every line."""
    async for line in conn:
        await conn.send(line)


@pytest.mark.both_loops
async def test_real_connections() -> None:
    """Fifty users share three connections to a server, and one that the server ends is replaced."""
    async with running(TCPServer(echo, bind="tcp://127.0.0.1:0", framing=Lines())) as server:
        address = server.addresses[0]

        async def connect(key: str) -> Connection:
            return await dial(address, framing=Lines())

        settings = PoolSettings(max_total=3)
        async with Pool(connect, Connection.close, None, settings, is_open=lambda conn: not conn.closing) as pool:

            async def ask(number: int) -> None:
                async with pool.borrow("server") as conn:
                    await conn.send(f"{number}")
                    assert await conn.receive() == f"{number}"

            await asyncio.gather(*(ask(number) for number in range(50)))
            assert numbers(pool.statistics(), "dials", "total", "idle") == (3, 3, 3)
            conn = await pool.acquire("server")
            conn.abort()
            pool.release(conn)
            await ask(99)
            assert pool.statistics()["closed"] == {"ended": 1}
        assert pool.statistics()["total"] == 0


def test_the_current_deadline_counts() -> None:
    """Whoever has none in hand, has that of what it is done for."""

    async def main() -> None:
        async def dial(key: str) -> object:
            return object()

        async with Pool(dial, lambda resource: None, settings=PoolSettings(max_total=1, max_per_key=1)) as pool:
            await pool.acquire("a")
            began = now()
            with deadline(0.5), pytest.raises(DeadlineExceeded):
                await pool.acquire("a")
            assert now() - began == pytest.approx(0.5, abs=0.01)

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(main())
