"""Who holds what of a pool is told with the line that took it, whatever lies between."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine.holders import PROGRAM_FILES
from forebay.engine.loop import Ticker
from forebay.engine.pool import Pool
from forebay.errors import PoolExhausted
from forebay.policy.pool_settings import PoolSettings
from forebay.testing.virtual_clock import VirtualClock
from tests.engine.pool_kit import Dialler, Thing

Things = Pool[str, Thing]
HERE = "tests/engine/test_pool_leaks.py"


def line_of(function: Callable[..., Any], text: str) -> str:
    """``FILE:LINE in FUNCTION`` of the line of ``function`` that has ``text``."""
    lines, first = inspect.getsourcelines(function)
    (found,) = (first + number for number, line in enumerate(lines) if text in line and "line_of" not in line)
    return f"{HERE}:{found} in {function.__name__}"


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are told relative to the working directory."""
    monkeypatch.chdir(Path(__file__).parent.parent.parent)


def in_pool(main: Callable[[Things, VirtualClock], Coroutine[Any, Any, None]], **settings: Any) -> list[Any]:
    """Run ``main`` with a pool on a virtual clock. What was logged."""
    dialler = Dialler(0.5)

    async def run() -> None:
        async with Pool(dialler.dial, dialler.close, None, PoolSettings(**settings), name="db") as pool:
            await main(pool, clock)

    with VirtualClock() as clock, capture_logs() as logs:
        clock.run(run())
    return logs


async def leaks(pool: Things) -> None:
    """Take one and never give it back."""
    await pool.acquire("k")  # leaked here


async def leaks_what_is_idle(pool: Things) -> None:
    """Take one that is idle and never give it back."""
    pool.release(await pool.acquire("k"))
    await pool.acquire("k")  # leaked again


async def helper(pool: Things) -> Thing:
    """What a program may have between itself and the pool."""
    return await pool.acquire("k")  # in the helper


async def calls_a_helper(pool: Things) -> None:
    """Take one by way of two other coroutines."""

    async def between() -> Thing:
        return await helper(pool)

    await between()


async def keeps_a_block_open(pool: Things) -> None:
    """Stay in the block."""
    async with pool.borrow("k"):  # this block
        await asyncio.sleep(3600)


@asynccontextmanager
async def session(pool: Things) -> AsyncIterator[Thing]:
    """A block of a program's own."""
    async with pool.borrow("k") as thing:  # in a session
        yield thing


async def keeps_a_session(pool: Things) -> None:
    """Stay in a block that was entered through contextlib."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(session(pool))
        await asyncio.sleep(3600)


async def waits_for_it(pool: Things) -> None:
    """Give it to a function that runs it in a task of its own on Python 3.11."""
    await asyncio.wait_for(pool.acquire("k"), 60)  # within wait_for


async def gathers(pool: Things) -> None:
    """Let asyncio make a task of it."""
    await asyncio.gather(pool.acquire("k"))  # gathered


async def tries(pool: Things) -> None:
    """Take an idle one without waiting."""
    pool.release(await pool.acquire("k"))
    assert pool.try_acquire("k") is not None  # tried


@pytest.mark.parametrize(
    ("leak", "function", "text"),
    [
        (leaks, leaks, "# leaked here"),
        (leaks_what_is_idle, leaks_what_is_idle, "# leaked again"),
        (calls_a_helper, helper, "# in the helper"),
        (keeps_a_block_open, keeps_a_block_open, "# this block"),
        (keeps_a_session, session, "# in a session"),
        (waits_for_it, waits_for_it, "# within wait_for"),
        (gathers, gathers, "# gathered"),
        (tries, tries, "# tried"),
    ],
)
def test_the_line_that_took_it(
    leak: Callable[[Things], Coroutine[Any, Any, None]], function: Callable[..., Any], text: str
) -> None:
    """The error of who gets nothing, the warning in the log and the list of holders all have it."""
    at = line_of(function, text)

    async def main(pool: Things, clock: VirtualClock) -> None:
        task = asyncio.create_task(leak(pool), name="job 7")
        await clock.elapse(2)
        with pytest.raises(PoolExhausted) as caught:
            await pool.acquire("k", timeout=1)
        (holder,) = caught.value.holders
        assert holder.startswith(f"{at}, by task ")
        assert holder.endswith(" s ago, for k")
        assert at in str(caught.value)
        await clock.elapse(5)
        (found,) = pool.holders()
        assert found.at == at
        if text not in ("# gathered", "# within wait_for"):  # these have a task of their own
            assert found.task == "task job 7"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    logs = in_pool(main, max_total=1)
    (warning,) = (line for line in logs if line["event"] == "resource held for long")
    assert (warning["pool"], warning["key"], warning["at"], warning["log_level"]) == ("db", "k", at, "warning")
    assert 5 <= warning["seconds"] < 5.3


def test_across_tasks() -> None:
    """What one task takes and another keeps is of the one that took it, also when that has ended."""

    async def main(pool: Things, clock: VirtualClock) -> None:
        thing = await asyncio.create_task(helper(pool), name="taker")
        await clock.elapse(10)
        (holder,) = pool.holders()
        assert (holder.task, holder.at) == ("task taker", line_of(helper, "# in the helper"))
        assert 10 <= holder.seconds < 10.1
        pool.release(thing)
        assert pool.holders() == []

    in_pool(main)


def test_no_task() -> None:
    """A callback of the loop can take one, too."""

    async def main(pool: Things, clock: VirtualClock) -> None:
        pool.release(await pool.acquire("k"))
        asyncio.get_running_loop().call_soon(lambda: pool.try_acquire("k"))
        await clock.elapse(0)
        (holder,) = pool.holders()
        assert holder.task == "no task"
        assert holder.at.startswith(HERE)

    in_pool(main)


def test_the_pool_is_all_there_is() -> None:
    """Where a task runs nothing but ``acquire``, the line that made it is told all the same: there it was called."""

    async def main(pool: Things, clock: VirtualClock) -> None:
        await asyncio.create_task(pool.acquire("k"), name="bare")
        (holder,) = pool.holders()
        assert holder.task == "task bare"
        assert holder.at.startswith(HERE)

    in_pool(main)


def test_ten_are_named_the_longest_first() -> None:
    """Of thirty holders the ten that hold for longest."""

    async def main(pool: Things, clock: VirtualClock) -> None:
        for number in range(30):
            await asyncio.create_task(helper(pool), name=f"job {number}")
            await clock.elapse(1)
        with pytest.raises(PoolExhausted) as caught:
            await pool.acquire("k", timeout=0.1)
        found = caught.value.holders
        assert [name.split(", ")[1] for name in found] == [f"by task job {number}" for number in range(10)]
        assert "30 of 30 are taken" in str(caught.value)

    in_pool(main, max_total=30)


def test_sparing_warnings() -> None:
    """A line that leaks a hundred is told once in ten seconds, and how often it was left out; all are counted."""

    async def main(pool: Things, clock: VirtualClock) -> None:
        await asyncio.gather(*(helper(pool) for _ in range(100)))
        await clock.elapse(6)
        await asyncio.gather(*(helper(pool) for _ in range(2)))
        await clock.elapse(14)
        assert pool.statistics()["held_warnings"] == 102

    logs = in_pool(main, max_total=200, max_per_key=200)
    found = [line["left_out"] for line in logs if line["event"] == "resource held for long"]
    assert found == [0]


def test_no_warning_for_short_work() -> None:
    """Nor for a resource that is used all the time, by many."""

    async def main(pool: Things, clock: VirtualClock) -> None:
        for _ in range(10):
            async with pool.borrow("k"):
                await clock.elapse(4)

    assert [line for line in in_pool(main) if line["log_level"] == "warning"] == []


def test_the_ticker_is_the_only_timer() -> None:
    """A thousand resources are one entry of the loop's wheel, and those who have waited leave no timer behind."""

    async def main(pool: Things, clock: VirtualClock) -> None:
        things = await asyncio.gather(*(pool.acquire("k") for _ in range(1000)))
        for thing in things[:500]:
            pool.release(thing)
        found = [one for one in asyncio.get_running_loop()._scheduled if not one.cancelled()]  # type: ignore[attr-defined]  # the loop's timers
        assert len(found) == 1
        assert isinstance(found[0]._callback.__self__, Ticker)

    in_pool(main, max_total=1000, max_per_key=1000, max_idle=1000)


def test_the_working_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are told in full, then; who waits is refused in time, and who holds is told."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    async def main(pool: Things, clock: VirtualClock) -> None:
        thing = await helper(pool)
        waits = asyncio.ensure_future(pool.acquire("k", timeout=1))
        await clock.elapse(6)
        assert waits.done()
        with pytest.raises(PoolExhausted, match="in helper"):
            await waits
        pool.release(thing)

    logs = in_pool(main, max_total=1)
    (warning,) = (line for line in logs if line["event"] == "resource held for long")
    assert warning["at"].startswith("/")


def test_files_that_are_made_at_run_time() -> None:
    """Code that is compiled again and again, each time with another name, does not fill the memory."""

    async def main(pool: Things, clock: VirtualClock) -> None:
        pool.release(await pool.acquire("k"))
        for number in range(3000):
            names: dict[str, Any] = {"pool": pool}
            exec(compile("thing = pool.try_acquire('k')", f"<cell {number}>", "exec"), names)  # as notebooks do
            (holder,) = pool.holders()
            assert holder.at == f"<cell {number}>:1 in <module>"
            pool.release(names["thing"])
        assert len(PROGRAM_FILES) <= 1000

    in_pool(main)
