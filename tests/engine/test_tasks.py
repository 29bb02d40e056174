"""Owned tasks, and the gate."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.engine import Gate, Tasks, start_task
from forebay.engine.tasks import place_of_task, unfinished

pytestmark = pytest.mark.both_loops


async def test_a_failure_is_logged_with_its_name() -> None:
    """A background task that raises is not lost, and the others run on."""
    tasks = Tasks()
    done = asyncio.Event()

    async def fail() -> None:
        raise ValueError("no")

    async def work() -> None:
        await done.wait()

    with capture_logs() as logs:
        tasks.spawn(fail(), name="broken")
        tasks.spawn(work(), name="fine")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(tasks) == 1
        done.set()
        await tasks.join()
    assert [(entry["event"], entry["task"]) for entry in logs] == [("background task failed", "broken")]
    assert len(tasks) == 0


async def test_cancel_waits_for_every_end() -> None:
    """Cancelling returns when the tasks have cleaned up, also when it is called from one of them."""
    tasks = Tasks()
    cleaned = []
    started = asyncio.Event()

    async def work() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("work")

    async def owner() -> None:
        await started.wait()
        await tasks.cancel()
        cleaned.append("owner")

    tasks.spawn(work(), name="work")
    await tasks.spawn(owner(), name="owner")
    assert cleaned == ["work", "owner"]
    await tasks.cancel()


async def test_start_task_gives_the_result() -> None:
    """The raw primitive: a Task with a name."""

    async def work() -> int:
        return 3

    task = start_task(work(), "three")
    assert task.get_name() == "three"
    assert await task == 3


async def test_gate() -> None:
    """It opens and closes again; a waiter that did not run in between goes on waiting."""
    gate = Gate()
    waiting = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    gate.open()
    gate.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.open()
    await waiting
    await gate.wait()
    assert gate.is_open
    assert Gate(is_open=True).is_open


async def test_what_has_not_ended_in_time_is_given_back_as_it_is() -> None:
    """Nothing is cancelled; nothing to wait for is no wait."""
    stop = asyncio.Event()
    quick, slow = start_task(asyncio.sleep(0)), start_task(stop.wait())
    assert await unfinished([], 10.0) == set()
    assert await unfinished([quick, slow], 0.01) == {slow}
    assert not slow.cancelling()
    stop.set()
    assert await unfinished([quick, slow], 10.0) == set()


async def test_a_task_tells_where_it_waits() -> None:
    """The innermost line that somebody wrote, not the loop's primitive below it."""

    async def inner() -> None:
        await asyncio.Event().wait()

    async def outer() -> None:
        await inner()

    task = start_task(outer())
    await asyncio.sleep(0)
    place = place_of_task(task)
    file, _, line = place.rpartition(":")
    assert file == __file__
    assert "Event().wait()" in Path(__file__).read_text().splitlines()[int(line) - 1]
    task.cancel()
    await asyncio.wait([task])
