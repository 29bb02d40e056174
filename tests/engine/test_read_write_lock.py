"""The reader-writer lock, as those see it who use it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from forebay.engine.read_write_lock import ReadWriteLock
from forebay.errors import DeadlineExceeded, Overloaded, RetryClass
from forebay.testing.virtual_clock import VirtualClock


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """The time."""
    with VirtualClock() as clock:
        yield clock


class Scene:
    """Tasks that hold a lock until they are told to let go; ``log`` says who came in, in order."""

    def __init__(self, clock: VirtualClock, **parameters: Any) -> None:
        self.clock = clock
        self.lock = ReadWriteLock(**parameters)
        self.log: list[str] = []
        self.go: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str, timeout: float | None = None) -> None:
        """Those whose names begin with w write."""
        for name in names:
            self.go[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._hold(name, timeout), name=name)
            await self.clock.settle()

    async def leave(self, *names: str) -> list[str]:
        """Let go; who has come in since the last time."""
        for name in names:
            self.go[name].set()
        return await self.came()

    async def came(self) -> list[str]:
        await self.clock.settle()
        log, self.log = self.log, []
        return log

    async def _hold(self, name: str, timeout: float | None) -> None:
        async with self.lock.writing(timeout) if name.startswith("w") else self.lock.reading(timeout):
            self.log.append(name)
            await self.go[name].wait()


def test_many_read_one_writes(clock: VirtualClock) -> None:
    """Readers are in together; a writer waits for all of them, and they for it."""

    async def main() -> None:
        scene = Scene(clock)
        await scene.come("r1", "r2", "r3", "w1")
        assert await scene.came() == ["r1", "r2", "r3"]
        assert await scene.leave("r1", "r2") == []
        assert await scene.leave("r3") == ["w1"]
        await scene.come("r4", "r5")
        assert await scene.came() == []
        assert repr(scene.lock) == "<ReadWriteLock lock written waiting to read=2 to write=0>"
        assert await scene.leave("w1") == ["r4", "r5"]
        assert repr(scene.lock) == "<ReadWriteLock lock read by 2 waiting to read=0 to write=0>"
        await scene.leave("r4", "r5")
        assert repr(scene.lock) == "<ReadWriteLock lock free waiting to read=0 to write=0>"
        assert scene.lock.statistics() == {
            "readers": 0,
            "writers": 0,
            "readers_waiting": 0,
            "writers_waiting": 0,
            "reads": 5,
            "writes": 1,
            "waited": 3,
            "refused": 0,
            "timeouts": 0,
            "cancelled": 0,
        }

    clock.run(main())


def test_writers_go_first_and_in_their_order(clock: VirtualClock) -> None:
    """A reader that comes while one waits to write is behind it, and behind those who come to write later."""

    async def main() -> None:
        scene = Scene(clock)
        await scene.come("r1", "w1", "r2", "w2", "w3")
        assert await scene.leave("r1") == ["r1", "w1"]
        assert await scene.leave("w1") == ["w2"]
        assert await scene.leave("w2") == ["w3"]
        assert await scene.leave("w3") == ["r2"]
        await scene.leave("r2")

    clock.run(main())


def test_writers_do_not_keep_readers_out_for_ever(clock: VirtualClock) -> None:
    """After two of them it is the turn of all readers that wait, then that of writers again."""

    async def main() -> None:
        scene = Scene(clock, patience=2)
        await scene.come("w1", "r1", "w2", "w3", "r2", "w4", "w5")
        order = await scene.came()
        while order[-1] not in ("r1", "r2"):
            order += await scene.leave(order[-1])
        assert order == ["w1", "w2", "w3", "r1", "r2"]
        assert await scene.leave("r1") == []
        assert await scene.leave("r2") == ["w4"]
        assert await scene.leave("w4") == ["w5"]
        await scene.leave("w5")

    clock.run(main())


def test_a_cancelled_writer_lets_the_readers_behind_it_in(clock: VirtualClock) -> None:
    """They wait for it only, and it is gone."""

    async def main() -> None:
        scene = Scene(clock)
        await scene.come("r1", "w1", "r2", "r3")
        scene.tasks["w1"].cancel()
        assert await scene.came() == ["r1", "r2", "r3"]
        assert scene.lock.statistics()["cancelled"] == 1
        await scene.leave("r1", "r2", "r3")

    clock.run(main())


def test_one_cancelled_after_it_was_let_in_hands_the_lock_on(clock: VirtualClock) -> None:
    """In the moment between: it was given the lock, and its task has not run."""

    async def main() -> None:
        lock = ReadWriteLock()
        order: list[str] = []

        async def write(name: str) -> None:
            async with lock.writing():
                order.append(name)

        await lock.acquire_write()
        first, second = asyncio.create_task(write("first")), asyncio.create_task(write("second"))
        await clock.settle()
        lock.release_write()  # the first is let in
        assert lock.statistics()["writers"] == 1
        first.cancel()
        await clock.settle()
        assert order == ["second"]
        assert first.cancelled()
        assert second.done()

    clock.run(main())


def test_a_timeout_leaves_no_trace(clock: VirtualClock) -> None:
    """At its time: the error says who holds it, nothing was begun, and who waited behind it goes on."""

    async def main() -> None:
        scene = Scene(clock, name="the routes")
        await scene.come("r1")
        await scene.come("w1", timeout=5)
        await scene.come("r2")
        assert await scene.came() == ["r1"]
        await clock.elapse(4.9)
        assert await scene.came() == []
        await clock.elapse(0.1)
        assert await scene.came() == ["r2"]
        with pytest.raises(DeadlineExceeded, match=r"the routes .* to write within 5 s; it is read by task r1") as info:
            await scene.tasks["w1"]
        assert info.value.retry is RetryClass.SAFE
        await scene.leave("r1", "r2")
        await scene.come("w2")
        with pytest.raises(DeadlineExceeded, match="to read within 0 s; it is written by task w2"):
            await scene.lock.acquire_read(timeout=0)
        assert scene.lock.statistics()["timeouts"] == 2
        await scene.leave("w2")

    clock.run(main())


def test_one_who_is_let_in_in_time_holds_it_for_as_long_as_it_likes(clock: VirtualClock) -> None:
    """The timeout is for the waiting; its timer is gone after that."""

    async def main() -> None:
        scene = Scene(clock)
        await scene.come("w1")
        await scene.come("w2", timeout=5)
        assert await scene.leave("w1") == ["w1", "w2"]
        await clock.elapse(100)
        assert not scene.tasks["w2"].done()
        await scene.leave("w2")

    clock.run(main())


def test_those_who_wait_are_bounded(clock: VirtualClock) -> None:
    """One more is refused at once; a place that becomes free can be taken."""

    async def main() -> None:
        scene = Scene(clock, max_waiting=2)
        await scene.come("w1", "w2", "r1")
        with pytest.raises(Overloaded, match="2 tasks wait") as info:
            await scene.lock.acquire_write()
        assert info.value.limit == "read_write_lock"
        scene.tasks["w2"].cancel()
        await scene.come("w3")
        assert not scene.tasks["w3"].done()
        assert scene.lock.statistics()["refused"] == 1
        await scene.leave("w1", "w3", "r1")

    clock.run(main())


def test_a_task_that_holds_it_and_asks_again_is_told(clock: VirtualClock) -> None:
    """Each way: it would wait for itself. It holds the lock as before, and others are not disturbed."""

    async def main() -> None:
        lock = ReadWriteLock(name="x")
        asks = [lock.acquire_read, lock.acquire_write, lock.reading().__aenter__, lock.writing().__aenter__]
        async with lock.reading():
            for ask in asks:
                with pytest.raises(RuntimeError, match="holds x to read already"):
                    await ask()
        async with lock.writing():
            for ask in asks:
                with pytest.raises(RuntimeError, match="holds x to write already"):
                    await ask()
            with pytest.raises(RuntimeError, match="already"):
                lock.try_read()
            with pytest.raises(RuntimeError, match="already"):
                lock.try_write()
            assert lock.statistics()["writers"] == 1
        assert lock.try_write()

    clock.run(main())


def test_only_who_holds_it_releases_it(clock: VirtualClock) -> None:
    """Nobody who does not hold it, or holds it the other way; the lock stays as it was."""

    async def main() -> None:
        scene = Scene(clock)
        lock = scene.lock
        for release in (lock.release_read, lock.release_write):
            with pytest.raises(RuntimeError, match="does not hold lock to"):
                release()
        await scene.come("w1")
        with pytest.raises(RuntimeError, match="does not hold lock to write"):
            lock.release_write()
        await scene.leave("w1")
        async with lock.reading():
            with pytest.raises(RuntimeError, match="does not hold lock to write"):
                lock.release_write()
            assert lock.statistics()["readers"] == 1

    clock.run(main())


def test_trying_does_not_wait(clock: VirtualClock) -> None:
    """It says whether it holds it now. A reader does not get past a writer that waits."""

    async def main() -> None:
        scene = Scene(clock)
        await scene.come("r1")
        assert not scene.lock.try_write()
        assert scene.lock.try_read()
        scene.lock.release_read()
        await scene.come("w1")
        assert not scene.lock.try_read()
        assert await scene.leave("r1") == ["r1", "w1"]
        assert not scene.lock.try_read()
        await scene.leave("w1")
        assert scene.lock.try_write()

    clock.run(main())


def test_an_error_in_the_block_releases_it(clock: VirtualClock) -> None:
    """And comes out of it."""

    async def main() -> None:
        lock = ReadWriteLock()
        for block in (lock.reading, lock.writing):
            with pytest.raises(LookupError):
                async with block():
                    raise LookupError
        assert lock.try_write()

    clock.run(main())


@pytest.mark.both_loops
async def test_on_a_real_loop() -> None:
    """A counter that is read and written in two steps stays right."""
    lock = ReadWriteLock()
    count = 0

    async def write() -> None:
        nonlocal count
        async with lock.writing(timeout=30):
            seen = count
            await asyncio.sleep(0)
            count = seen + 1

    async def read() -> None:
        async with lock.reading():
            seen = count
            await asyncio.sleep(0)
            assert count == seen

    await asyncio.gather(*(work() for _ in range(50) for work in (write, read, read)))
    assert count == 50


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_waiting": -1}, "max_waiting -1 of lock: must"),
        ({"patience": 0}, "patience 0 of lock: must be at least 1"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    """With the name of what is wrong."""
    with pytest.raises(ValueError, match=message):
        ReadWriteLock(**parameters)


def test_nobody_passes_a_writer_when_the_readers_before_it_are_cancelled(clock: VirtualClock) -> None:
    """It is the readers' turn, and all of them have just been cancelled: the lock is not free, but the writer's."""

    async def main() -> None:
        scene = Scene(clock, patience=1)
        lock = scene.lock
        await scene.come("w1", "r1")
        next_writer = asyncio.create_task(scene.come("w2"))  # behind this task
        asyncio.get_running_loop().call_later(1, scene.go["w1"].set)
        await lock.acquire_write()
        scene.tasks["r1"].cancel()
        lock.release_write()
        assert not lock.try_write()
        await next_writer
        assert await scene.came() == ["w1", "w2"]
        await scene.leave("w2")
        assert repr(lock) == "<ReadWriteLock lock free waiting to read=0 to write=0>"

    clock.run(main())
