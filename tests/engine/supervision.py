"""What the tests of supervised workers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from forebay.engine.supervisor import Supervisor, WorkerInfo, WorkerSpec, WorkerState
from forebay.observe.metrics import Family
from tests.support import RawClient, eventually

SLOW = 15.0  # seconds: for what takes a fraction of one on an idle machine


def answers(name: str = "a", count: int = 1, **args: Any) -> WorkerSpec:
    """Workers that answer each line with their version and pid."""
    return WorkerSpec(name, "tests.engine.entries:answers", args, count)


@asynccontextmanager
async def supervised(*specs: WorkerSpec, **options: Any) -> AsyncIterator[Supervisor]:
    """A running supervisor, stopped in the end."""
    supervisor = Supervisor("test", specs, **{"drain_timeout": 5.0, "start_timeout": SLOW, **options})
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()
    assert all(info.pid == 0 for info in supervisor.workers)


def only(supervisor: Supervisor, state: WorkerState | None = None) -> WorkerInfo:
    """The only worker."""
    (info,) = [info for info in supervisor.workers if state is None or info.state is state]
    return info


def port_of(supervisor: Supervisor) -> int:
    """Where the first worker listens."""
    return supervisor.workers[0].addresses[0].port


async def order(port: int, line: str) -> int:
    """Have a ``blocking`` worker do something; the pid of the one that did."""
    client = await RawClient.connect(port)
    try:
        await client.send(line.encode() + b"\n")
        return int(await client.line(SLOW))
    finally:
        await client.close()


async def ask(port: int, line: bytes = b"x\n") -> tuple[str, int]:
    """Connect, ask, and return version and pid of who answered."""
    client = await RawClient.connect(port)
    try:
        await client.send(line)
        version, pid = (await client.line(SLOW)).split()
    finally:
        await client.close()
    return version.decode(), int(pid)


async def total(supervisor: Supervisor, name: str) -> float:
    """The sum over a metric's samples."""
    return sum_of(await supervisor.collect(), name)


def sum_of(families: Sequence[Family], name: str) -> float:
    """The sum over a metric's samples."""
    return sum(sample.value for family in families if family.name == name for sample in family.samples)


async def ready_again(supervisor: Supervisor, after: int) -> WorkerInfo:
    """The worker that came after the one with pid ``after``."""
    await eventually(
        lambda: any(i.state is WorkerState.READY and i.pid != after for i in supervisor.workers), timeout=SLOW
    )
    return next(info for info in supervisor.workers if info.state is WorkerState.READY and info.pid != after)


class Hammer:
    """Clients that connect, ask and leave, all the time, and forgive nothing."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered = 0
        self.seen: set[tuple[str, int]] = set()
        self.failed: list[BaseException] = []
        self._running = True

    async def _client(self) -> None:
        while self._running:
            try:
                self.seen.add(await ask(self.port))
                self.answered += 1
            except Exception as error:
                self.failed.append(error)

    @classmethod
    @asynccontextmanager
    async def on(cls, port: int, clients: int = 4) -> AsyncIterator[Hammer]:
        """Hammer while the block runs; then check that nothing failed."""
        hammer = cls(port)
        tasks = [asyncio.create_task(hammer._client()) for _ in range(clients)]
        try:
            await eventually(lambda: hammer.answered > 10)
            yield hammer
        finally:
            hammer._running = False
            await asyncio.wait_for(asyncio.gather(*tasks), SLOW)
        assert hammer.failed == []


async def eventually_total(supervisor: Supervisor, name: str, value: float) -> None:
    """Wait until a metric has the value."""
    async with asyncio.timeout(SLOW):
        while await total(supervisor, name) != value:
            await asyncio.sleep(0.01)
