"""A program's life, driven by real signals."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from structlog.testing import capture_logs

from forebay.engine import serve_until_signalled
from forebay.errors import ConfigError, CrashLoop, Problem, StartError
from tests.support import eventually

pytestmark = pytest.mark.both_loops


class Fake:
    """A service that notes its life; its drain takes until ``finish`` is set."""

    name = "fake"

    def __init__(self, *, fail: Exception | None = None, slow_start: bool = False, busy: bool = False) -> None:
        self.life: list[str] = []
        self.fail = fail
        self.slow_start = slow_start
        self.finish = asyncio.Event()
        if not busy:
            self.finish.set()

    async def start(self) -> None:
        self.life.append("start")
        if self.slow_start:
            await asyncio.Event().wait()
        if self.fail is not None:
            raise self.fail

    async def drain(self) -> None:
        self.life.append("drain")
        await self.finish.wait()
        self.life.append("drained")

    async def stop(self) -> None:
        self.life.append("stop")


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


async def started(service: Fake, **options: object) -> asyncio.Task[int]:
    """The program, running."""
    task = asyncio.create_task(serve_until_signalled(service, **options))  # type: ignore[arg-type]  # passed on as is
    await eventually(lambda: service.life or task.done())
    await asyncio.sleep(0.01)
    return task


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(number: signal.Signals) -> None:
    """It is told first, then drained, then stopped; the exit code is 0 and the signal handlers are gone."""
    service = Fake()
    names: list[str] = []
    task = await started(service, on_signal=names.append)
    send(number)
    assert await asyncio.wait_for(task, 5) == 0
    assert service.life == ["start", "drain", "drained", "stop"]
    assert names == [number.name]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


async def test_the_drain_deadline_cuts_and_says_so() -> None:
    """What is left at the deadline is cut, that is logged, and the exit code is 1."""
    service = Fake(busy=True)
    with capture_logs() as logs:
        task = await started(service, drain_timeout=0.1)
        send(signal.SIGTERM)
        assert await asyncio.wait_for(task, 5) == 1
    assert service.life == ["start", "drain", "stop"]
    assert any("drain deadline reached" in entry["event"] for entry in logs)


async def test_a_service_that_cuts_by_itself_has_longer() -> None:
    """What is logged is the deadline for what is in flight, not when we would lose patience with the service."""
    service = Fake(busy=True)
    with capture_logs() as logs:
        task = await started(service, drain_timeout=0.05, cut_timeout=5.0)
        send(signal.SIGTERM)
        await asyncio.sleep(0.2)
        service.finish.set()
        assert await asyncio.wait_for(task, 5) == 0
    assert service.life == ["start", "drain", "drained", "stop"]
    assert [entry["seconds"] for entry in logs if entry["event"] == "draining"] == [0.05]


async def test_a_second_sigint_forces() -> None:
    """The second one does not wait; a second SIGTERM changes nothing."""
    service = Fake(busy=True)
    task = await started(service)
    send(signal.SIGTERM)
    await eventually(lambda: "drain" in service.life)
    send(signal.SIGTERM)
    await asyncio.sleep(0.05)
    assert not task.done()
    send(signal.SIGINT)
    assert await asyncio.wait_for(task, 5) == 1
    assert service.life == ["start", "drain", "stop"]


async def test_start_that_fails() -> None:
    """The error comes out as it is, after the service was stopped."""
    service = Fake(fail=StartError("cannot listen"))
    with pytest.raises(StartError, match="cannot listen"):
        await asyncio.wait_for(serve_until_signalled(service), 5)
    assert service.life == ["start", "stop"]


async def test_a_signal_while_starting() -> None:
    """It gives the start up; there is nothing to drain."""
    service = Fake(slow_start=True)
    task = await started(service)
    send(signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0
    assert service.life == ["start", "stop"]


async def test_a_drain_that_fails() -> None:
    """It is logged, the service is stopped, and the exit code is 1."""

    class Broken(Fake):
        async def drain(self) -> None:
            raise ValueError("broken")

    service = Broken()
    with capture_logs() as logs:
        task = await started(service)
        send(signal.SIGTERM)
        assert await asyncio.wait_for(task, 5) == 1
    assert service.life == ["start", "stop"]
    assert "drain failed" in [entry["event"] for entry in logs]


async def test_reload() -> None:
    """SIGHUP calls it, one call at a time; signals that come meanwhile make one more; failures are logged."""
    calls: list[int] = []
    go = asyncio.Event()

    async def reload() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            await go.wait()
            raise ConfigError("x.toml", [Problem("nonsense")])
        if len(calls) == 2:
            raise ValueError("broken")

    service = Fake()
    with capture_logs() as logs:
        task = await started(service, on_reload=reload)
        send(signal.SIGHUP)
        await eventually(lambda: calls)
        for _ in range(3):
            send(signal.SIGHUP)
            await asyncio.sleep(0.01)
        assert calls == [0]
        go.set()
        await eventually(lambda: len(calls) == 2)
        await asyncio.sleep(0.01)
        send(signal.SIGHUP)
        await eventually(lambda: len(calls) == 3)
        send(signal.SIGTERM)
        assert await asyncio.wait_for(task, 5) == 0
    failures = [entry for entry in logs if entry["event"] == "reload failed"]
    assert failures[0]["reason"] == "x.toml: nonsense"
    assert failures[1]["exc_info"] is True
    assert len(failures) == 2


async def test_a_reload_that_hangs_does_not_keep_from_draining() -> None:
    """It is cancelled before the drain begins."""
    reloading = asyncio.Event()

    async def reload() -> None:
        reloading.set()
        await asyncio.Event().wait()

    service = Fake()
    task = await started(service, on_reload=reload)
    send(signal.SIGHUP)
    await asyncio.wait_for(reloading.wait(), 5)
    send(signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0


async def test_sighup_without_a_reload() -> None:
    """It does not end the program, which it would by default."""
    service = Fake()
    task = await started(service)
    send(signal.SIGHUP)
    await asyncio.sleep(0.05)
    assert not task.done()
    send(signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0


@pytest.mark.parametrize("error", [CrashLoop("worker a died 5 times"), None])
async def test_a_service_that_ends_by_itself(error: Exception | None) -> None:
    """One that gives up is drained and stopped, with exit code 1 and its reason; one that just ends, with 0."""

    class Ending(Fake):
        async def wait(self) -> None:
            if error is not None:
                raise error

    service = Ending()
    with capture_logs() as logs:
        assert await asyncio.wait_for(serve_until_signalled(service), 5) == (0 if error is None else 1)
    assert service.life == ["start", "drain", "drained", "stop"]
    if error is not None:
        assert [entry["reason"] for entry in logs if entry["event"] == "giving up"] == ["worker a died 5 times"]
