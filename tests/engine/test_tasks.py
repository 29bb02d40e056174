"""Owned tasks, and the gate."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from forebay.engine import Gate, Tasks, start_task

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
