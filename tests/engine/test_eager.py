"""Coroutines that run at once: to others they are Tasks like any other."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from forebay.engine.eager import EagerTasks
from forebay.engine.tasks import Task

pytestmark = pytest.mark.both_loops

variable: ContextVar[int] = ContextVar("variable", default=0)


@asynccontextmanager
async def eager() -> AsyncIterator[Callable[[Coroutine[Any, Any, None]], Awaitable[Task[None] | None]]]:
    """What starts a coroutine as a server does, from a callback of the loop; nothing may be left at the end."""
    tasks = EagerTasks()
    loop = asyncio.get_running_loop()

    async def start(steps: Coroutine[Any, Any, None]) -> Task[None] | None:
        started: asyncio.Future[Task[None] | None] = loop.create_future()

        def call() -> None:
            try:
                started.set_result(tasks.start(steps))
            except BaseException as error:
                started.set_exception(error)

        loop.call_soon(call)
        return await asyncio.wait_for(started, 5)

    async def nothing() -> None: ...

    before = asyncio.all_tasks()
    await start(nothing())  # which has a Task made ahead for the next one
    await asyncio.sleep(0)
    yield start
    await tasks.close()
    await tasks.close()
    assert asyncio.all_tasks() <= before


async def test_without_a_wait() -> None:
    """It has ended when it was started, and no Task was made."""
    said: list[str] = []

    async def steps() -> None:
        said.append("ran")

    async with eager() as start:
        tasks = len(asyncio.all_tasks())
        for _ in range(10):
            assert await start(steps()) is None
        assert len(asyncio.all_tasks()) == tasks
    assert said == ["ran"] * 10


@pytest.mark.parametrize("wait", ["bare", "future", "done future", "task", "sleep", "queue"])
async def test_every_kind_of_wait(wait: str) -> None:
    """What it waits for comes back, and it is in the same Task before and after."""
    loop = asyncio.get_running_loop()
    seen: list[Any] = []

    async def steps() -> None:
        before = asyncio.current_task()
        for _ in range(3):
            if wait == "bare":
                await asyncio.sleep(0)
            elif wait == "sleep":
                await asyncio.sleep(0.001)
            elif wait == "task":
                seen.append(await asyncio.ensure_future(asyncio.sleep(0, "task")))
            elif wait == "queue":
                queue: asyncio.Queue[str] = asyncio.Queue()
                loop.call_soon(queue.put_nowait, "queue")
                seen.append(await queue.get())
            else:
                future: asyncio.Future[str] = loop.create_future()
                if wait == "done future":
                    future.set_result("done future")
                else:
                    loop.call_soon(future.set_result, "future")
                seen.append(await future)
            assert asyncio.current_task() is before
        seen.append(before)

    async with eager() as start:
        for _ in range(3):
            seen.clear()
            task = await start(steps())
            if wait == "done future":
                assert task is None
            else:
                assert task is not None
                await asyncio.wait_for(task, 5)
                assert seen[-1] is task
            assert seen[:-1] == ([] if wait in ("bare", "sleep") else [wait] * 3)


async def test_the_current_task() -> None:
    """There is one from the first step on, and none of it is left behind."""
    loop = asyncio.get_running_loop()
    found: list[Any] = []

    async def steps() -> None:
        found.append(asyncio.current_task())
        await asyncio.sleep(0)
        found.append(asyncio.current_task())

    async with eager() as start:
        task = await start(steps())
        assert task is not None
        await task
        assert found == [task, task]
        outside: asyncio.Future[Any] = loop.create_future()
        loop.call_soon(lambda: outside.set_result(asyncio.current_task()))
        assert await outside is None


async def test_context_variables() -> None:
    """Each has its own: what one sets, before or after a wait, no other sees, nor whoever started it."""
    ended: list[int] = []

    async def steps(number: int, waits: bool) -> None:
        assert variable.get() == 0
        variable.set(number)
        if waits:
            await asyncio.sleep(0)
            assert variable.get() == number
            variable.set(-number)
            await asyncio.sleep(0)
            assert variable.get() == -number
        ended.append(number)

    async with eager() as start:
        tasks = [await start(steps(number, bool(number % 3))) for number in range(1, 60)]
        await asyncio.gather(*(task for task in tasks if task is not None))
    assert sorted(ended) == list(range(1, 60))
    assert variable.get() == 0


async def test_cancelled() -> None:
    """Right after it was started, before its Task has had a turn; later; and while it waits for something of its own,
    which is cancelled with it. Each hears of it once, with the message, and may wait while it ends."""
    heard: list[Any] = []
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def steps(bare: bool) -> None:
        try:
            if bare:
                while True:
                    await asyncio.sleep(0)
            await future
        except asyncio.CancelledError as error:
            heard.append(error.args)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            heard.append("ended")
            raise

    async with eager() as start:
        for bare in (False, True):
            for turns in (0, 1, 5):
                heard.clear()
                future = asyncio.get_running_loop().create_future()
                task = await start(steps(bare))
                assert task is not None
                for _ in range(turns):
                    await asyncio.sleep(0)
                assert task.cancel("enough")
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, 5)
                assert heard == [("enough",), "ended"]
                assert task.cancelled()
                assert future.cancelled() is not bare


async def test_cancelled_in_the_step_that_started_it() -> None:
    """Also by whoever has just got the Task, in the same callback."""
    tasks = EagerTasks()
    loop = asyncio.get_running_loop()
    heard: list[str] = []
    got: list[Any] = []

    async def steps() -> None:
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    def call() -> None:
        task = tasks.start(steps())
        assert task is not None
        task.cancel()
        got.append(task)

    async def nothing() -> None: ...

    loop.call_soon(tasks.start, nothing())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(5):  # the first of them may still be an ordinary Task
        loop.call_soon(call)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.wait(got)
    assert all(task.cancelled() for task in got)
    assert heard
    await tasks.close()


async def test_what_cancels_itself() -> None:
    """With or without a wait afterwards; the others do not notice."""
    said: list[str] = []

    async def itself(waits: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if waits:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                said.append("cancelled")
                raise

    async def steps() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        said.append("other")

    async with eager() as start:
        for waits in (False, True, True, False):
            said.clear()
            task = await start(itself(waits))
            if task is not None:
                await asyncio.wait((task,), timeout=5)
                assert task.done()
            assert said == ["cancelled"] * waits
            other = await start(steps())
            assert other is not None
            await asyncio.wait_for(other, 5)
            assert said[-1] == "other"


async def test_what_raises_cancellation_itself() -> None:
    """At once, it has ended; nobody else is cancelled."""

    async def steps() -> None:
        raise asyncio.CancelledError

    async with eager() as start:
        for _ in range(3):
            assert await start(steps()) is None


async def test_exceptions_of_what_it_waits_for() -> None:
    """They are raised where it waits."""
    loop = asyncio.get_running_loop()
    heard: list[BaseException] = []

    async def steps() -> None:
        for _ in range(3):
            future: asyncio.Future[None] = loop.create_future()
            loop.call_soon(future.set_exception, LookupError("future"))
            try:
                await future
            except LookupError as error:
                heard.append(error)

    async with eager() as start:
        task = await start(steps())
        assert task is not None
        await asyncio.wait_for(task, 5)
    assert [str(error) for error in heard] == ["future"] * 3


async def test_an_error_of_its_own() -> None:
    """Before a wait it reaches whoever started it, after one it is the Task's; the next one is not harmed."""

    async def steps(waits: bool) -> None:
        if waits:
            await asyncio.sleep(0)
        raise LookupError

    async with eager() as start:
        for _ in range(2):
            with pytest.raises(LookupError):
                await start(steps(False))
            task = await start(steps(True))
            assert task is not None
            with pytest.raises(LookupError):
                await task


@pytest.mark.parametrize("waits", [False, True])
async def test_timeouts_and_groups(waits: bool) -> None:
    """``asyncio.timeout`` and ``TaskGroup`` in the first step and in later ones."""
    said: list[str] = []

    async def fails() -> None:
        raise LookupError

    async def steps() -> None:
        if waits:
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            said.append("timeout")
        try:
            async with asyncio.timeout(0):
                said.append("at once")
        except TimeoutError:
            said.append("never")
        async with asyncio.TaskGroup() as group:
            values = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
        said.append(str([value.result() for value in values]))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                await asyncio.Event().wait()
        except* LookupError:
            said.append("group")
        task = asyncio.current_task()
        assert task is not None
        said.append(str(task.cancelling()))

    async with eager() as start:
        for _ in range(3):
            said.clear()
            task = await start(steps())
            assert task is not None
            await asyncio.wait_for(task, 5)
            assert said == ["timeout", "at once", "[0, 1, 2]", "group", "0"]


async def test_started_by_a_task() -> None:
    """Some other task is at work: it gets a Task of its own, and the other goes on as the current one."""
    tasks = EagerTasks()
    said: list[Any] = []

    async def steps(number: int) -> None:
        said.append((number, asyncio.current_task()))
        await asyncio.sleep(0)

    me = asyncio.current_task()
    started = []
    for number in range(3):
        task = tasks.start(steps(number))
        assert asyncio.current_task() is me
        assert task is not None
        started.append(task)
        await asyncio.sleep(0)
    await asyncio.gather(*started)
    assert said == list(enumerate(started))
    await tasks.close()


async def test_one_starts_another() -> None:
    """In its first step, as a handler does whose answer lets the next request of the connection begin."""
    tasks = EagerTasks()
    loop = asyncio.get_running_loop()
    said: list[str] = []
    inner: list[Any] = []

    async def second() -> None:
        said.append("second")
        await asyncio.sleep(0)
        said.append("second ends")

    async def first() -> None:
        said.append("first")
        inner.append(tasks.start(second()))
        said.append("first goes on")

    async def nothing() -> None: ...

    loop.call_soon(tasks.start, nothing())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop.call_soon(tasks.start, first())
    await asyncio.sleep(0)
    await asyncio.wait_for(inner[0], 5)
    assert said == ["first", "first goes on", "second", "second ends"]
    await tasks.close()


async def test_another_loop() -> None:
    """What was closed may be used again, in this loop and in others."""
    tasks = EagerTasks()
    said: list[str] = []

    async def steps() -> None:
        await asyncio.sleep(0)
        said.append("done")

    async def use() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            loop.call_soon(tasks.start, steps())
            for _ in range(5):
                await asyncio.sleep(0)
        await tasks.close()

    await use()
    await use()
    await asyncio.to_thread(asyncio.run, use())
    assert said == ["done"] * 9


async def test_nothing_is_kept() -> None:
    """What has ended is forgotten, its context and its locals."""

    class Held:
        """Something in the locals of a coroutine."""

    def there() -> int:
        gc.collect()
        return sum(isinstance(one, Held) for one in gc.get_objects())

    async def steps(waits: bool) -> None:
        held = Held()
        if waits:
            await asyncio.sleep(0)
        del held

    async with eager() as start:
        for number in range(200):
            task = await start(steps(bool(number % 2)))
            if task is not None:
                await task
        del task
        assert there() == 0
