"""The lock against a simple model of it, in whatever order tasks come, go, are cancelled and lose their patience."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay.engine.read_write_lock import ReadWriteLock
from forebay.errors import DeadlineExceeded, Overloaded
from forebay.testing.virtual_loop import VirtualLoop


@dataclass
class Waiter:
    """Somebody in the model's line."""

    number: int
    until: float


@dataclass
class Model:
    """Who holds the lock, and who waits, as lists."""

    patience: int
    max_waiting: int
    readers: set[int] = field(default_factory=set)
    writer: int | None = None
    to_read: list[Waiter] = field(default_factory=list)
    to_write: list[Waiter] = field(default_factory=list)
    passed: int = 0
    timeouts: int = 0
    refused: int = 0

    def ask(self, number: int, write: bool, timeout: float | None, now: float) -> None:
        free = self.writer is None and not (self.readers if write else self.to_write)
        if free and write:
            self.writer = number
        elif free:
            self.readers.add(number)
        elif timeout == 0:
            self.timeouts += 1
        elif len(self.to_read) + len(self.to_write) >= self.max_waiting:
            self.refused += 1
        else:
            line = self.to_write if write else self.to_read
            line.append(Waiter(number, inf if timeout is None else now + timeout))

    def gone(self, number: int) -> None:
        self.readers.discard(number)
        if self.writer == number:
            self.writer = None
        self.to_read = [waiter for waiter in self.to_read if waiter.number != number]
        self.to_write = [waiter for waiter in self.to_write if waiter.number != number]
        self.let_in()

    def let_in(self) -> None:
        if self.writer is not None:
            return
        if self.to_write and not (self.to_read and self.passed >= self.patience):
            if not self.readers:
                self.writer = self.to_write.pop(0).number
                self.passed = self.passed + 1 if self.to_read else 0
        else:
            self.readers |= {waiter.number for waiter in self.to_read}
            self.to_read.clear()
            self.passed = 0

    def until(self, now: float) -> None:
        while due := [waiter for waiter in (*self.to_read, *self.to_write) if waiter.until <= now]:
            self.timeouts += 1
            self.gone(min(due, key=lambda waiter: (waiter.until, waiter.number)).number)

    @property
    def waiting(self) -> list[int]:
        return sorted(waiter.number for waiter in (*self.to_read, *self.to_write))

    @property
    def holding(self) -> list[int]:
        return sorted(self.readers | ({self.writer} if self.writer is not None else set()))


class Locking(RuleBasedStateMachine):
    """Tasks that ask for the lock and hold it until they are told to let go, on a loop that is stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1_000.0
        self.loop = VirtualLoop(lambda: self.at, self._move, time.monotonic, 0.0, 5.0)
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.go: dict[int, asyncio.Event] = {}
        self.holding: dict[int, bool] = {}  # by number: whether to write
        self.numbers = 0

    def _move(self, at: float) -> None:
        self.at = at

    @initialize(patience=st.integers(1, 3), max_waiting=st.integers(0, 6))
    def make(self, patience: int, max_waiting: int) -> None:
        self.lock = ReadWriteLock(patience=patience, max_waiting=max_waiting)
        self.model = Model(patience, max_waiting)

    def teardown(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self._settle()
        self.loop.close()
        if hasattr(self, "lock"):
            counts = self.lock.statistics()
            assert [counts[name] for name in ("readers", "writers", "readers_waiting", "writers_waiting")] == [0] * 4
        assert not self.holding

    def _settle(self) -> None:
        self.loop.run_until_complete(self.loop.settle())

    def _turns(self, count: int) -> None:
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    async def _actor(self, number: int, write: bool, timeout: float | None) -> None:
        try:
            async with self.lock.writing(timeout) if write else self.lock.reading(timeout):
                assert not any(self.holding.values()), "a writer is in"
                assert not (write and self.holding), "readers are in"
                self.holding[number] = write
                try:
                    await self.go[number].wait()
                finally:
                    del self.holding[number]
        except (DeadlineExceeded, Overloaded):
            return

    @rule(write=st.booleans(), timeout=st.sampled_from([None, None, 0, 1, 2, 5]))
    def ask(self, write: bool, timeout: float | None) -> None:
        """Somebody comes."""
        number = self.numbers
        self.numbers += 1
        self.go[number] = asyncio.Event()
        self.tasks[number] = self.loop.create_task(self._actor(number, write, timeout))
        self._settle()
        self.model.ask(number, write, timeout, self.at)

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        """A holder lets go."""
        number = data.draw(st.sampled_from(sorted(self.holding)))
        self.go[number].set()
        self._settle()
        self.model.gone(number)

    @precondition(lambda self: self.model.waiting or self.model.holding)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Somebody is cancelled, who holds it or waits."""
        number = data.draw(st.sampled_from(self.model.waiting + self.model.holding))
        self.tasks[number].cancel()
        self._settle()
        self.model.gone(number)

    @precondition(lambda self: self.model.waiting and self.holding)
    @rule(data=st.data(), turns=st.integers(0, 3))
    def cancel_while_let_in(self, data: st.DataObject, turns: int) -> None:
        """One who waits is cancelled just before a holder lets go, or so many turns of the loop after."""
        holder = data.draw(st.sampled_from(sorted(self.holding)))
        waiter = data.draw(st.sampled_from(self.model.waiting))
        self.go[holder].set()
        self._turns(turns)
        self.tasks[waiter].cancel()
        self._settle()
        for number in (holder, waiter) if turns else (waiter, holder):
            self.model.gone(number)

    @rule(seconds=st.sampled_from([0.5, 1, 3]))
    def elapse(self, seconds: float) -> None:
        """Time passes: some have waited for too long."""
        end = self.at + seconds
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self._settle()
        assert self.at == end
        self.model.until(self.at)

    @invariant()
    def the_same(self) -> None:
        """Who holds it, how many wait, and what was counted."""
        if not hasattr(self, "lock"):
            return
        assert sorted(self.holding) == self.model.holding
        assert sorted(number for number, task in self.tasks.items() if not task.done()) == sorted(
            self.model.holding + self.model.waiting
        )
        counts = self.lock.statistics()
        assert counts["readers"] == len(self.model.readers)
        assert counts["writers"] == (self.model.writer is not None)
        assert counts["readers_waiting"] == len(self.model.to_read)
        assert counts["writers_waiting"] == len(self.model.to_write)
        assert counts["timeouts"] == self.model.timeouts
        assert counts["refused"] == self.model.refused


TestLocking = Locking.TestCase
TestLocking.settings = settings(stateful_step_count=40)
