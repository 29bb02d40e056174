"""Workers that are replaced while they run: they served long enough, or grew too big; where and how many there are."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine.cores import usable_cores, worker_count
from forebay.engine.load import LoopLag
from forebay.engine.supervisor import Supervisor, WorkerSpec, WorkerState
from forebay.policy.backoff import Backoff
from forebay.policy.recycle import Recycle, Wear
from tests.engine.supervision import (
    SLOW,
    Hammer,
    answers,
    only,
    order,
    port_of,
    ready_again,
    sum_of,
    supervised,
)
from tests.support import eventually, raw_client

pytestmark = pytest.mark.usefixtures("workers_environment")


def worker(*, recycle: Recycle | None = None, **options: Any) -> WorkerSpec:
    """A worker that does as it is told, with quick beats."""
    names = WorkerSpec.__dataclass_fields__
    args = {name: value for name, value in options.items() if name not in names}
    given = {name: value for name, value in options.items() if name in names}
    return WorkerSpec(
        "b", "tests.engine.entries:blocking", args, **{"watchdog": 2.0, "recycle": recycle or Recycle(), **given}
    )


async def replacements(supervisor: Supervisor, cause: str) -> float:
    """How many there were."""
    (family,) = [f for f in await supervisor.collect() if f.name == "forebay_worker_replacements"]
    return sum(sample.value for sample in family.samples if dict(sample.labels)["cause"] == cause)


async def test_a_worker_is_recycled_after_so_many_connections() -> None:
    """The new one is ready before the old one drains, which finishes what it has begun."""
    async with supervised(worker(recycle=Recycle(connections=1000))) as supervisor:
        port, pid = port_of(supervisor), only(supervisor).pid
        async with raw_client(port) as client:
            await client.send(b"hello\n")
            assert int(await client.line()) == pid
            assert await order(port, "accept 2000") == pid
            await eventually(lambda: supervisor.workers[0].pid != pid, timeout=SLOW)
            assert {info.state for info in supervisor.workers} <= {WorkerState.READY, WorkerState.DRAINING}
            info = supervisor.workers[0]
            assert info.last_replacement.startswith("it accepted 2")
            assert info.last_exit == f"replaced ({info.last_replacement})"
            async with asyncio.timeout(SLOW):
                served_by = 0
                while served_by != info.pid:  # the old one listens until it is told to drain,
                    async with raw_client(port) as other:  # and then closes, without a word, whoever has just come
                        await other.send(b"hello\n")
                        served_by = int(await other.line(SLOW) or 0)
                    await asyncio.sleep(0.01)
            assert info.restarts == 0
        assert await replacements(supervisor, "recycle") == 1
        assert await replacements(supervisor, "memory") == 0
        await eventually_accepted(supervisor, 2000)


async def eventually_accepted(supervisor: Supervisor, least: float) -> None:
    """Wait until the workers, those that are gone included, have counted that many connections."""
    async with asyncio.timeout(SLOW):
        while sum_of(await supervisor.collect(), "forebay_worker_accepted") < least:
            await asyncio.sleep(0.01)


async def test_workers_are_recycled_after_a_time_one_by_one_and_nobody_notices() -> None:
    """Under load, again and again."""
    spec = answers(count=2)
    recycled = WorkerSpec(spec.name, spec.entry, spec.args, 2, watchdog=1.0, recycle=Recycle(seconds=1.0, jitter=0.5))
    async with supervised(recycled) as supervisor:
        pids = {info.pid for info in supervisor.workers}
        async with Hammer.on(port_of(supervisor)):
            async with asyncio.timeout(SLOW):
                while await replacements(supervisor, "recycle") < 4:
                    await asyncio.sleep(0.05)
        assert not pids & {info.pid for info in supervisor.workers}


async def test_a_worker_that_grows_too_big_is_replaced() -> None:
    """The reason has its size and the limit."""
    async with supervised(worker(memory_limit=300 * 2**20)) as supervisor:
        port, pid = port_of(supervisor), only(supervisor).pid
        assert only(supervisor).memory < 200 * 2**20
        with capture_logs() as logs:
            await order(port, "grow 300")
            info = await ready_again(supervisor, pid)
        assert info.last_replacement.endswith(" MiB resident, its limit is 300.0 MiB")
        assert any(entry["event"] == "worker replaced" and entry["reason"] == info.last_replacement for entry in logs)
        assert await replacements(supervisor, "memory") == 1


async def test_a_memory_limit_below_what_any_worker_needs_does_no_harm() -> None:
    """It is tried once, and then no more for a while."""
    async with supervised(worker(memory_limit=1)) as supervisor:
        pid = only(supervisor).pid
        info = await ready_again(supervisor, pid)
        (process,) = [process for slot in supervisor._slots for process in slot.processes if process.pid == info.pid]
        for _ in range(3):
            heard_at = process.heard_at
            await eventually(lambda: process.heard_at != heard_at)  # noqa: B023  # awaited here
        assert supervisor.workers[0].pid == info.pid
        assert await replacements(supervisor, "memory") == 1


async def test_a_replacement_that_fails_keeps_the_worker(tmp_path: Path) -> None:
    """It is tried again later and later, and the log says so."""
    spec = worker(only_first=str(tmp_path / "x"), recycle=Recycle(connections=10))
    async with supervised(spec) as supervisor:
        port, pid = port_of(supervisor), only(supervisor).pid
        supervisor._slots[0].wear = wear = Wear(retry=Backoff(0.1))
        wear.renewed(spec.recycle, None, now=0, random=0)
        with capture_logs() as logs:
            await order(port, "accept 10")
            await eventually(
                lambda: sum(e["event"] == "worker not renewed, it goes on" for e in logs) >= 2, timeout=SLOW
            )
        told = [entry for entry in logs if entry["event"] == "worker not renewed, it goes on"]
        assert [entry["retry_in"] for entry in told[:2]] == [0.1, 0.2]
        assert told[0]["reason"] == "worker b#0: somebody was faster"
        assert await order(port, "hello") == pid
        assert await replacements(supervisor, "recycle") == 0


async def test_a_drain_does_not_wait_for_a_renewal() -> None:
    """A replacement that is being started is given up."""
    async with supervised(worker(start=1.0, recycle=Recycle(connections=1))) as supervisor:
        await order(port_of(supervisor), "accept 1")
        await eventually(lambda: len(supervisor._slots[0].processes) == 2, timeout=SLOW)
        await asyncio.wait_for(supervisor.drain(), SLOW)
        await asyncio.wait_for(supervisor.stop(), 1)
        assert len(supervisor._tasks) == 0


async def test_workers_are_kept_on_their_cores() -> None:
    """By their number; without that they may run anywhere."""
    pinned = WorkerSpec("p", "tests.engine.entries:blocking", count=2, affinity=True)
    async with supervised(pinned, worker()) as supervisor:
        cores = usable_cores()
        allowed = [os.sched_getaffinity(info.pid) for info in supervisor.workers]
        assert allowed == [{cores[0]}, {cores[1 % len(cores)]}, set(cores)]


async def test_auto_is_a_worker_for_each_core() -> None:
    """Also when it is asked for while the system runs."""
    async with supervised(answers()) as supervisor:
        auto = WorkerSpec("a", "tests.engine.entries:answers", count="auto")
        await supervisor.reload([auto], only=(), reason="file changed")
        assert len(supervisor.workers) == auto.size == worker_count()


@pytest.mark.parametrize("options", [{"memory_limit": 0}, {"watchdog": 0}, {"watchdog": -1.0}, {"count": -1}])
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    """Before anything is started."""
    with pytest.raises(ValueError, match="must be"):
        WorkerSpec("a", "m:f", **options)


@pytest.mark.both_loops
async def test_loop_lag_is_how_late_timers_fire() -> None:
    """The longest since it was last asked for, and all of them in a histogram."""
    lag = LoopLag()
    lag.start()
    loop = asyncio.get_running_loop()
    loop.call_soon(block, 0.3)
    await eventually(lambda: sum(lag.histogram.counts) >= 2)
    assert 0.15 < lag.take_worst() < 5
    lag.stop()
    lag.stop()
    count = sum(lag.histogram.counts)
    assert lag.take_worst() == 0
    assert lag.samples == []
    lag.sum_up()
    assert lag.samples[-1].value == count


def block(seconds: float) -> None:
    """Block the loop."""
    time.sleep(seconds)
